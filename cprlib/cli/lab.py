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

from cprlib.build.lab_kernel import build_lab_kernel
from cprlib.build.progress import console_progress
from cprlib.cleanup import temporary_folder
from cprlib.errors import UsageError
from cprlib.lab.engine import DEFAULT_MEMORY_MIB, Lab, LabCommand, LabEngine, standard_streams
from cprlib.lab.engines import ENGINES, make_engine


@click.group()
def lab() -> None:
    """Use a lab: a disposable kernel with tun, vhost-net and kcmp that cannot write files of the host."""


def _command(argv: tuple[str, ...], results: Path, memory: int, seconds: float) -> LabCommand:
    return LabCommand(argv=argv, cwd=Path.cwd(), results=results.resolve(), memory=memory, seconds=seconds)


engine_option = click.option(
    "--engine", type=click.Choice(ENGINES), default="uml", show_default=True, help="Kind of lab."
)
memory_option = click.option("--memory", default=DEFAULT_MEMORY_MIB, show_default=True, help="Memory in MiB.")


@lab.command(name="run", context_settings={"ignore_unknown_options": True})
@engine_option
@memory_option
@click.option("--seconds", default=600.0, show_default=True, help="Time after which the command is terminated.")
@click.option("--results", type=click.Path(path_type=Path), help="The only folder that the lab can write.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(engine: str, memory: int, seconds: float, results: Path | None, command: tuple[str, ...]) -> int:
    """Run COMMAND in a fresh lab. Its output is passed on while it runs, and its exit status is returned."""
    if results is not None and not results.is_dir():
        raise UsageError(f"write results to {results}", "no such folder", "create it first")
    kernel = build_lab_kernel(console_progress()) if engine == "uml" else None
    with temporary_folder("cprlib-lab-") as nowhere:
        folder = results or nowhere
        outcome = Lab(make_engine(engine, kernel)).run(_command(command, folder, memory, seconds), standard_streams())
    return outcome.returncode if outcome.returncode >= 0 else 128 - outcome.returncode


@lab.command()
@engine_option
@memory_option
@click.option("--results", type=click.Path(path_type=Path), help="The only folder that the lab can write.")
def shell(engine: str, memory: int, results: Path | None) -> int:
    """A shell in a fresh lab."""
    if not sys.stdin.isatty():
        raise UsageError("open a shell in a lab", "standard input is not a terminal", "use `cprlib lab run -- COMMAND`")
    kernel = build_lab_kernel(console_progress()) if engine == "uml" else None
    program = os.environ.get("SHELL") or shutil.which("bash") or "/bin/sh"
    with temporary_folder("cprlib-lab-") as nowhere:
        folder = results or nowhere
        return run_shell(make_engine(engine, kernel), _command((program,), folder, memory, 24 * 3600.0))


@contextlib.contextmanager
def raw_terminal(descriptor: int) -> Iterator[None]:
    """Pass every key on, Ctrl-C too: the terminal inside the lab interprets them."""
    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSAFLUSH, before)


def run_shell(engine: LabEngine, command: LabCommand) -> int:
    """Run a command with the terminal of this process, without a second attempt when the lab dies.

    :returns: exit status of the command, or 128 plus the number of the signal that killed it.
    """
    size = os.get_terminal_size(sys.stdin.fileno())
    command = dataclasses.replace(command, terminal=(size.lines, size.columns))
    streams = dataclasses.replace(standard_streams(), input=sys.stdin.fileno())
    with raw_terminal(sys.stdin.fileno()):
        outcome = Lab(engine, attempts=1).run(command, streams)
    return outcome.returncode if outcome.returncode >= 0 else 128 - outcome.returncode
