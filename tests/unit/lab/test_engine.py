"""A lab that dies is tried again and counted, and is not confused with a failed command."""

from __future__ import annotations

from pathlib import Path

import pytest

from cprlib.errors import LabLost
from cprlib.lab.engine import Attempt, LabCommand, LabStreams, run_in_lab

pytestmark = pytest.mark.fast

COMMAND = LabCommand(("true",), Path("/"), {})


class DyingEngine:
    """Loses its first labs; then the command ends with status 1."""

    def __init__(self, deaths: int) -> None:
        self.deaths = deaths
        self.started = 0

    def attempt(self, command: LabCommand, streams: LabStreams) -> Attempt:  # noqa: ARG002
        self.started += 1
        if self.started <= self.deaths:
            raise LabLost("run a command in a lab", f"death {self.started}")
        return Attempt(1, 5.0)


def streams(lost: list[int]) -> LabStreams:
    return LabStreams(lambda _: None, lambda _: None, lambda attempt, _: lost.append(attempt))


def test_failed_command_is_not_repeated() -> None:
    engine, lost = DyingEngine(0), list[int]()
    assert run_in_lab(engine, COMMAND, streams(lost)) == 1
    assert (engine.started, lost) == (1, [])


def test_lost_lab_is_tried_again_and_counted() -> None:
    engine, lost = DyingEngine(1), list[int]()
    assert run_in_lab(engine, COMMAND, streams(lost)) == 1
    assert (engine.started, lost) == (2, [1])


def test_two_lost_labs_raise_lab_lost() -> None:
    engine, lost = DyingEngine(9), list[int]()
    with pytest.raises(LabLost, match="2 labs in a row died; the last one: death 2"):
        run_in_lab(engine, COMMAND, streams(lost))
    assert (engine.started, lost) == (2, [1, 2])
