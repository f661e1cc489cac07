"""What ``--resume`` of prove, soak and compare has in common."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
from click.core import ParameterSource

from cprlib.errors import UsageError


def refuse_with_resume(context: click.Context, allowed: Sequence[str]) -> None:
    """Refuse options that the session already has from its beginning.

    :param allowed: parameters of the command that may be given with ``--resume``.
    :raises UsageError: another one was given.
    """
    command = context.info_name
    for parameter in context.command.params:
        name = parameter.name or ""
        if context.get_parameter_source(name) == ParameterSource.COMMANDLINE and name not in allowed:
            option = max(parameter.opts, key=len)
            option = f"{option} or {parameter.secondary_opts[0]}" if parameter.secondary_opts else option
            happened = "a resumed session keeps the request that it began with"
            raise UsageError(f"resume cprlib {command} with {option}", happened, f"leave {option} out")


@contextlib.contextmanager
def hint_resume(command: str, session: Path, out: Path, usual: Path) -> Iterator[None]:
    """Say how to resume when the body is interrupted.

    :param session: folder of the session.
    :param out: folder of all sessions; named in the hint unless it is the usual one.
    """
    try:
        yield
    except KeyboardInterrupt:
        again = shlex.join(["cprlib", command, "--resume", *(["--out", str(out)] if out != usual else [])])
        click.echo(f"results so far are in {session}; resume with: {again}", err=True)
        raise
