"""A source that quits while it waits for its target: all its events count, also those that are read later."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

import test_source_alone as module
from cprlib.deadline import Deadline
from cprlib.errors import QemuFailed
from cprlib.evidence.case import CaseEvidence
from cprlib.evidence.records import Outcome, Role
from cprlib.qemu.machine import Machine
from cprlib.testing.checks import CaseChecks
from cprlib.testing.measured_case import MeasuredCase
from cprlib.update.mechanism import Mechanism

pytestmark = pytest.mark.fast


class Qmp:
    """A connection whose last event is read when something waits for one."""

    def __init__(self, last: str) -> None:
        self.events = [SimpleNamespace(name="MIGRATION")]
        self._last = last

    def wait_event(self, name: str, *, deadline: Deadline, after: int) -> None:  # noqa: ARG002
        self.events.append(SimpleNamespace(name=self._last))
        if name != self._last:
            raise QemuFailed(f"wait for {name}", "the connection broke")


@pytest.mark.parametrize(("last", "outcome"), [("RESUME", Outcome.FAIL), ("SHUTDOWN", Outcome.PASS)])
def test_an_event_that_is_read_after_the_end_counts(
    last: str, outcome: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = nullcontext(SimpleNamespace(name="cpr", wait_held=lambda _: None))
    monkeypatch.setattr(module, "ChannelProxy", lambda _: held)
    monkeypatch.setattr(module, "start_update", lambda *_: "")
    case = CaseChecks(tmp_path, CaseEvidence("x", Mechanism.CPR, Role.CHECKS, updates=1))
    machine = SimpleNamespace(qmp=Qmp(last), namespace=None, quit=lambda: 0)
    module.quit_while_waiting(cast("MeasuredCase", case), cast("Machine", machine))
    assert [check.outcome for check in case.evidence.checks] == [outcome]
