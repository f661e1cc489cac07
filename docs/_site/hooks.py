"""What MkDocs adds to docs/ when it builds the site: the reference of commands and of modules.

Commands come from their own ``--help``, modules from their docstrings, so neither can lag behind the code.
"""

from __future__ import annotations

import ast
import html
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

from cprlib.cli.main import cprlib

sys.path.insert(0, str(Path(__file__).parent))
import package_imports  # beside this file, which MkDocs loads by its path

PACKAGE = package_imports.PACKAGE
PACKAGES_PAGE, PICTURE = "packages.md", "_assets/imports.svg"
COMMANDS_PAGE = "reference/commands.md"
NOT_SHOWN = {"cli"}  # its reference is the commands
FETCHED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["']?(?:https?:)?//[^"'> ]+"""
    r"""|<link\b(?![^>]*rel=["']canonical)[^>]*\bhref=["']?(?:https?:)?//[^"'> ]+"""
    r"""|(?:url\(|@import)\s*["']?(?:https?:)?//[^"') ]+"""
)
ROLE = re.compile(r":(?:func|class|mod|meth|attr|data|exc|obj):(<code>)~?([^<]*)(</code>)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the generated pages behind those of docs/."""
    modules = [{name: f"reference/{name}.md"} for name in parts()]
    config.nav = [*(config.nav or []), {"Reference": [{"Commands": COMMANDS_PAGE}, *modules]}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Make the generated pages."""
    made = {COMMANDS_PAGE: commands_page(), PACKAGES_PAGE: packages_page(), PICTURE: package_imports.picture()}
    pages = made | {f"reference/{name}.md": module_page(name) for name in parts()}
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_content(content: str, **_: object) -> str:
    """Docstrings are written for Sphinx too: ``:func:`x``` is shown as ``x``."""
    return ROLE.sub(lambda found: f"{found[1]}{found[2]}{found[3]}", content)


def on_post_build(config: MkDocsConfig) -> None:
    """Refuse a site that fetches anything when it is read: pages work offline."""
    for path in sorted(Path(config.site_dir).rglob("*")):
        if path.suffix in (".html", ".css"):
            found = FETCHED.search(path.read_text(encoding="utf-8"))
            if found:
                raise PluginError(f"{path} fetches {found[0]!r} when it is read; carry it along or leave it out")


def parts() -> list[str]:
    """The packages of cprlib and the modules beside them, in the order of their imports (cprlib/__init__.py)."""
    return [name for name in package_imports.order() if name not in NOT_SHOWN]


def module_page(name: str) -> str:
    """The page of a package: each of its modules, as far as it has anything public."""
    folder = PACKAGE / name
    modules = [f"cprlib.{name}.{path.stem}" for path in sorted(folder.glob("[!_]*.py"))] if folder.is_dir() else []
    first = f"# cprlib.{name}\n\n"
    if not modules:
        return f"{first}::: cprlib.{name}\n"
    about = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    return first + about + "\n\n" + "\n".join(f"::: {module}\n" for module in modules)


def packages_page() -> str:
    """The packages and their imports, drawn from the sources."""
    names = package_imports.order()
    rows = "\n".join(f"| [{name}](reference/{name}.md) | {package_imports.SUBJECTS[name]} |" for name in parts())
    return f"""# Packages and their imports

A package may import those before it, never those after it, so that each can be read, tested and thrown away without
those that come later. The picture is drawn from the sources when this site is built; a unit test
(`tests/unit/docs/test_package_imports.py`) refuses an import against the order.

![Which of the {len(names)} parts of cprlib imports which: every dot is left of the diagonal]({PICTURE})

A dot: the row's part imports the column's. A square is the part itself; a dot to the right of it would be an import
against the order. How a run uses them is in [Architecture](architecture.md).

| part | subject |
| --- | --- |
{rows}
"""


def commands_page() -> str:
    """Every command's help, as the command prints it."""
    sections = [f"## {title}\n\n<pre>{html.escape(text)}</pre>\n" for title, text in helps(cprlib, None, "cprlib")]
    return "# Commands\n\nWhat each command prints with `--help`.\n\n" + "\n".join(sections)


def helps(command: click.Command, parent: click.Context | None, name: str) -> Iterator[tuple[str, str]]:
    """Title and help of a command and of all below it."""
    context = click.Context(command, parent, info_name=name, max_content_width=100, terminal_width=100)
    yield context.command_path, command.get_help(context)
    if isinstance(command, click.Group):
        for below in command.list_commands(context):
            found = command.get_command(context, below)
            if found is not None:
                yield from helps(found, context, below)
