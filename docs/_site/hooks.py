"""Hooks of MkDocs: they add the reference to docs/ when the site is built.

Commands are described by their own ``--help``, modules by their docstrings, packages by the import contract in
pyproject.toml, so that the site always matches the code.
"""

from __future__ import annotations

import ast
import html
import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import grimp
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

from cprlib.cli.main import cprlib

TOP = Path(__file__).resolve().parents[2]
PACKAGE = TOP / "cprlib"
PACKAGES_PAGE = "packages.md"
COMMANDS_PAGE = "reference/commands.md"
NOT_SHOWN = {"cli"}  # the page of the commands is its reference
PACKAGES = """\
# Packages and their imports

A package may import the packages above it in this table. `tox -e lint` refuses any other import: the contracts are in
pyproject.toml. [Architecture](architecture.md) says how a run uses the packages.

| package | subject | imports |
| --- | --- | --- |
{rows}
"""
FETCHED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["']?(?:https?:)?//[^"'> ]+"""
    r"""|<link\b(?![^>]*rel=["']canonical)[^>]*\bhref=["']?(?:https?:)?//[^"'> ]+"""
    r"""|(?:url\(|@import)\s*["']?(?:https?:)?//[^"') ]+"""
)
ROLE = re.compile(r":(?:func|class|mod|meth|attr|data|exc|obj):(<code>)~?([^<]*)(</code>)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Append the generated pages to the navigation."""
    modules = [{name: f"reference/{name}.md"} for name in documented_parts()]
    config.nav = [*(config.nav or []), {"Reference": [{"Commands": COMMANDS_PAGE}, *modules]}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Generate the pages."""
    pages = {COMMANDS_PAGE: commands_page(), PACKAGES_PAGE: packages_page()}
    pages |= {f"reference/{name}.md": module_page(name) for name in documented_parts()}
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_content(content: str, **_: object) -> str:
    """Show Sphinx roles as code: ``:func:`x``` becomes ``x``."""
    return ROLE.sub(lambda found: f"{found[1]}{found[2]}{found[3]}", content)


def on_post_build(config: MkDocsConfig) -> None:
    """Refuse a site that loads anything from the network: pages work offline."""
    for path in sorted(Path(config.site_dir).rglob("*")):
        if path.suffix in (".html", ".css"):
            found = FETCHED.search(path.read_text(encoding="utf-8"))
            if found:
                raise PluginError(f"{path} loads {found[0]!r} from the network; ship the file or remove the reference")


def layers() -> Sequence[str]:
    """Packages and top-level modules of cprlib, in import order: the first one imports none of the others."""
    settings = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    names: list[str] = next(contract["layers"] for contract in contracts if contract["id"] == "order")
    return names[::-1]


def documented_parts() -> Sequence[str]:
    """Those that get a page in the reference."""
    return [name for name in layers() if name not in NOT_SHOWN]


def docstring(name: str) -> str:
    """Docstring of a package or of a top-level module."""
    folder = PACKAGE / name
    path = folder / "__init__.py" if folder.is_dir() else PACKAGE / f"{name}.py"
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def module_page(name: str) -> str:
    """The reference of a package: the public members of each of its modules."""
    folder = PACKAGE / name
    if not folder.is_dir():
        return f"# cprlib.{name}\n\n::: cprlib.{name}\n"
    paths = (path.relative_to(PACKAGE).with_suffix("") for path in sorted(folder.rglob("[!_]*.py")))
    modules = "\n".join(f"::: cprlib.{'.'.join(path.parts)}\n" for path in paths)
    return f"# cprlib.{name}\n\n{docstring(name)}\n\n{modules}"


def packages_page() -> str:
    """A table of the packages: their subjects and their imports."""
    graph = grimp.build_graph("cprlib")
    for child in graph.find_children("cprlib"):
        graph.squash_module(child)
    rows = []
    for name in layers():
        imported = graph.find_modules_directly_imported_by(f"cprlib.{name}")
        below = ", ".join(other for other in layers() if f"cprlib.{other}" in imported)
        title = name if name in NOT_SHOWN else f"[{name}](reference/{name}.md)"
        rows.append(f"| {title} | {docstring(name).splitlines()[0]} | {below} |")
    return PACKAGES.format(rows="\n".join(rows))


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
