"""A command with a terminal in a lab: ``cprlib lab shell``."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import termios
import tty
from collections.abc import Iterator

from cprlib.lab.engine import Lab, LabCommand, LabEngine, standard_streams


@contextlib.contextmanager
def raw_terminal(descriptor: int) -> Iterator[None]:
    """Hand every key on as it is, Ctrl-C too: the terminal inside the lab gives them their meaning."""
    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSAFLUSH, before)


def run_shell(engine: LabEngine, command: LabCommand) -> int:
    """Run a command with this process's terminal; it is not tried again when the lab dies.

    :returns: the command's exit status, 128 and the number of the signal that killed it.
    """
    size = os.get_terminal_size(sys.stdin.fileno())
    command = dataclasses.replace(command, terminal=(size.lines, size.columns))
    streams = dataclasses.replace(standard_streams(), input=sys.stdin.fileno())
    with raw_terminal(sys.stdin.fileno()):
        outcome = Lab(engine, attempts=1).run(command, streams)
    return outcome.returncode if outcome.returncode >= 0 else 128 - outcome.returncode
