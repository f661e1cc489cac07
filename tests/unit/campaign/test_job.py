"""Jobs that a real Avocado runs: evidence and statuses are as the judge expects them."""

from __future__ import annotations

from pathlib import Path

import pytest

from cprlib.campaign.job import SuiteTest, list_tests, require_tests
from cprlib.campaign.outcome import JobOutcome, judge_folder
from cprlib.campaign.session import Session
from cprlib.errors import UsageError
from cprlib.report.results_folder import LOG_FILE
from tests.unit.compare.samples import ASSETS
from tests.unit.mutation.samples import POLICIES, put_job

SOURCE = """
from pathlib import Path
from avocado import Test
from cprlib.report.results_folder import start_case
from cprlib.evidence.case import CaseEvidence
from cprlib.evidence.records import Check, Outcome, Role
from cprlib.update.mechanism import Mechanism

class Light(Test):
    def evidence(self, case, outcome):
        folder = start_case(Path(self.outputdir), case, test=str(self.name))
        evidence = CaseEvidence(case, Mechanism.NONE, Role.CHECKS, test=str(self.name), started_ns=1)
        evidence.with_checks(Check("tap", outcome, "x", "y", f"{self.params.get('qemu')} is bad")).write(folder)

    def test_fails(self):
        self.evidence("fails", Outcome.FAIL)
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


def test_failed_evidence_fails_and_an_exception_is_a_crash(tmp_path: Path, tests: dict[str, SuiteTest]) -> None:
    assert list(tests) == ["fails", "crashes"]
    session, judged = Session(tmp_path, tmp_path / "partial", ASSETS, None), {}
    for name, test in tests.items():
        job = session.run(name, test, {"qemu": "/the/qemu"})
        assert job
        assert job.seconds > 0
        assert not list(job.folder.glob("avocado/latest"))
        judged[name] = judge_folder(job.folder, POLICIES)
    assert (judged["fails"].outcome, judged["fails"].messages) == (JobOutcome.FAILED, ("tap: /the/qemu is bad",))
    assert judged["crashes"].outcome == JobOutcome.CRASHED
    assert "net0" in judged["crashes"].messages[0]


def test_job_without_a_report_has_the_reason_in_its_log(tmp_path: Path) -> None:
    session = Session(tmp_path, tmp_path / "partial", ASSETS, None)
    session.report(tmp_path, "default")
    assert "it holds no run" in (tmp_path / LOG_FILE).read_text()
    put_job(tmp_path / "job", "FAIL", "verdict: fail: x")
    session.report(tmp_path / "job", "default")
    assert (tmp_path / "job" / "report.html").exists()


def test_a_reference_without_a_test_is_refused(tmp_path: Path, tests: dict[str, SuiteTest]) -> None:
    file = tests["fails"].file
    other = tmp_path / "suite" / "none.py"
    other.write_text("")
    for good in (str(file), str(file.parent), f"{file}:Light.test_fails", f"{file}:Light.test_.*s"):
        require_tests([good])
    for bad in (f"{file}:Light.test_nope", f"{file}:(", str(other)):
        with pytest.raises(UsageError, match="it names no test"):
            require_tests([str(file), bad])
    with pytest.raises(UsageError, match="none has tag nosuch"):
        require_tests([str(file)], ["nosuch"])
