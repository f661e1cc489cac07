"""``cprlib completion``: the script for completion in a shell, and the functions that complete names."""

from __future__ import annotations

from collections.abc import Iterable

import click
from click.shell_completion import CompletionItem, get_completion_class

SHELLS = ("bash", "fish", "zsh")
VARIABLE = "_CPRLIB_COMPLETE"  # click's own name for it


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that completes commands, options, and names of policies, bases and mutants in SHELL."""
    completer = get_completion_class(shell)
    assert completer  # click has all of SHELLS
    click.echo(completer(context.find_root().command, {}, "cprlib", VARIABLE).source())


def policies(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Names of policies; files where the word looks like a path."""
    from cprlib.verdict.policy_file import shipped_policies

    del context, parameter
    if "/" in begun or begun.startswith("."):
        return [CompletionItem(begun, type="file")]
    return _names_or_files(shipped_policies(), begun)


def mutants(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Names of mutants, with their subjects where the shell shows them."""
    from cprlib.build.mutants import load_mutants

    del context, parameter
    return [CompletionItem(one.name, help=one.subject) for one in load_mutants() if one.name.startswith(begun)]


def bases(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """QEMU releases of images/qemu/bases.toml."""
    from cprlib.build.series import load_bases

    del context, parameter
    return _named(load_bases(), begun)


def tests(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Test files of the suite, relative to the project, and other files."""
    from cprlib.files import project_folder

    del context, parameter
    suite = sorted((project_folder() / "tests" / "functional").glob("test_*.py"))
    names = [str(path.relative_to(project_folder())) for path in suite]
    return _names_or_files(names, begun)


def _names_or_files(names: Iterable[str], begun: str) -> list[CompletionItem]:
    """Names and files. Files come first: the bash script of click drops names before a file entry."""
    return [CompletionItem(begun, type="file"), *_named(names, begun)]


def _named(names: Iterable[str], begun: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in names if name.startswith(begun)]
