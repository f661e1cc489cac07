"""Events of an Avocado job while it runs: one JSON line each, in a pipe to the process that started Avocado.

:mod:`cprlib.lab.events_plugin` writes them; :mod:`cprlib.lab.job_display` shows them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from cprlib.codec import BadValue, load_json

EVENTS_VARIABLE = "CPRLIB_JOB_EVENTS"  # number of the descriptor for the lines


class ChosenTests(msgspec.Struct, frozen=True, tag="tests-chosen"):
    """The tests of the job, by Avocado's names, in their order."""

    tests: tuple[str, ...]


class StartedTest(msgspec.Struct, frozen=True, tag="test-started"):
    """A test begins.

    :param number: in the job. :param test: Avocado's name of it, with its variant.
    """

    number: str
    test: str


class EndedTest(msgspec.Struct, frozen=True, tag="test-ended"):
    """A test has ended.

    :param status: Avocado's. :param reason: why it did not pass; may contain output of a guest.
    :param seconds: from its start, with its lab.
    """

    number: str
    test: str
    status: str
    seconds: float
    reason: str = ""


JobEvent = ChosenTests | StartedTest | EndedTest


def read_events(lines: Iterable[str], handle: Callable[[JobEvent], None]) -> None:
    """Read lines until their writer ends; a line that is not an event (a newer plugin's) is left out."""
    for line in lines:
        try:
            event: JobEvent = load_json(JobEvent, line)  # type: ignore[arg-type]  # mypy wants a class
        except BadValue:
            continue
        handle(event)
