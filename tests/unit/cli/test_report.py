"""``cprlib report`` on the results of runs that ended in any way."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cprlib.cli.main import main
from cprlib.errors import ExitStatus
from cprlib.evidence.records import Outcome
from cprlib.report.results_folder import UNFINISHED
from cprlib.traffic.figures import PerDirection
from tests.unit.evidence.samples import good_case

ENDED = {"pid": 2**22, "started": 5, "boot": "another"}  # a process that no longer runs


def killed_run(folder: Path, *job_folders: str) -> Path:
    """A run that was killed while its tests ran: the evidence of a test that failed is in Avocado's folders."""
    for name in job_folders:
        case = replace(good_case(name), loss=PerDirection(2, 0), unexplained=2, concluded=Outcome.FAIL)
        case.write(folder / name / "job-1" / "test-results" / "1-t.py_T.test_x" / "data" / "cases" / name)
    (folder / "cases").mkdir(parents=True)
    (folder / UNFINISHED).write_text(json.dumps(ENDED))
    return folder


@pytest.mark.parametrize("jobs", [(), ("avocado",), ("avocado", "avocado-repeats")])
def test_evidence_of_a_killed_run_is_judged(
    jobs: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = killed_run(tmp_path, *jobs)
    for _ in range(2):
        assert main(["report", str(folder)]) == (ExitStatus.FAIL if jobs else ExitStatus.INCONCLUSIVE)
        assert "the run was interrupted" in capsys.readouterr().out
        assert {path.name for path in (folder / "cases").iterdir()} == set(jobs)
