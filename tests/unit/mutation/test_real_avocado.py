"""Cells that a real Avocado ran: evidence and statuses come as the judge expects them."""

from __future__ import annotations

from pathlib import Path

import pytest

from cprlib.campaign.mutation.cell import CellRecord, CellRun
from cprlib.campaign.mutation.outcome import CellOutcome, judge_folder
from cprlib.campaign.mutation.tests import SuiteTest, list_tests
from tests.unit.mutation.samples import POLICIES

SOURCE = """
from pathlib import Path
from avocado import Test
from cprlib.report.results_folder import start_case
from cprlib.evidence.case import CaseEvidence, Check, Mechanism, Outcome, Role

class Light(Test):
    def evidence(self, case, outcome):
        folder = start_case(Path(self.outputdir), case, test=str(self.name))
        evidence = CaseEvidence(case, Mechanism.NONE, Role.CHECKS, test=str(self.name), started_ns=1)
        evidence.with_checks(Check("tap", outcome, "x", "y", f"{self.params.get('qemu')} is bad")).write(folder)

    def test_detects(self):
        self.evidence("detects", Outcome.FAIL)
        raise OSError("the target died")

    def test_crashes(self):
        self.evidence("crashes", Outcome.PASS)
        raise KeyError("net0")
"""


@pytest.fixture
def tests(tmp_path: Path) -> dict[str, SuiteTest]:
    (tmp_path / "suite").mkdir()
    (tmp_path / "suite" / "test_light.py").write_text(SOURCE)
    return {test.id: test for test in list_tests(tmp_path / "suite")}


def test_failing_evidence_detects_and_an_exception_is_a_crash(tmp_path: Path, tests: dict[str, SuiteTest]) -> None:
    assert list(tests) == ["detects", "crashes"]
    cells = {}
    for name, test in tests.items():
        record = CellRecord("variants/x", name, "key")
        folder = CellRun(tmp_path / "aside", None).run(record, test, {"qemu": "/the/qemu"})
        assert CellRecord.read(folder).seconds > 0
        assert not list(folder.glob("avocado/latest"))
        cells[name] = judge_folder(folder, POLICIES)
    assert (cells["detects"].outcome, cells["detects"].messages) == (CellOutcome.DETECTED, ("tap: /the/qemu is bad",))
    assert cells["crashes"].outcome == CellOutcome.CRASHED
    assert "net0" in cells["crashes"].messages[0]
