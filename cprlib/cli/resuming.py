"""Options that make no sense beside ``--resume``: what the work is was said when it was begun."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import click
from click.core import ParameterSource

from cprlib.errors import UsageError


def refuse_beside_resume(
    context: click.Context, allowed: Sequence[str], what: str, said: str, names: Mapping[str, str]
) -> None:
    """Refuse all options that were given, but those that say how the work is done.

    :param allowed: parameters of the command.
    :param what: the work is: ``a proof``.
    :param said: what the option says of it: ``what it is to show``.
    :param names: of options whose parameters have other names.
    :raises UsageError: another one was given.
    """
    given = [name for name in context.params if context.get_parameter_source(name) == ParameterSource.COMMANDLINE]
    foreign = [name for name in given if name not in allowed]
    if foreign:
        option = names.get(foreign[0], foreign[0].replace("_", "-"))
        raise UsageError(f"resume {what} with --{option}", f"{said} was said when it was begun", "leave it out")
