"""Additions that QEMU has to refuse: one that it accepts is a failed check."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from cprlib.errors import QmpRefused
from cprlib.evidence.case import CaseEvidence
from cprlib.evidence.records import Outcome, Role
from cprlib.testing.checks import CaseChecks
from cprlib.testing.measured_case import MeasuredCase
from cprlib.update.mechanism import Mechanism
from tap_programs import Programs
from test_netdev_cleanup import expect_no_worse_with_cpr

pytestmark = pytest.mark.fast


@dataclass
class Monitor:
    """A QEMU's monitor that refuses a netdev with a helper, or accepts it.

    :param keeps_ids: it refuses the next netdev, too.
    """

    accepts: bool
    keeps_ids: bool = False
    commands: list[str] = field(default_factory=list)

    def execute(self, command: str, arguments: Mapping[str, object]) -> None:
        self.commands.append(command)
        if command == "netdev_add" and not self.accepts and ("helper" in arguments or self.keeps_ids):
            raise QmpRefused(f"add {arguments['id']}", "bridge helper failed", error_class="GenericError")


def checked(folder: Path, monitor: Monitor) -> dict[str, Outcome]:
    checks = CaseChecks(folder, CaseEvidence("x", Mechanism.CPR, Role.CHECKS, updates=1))
    guest = SimpleNamespace(machine=SimpleNamespace(pid=os.getpid(), qmp=monitor))
    checks.guest = guest  # type: ignore[attr-defined]
    expect_no_worse_with_cpr(cast(MeasuredCase, checks), Programs.made_in(folder), 0)
    return {check.name: check.outcome for check in checks.evidence.checks}


def test_a_netdev_whose_helper_failed_must_be_refused(tmp_path: Path) -> None:
    assert set(checked(tmp_path, Monitor(accepts=False)).values()) == {Outcome.PASS}
    keeping = checked(tmp_path, Monitor(accepts=False, keeps_ids=True))
    assert [name for name, outcome in keeping.items() if outcome is Outcome.FAIL] == ["helper-failure-frees-id"]
    accepting = Monitor(accepts=True)
    assert checked(tmp_path, accepting)["helper-failure-is-refused"] is Outcome.FAIL
    assert accepting.commands[:2] == ["netdev_add", "netdev_del"]
