"""``cprlib lab``: a command or a shell in a fresh lab."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import sys
import termios
import tty
from collections.abc import Iterator
from pathlib import Path

import click

from cprlib.cli.options import PATH, Number
from cprlib.errors import UsageError
from cprlib.lab.engine import (
    DEFAULT_MEMORY_MIB,
    ENGINES,
    LabCommand,
    LabEngine,
    run_in_lab,
    standard_streams,
)


@click.group()
def lab() -> None:
    """Use a lab: a disposable kernel with tun, vhost-net and kcmp that cannot write files of the host."""


memory_option = click.option(
    "--memory", type=click.IntRange(64), default=DEFAULT_MEMORY_MIB, show_default=True, help="Memory in MiB."
)
results_option = click.option("--results", type=PATH, help="The only folder that the lab can write; must exist.")


@lab.command(name="run", context_settings={"ignore_unknown_options": True})
@click.option("--engine", type=click.Choice(ENGINES), default="uml", show_default=True, help="Kind of lab.")
@memory_option
@click.option(
    "--seconds",
    type=Number(0, min_open=True),
    default=600.0,
    show_default=True,
    help="Time after which the command is terminated.",
)
@results_option
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(engine: str, memory: int, seconds: float, results: Path | None, command: tuple[str, ...]) -> int:
    """Run COMMAND in a fresh lab. Its output is passed on while it runs, and its exit status is returned."""
    with _lab(engine, memory, seconds, results, command) as (chosen, request):
        return _status(run_in_lab(chosen, request, standard_streams()))


@lab.command()
@memory_option
@results_option
def shell(memory: int, results: Path | None) -> int:
    """A shell in a fresh lab of engine uml; the other one has no terminal."""
    if not sys.stdin.isatty():
        raise UsageError("open a shell in a lab", "standard input is not a terminal", "use `cprlib lab run -- COMMAND`")
    program = os.environ.get("SHELL") or shutil.which("bash") or "/bin/sh"
    terminal = sys.stdin.fileno()
    size = os.get_terminal_size(terminal)
    streams = dataclasses.replace(standard_streams(), input=terminal)
    with _lab("uml", memory, 24 * 3600.0, results, (program,)) as (chosen, request):
        command = dataclasses.replace(request, terminal=(size.lines, size.columns))
        before = termios.tcgetattr(terminal)
        try:
            tty.setraw(terminal)  # every key is passed on, Ctrl-C too: the terminal inside the lab interprets them
            return _status(run_in_lab(chosen, command, streams, attempts=1))
        finally:
            termios.tcsetattr(terminal, termios.TCSAFLUSH, before)


@contextlib.contextmanager
def _lab(
    engine: str, memory: int, seconds: float, results: Path | None, argv: tuple[str, ...]
) -> Iterator[tuple[LabEngine, LabCommand]]:
    """The engine and the command; without a results folder the lab writes into a temporary one.

    :raises UsageError: there is no such results folder.
    """
    from cprlib.build.assets import build_lab
    from cprlib.build.progress import console_progress
    from cprlib.cleanup import temporary_folder
    from cprlib.lab.engines import make_engine
    from cprlib.report.results_folder import require_results

    if results is not None:
        require_results(results, "write results to", "create it first")
    kernel = build_lab(console_progress()) if engine == "uml" else None
    with temporary_folder("cprlib-lab-") as temporary:
        folder = (results or temporary).resolve()
        yield make_engine(engine, kernel), LabCommand(argv, Path.cwd(), results=folder, memory=memory, seconds=seconds)


def _status(returncode: int) -> int:
    """Exit status of the command, or 128 plus the number of the signal that killed it, as in shells."""
    return returncode if returncode >= 0 else 128 - returncode
