"""``cprlib report`` on the results of runs that ended in any way."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cprlib.cli.main import main
from cprlib.errors import ExitStatus
from cprlib.evidence.records import Outcome
from cprlib.report.build_report import build_report
from cprlib.report.environment import Environment
from cprlib.report.results_folder import UNFINISHED, new_results_folder
from cprlib.report.run_json import record_begin
from cprlib.traffic.figures import PerDirection
from cprlib.verdict.policy_file import load_policy
from tests.unit.evidence.samples import good_case
from tests.unit.report.samples import point_case, put_shard

ENDED = {"pid": 2**22, "started": 5, "boot": "another"}  # a process that no longer runs


def killed_run(folder: Path, *job_folders: str) -> Path:
    """A run that was killed while its tests ran: the evidence of a test that failed is in Avocado's folders."""
    for name in job_folders:
        case = replace(good_case(name), loss=PerDirection(2, 0), unexplained=2, concluded=Outcome.FAIL)
        case.write(folder / name / "job-1" / "test-results" / "1-t.py_T.test_x" / "data" / "cases" / name)
    (folder / "cases").mkdir(parents=True, exist_ok=True)
    begun = json.loads((folder / UNFINISHED).read_text()) if (folder / UNFINISHED).exists() else {}
    (folder / UNFINISHED).write_text(json.dumps(begun | ENDED))
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


def test_killed_run_keeps_policy_machine_and_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = new_results_folder(tmp_path)
    record_begin(folder, load_policy("strict"), Environment(mode="lab", kernel="6.1-x"), "cprlib run --qemu /q -t tap")
    killed_run(folder, "avocado")
    main(["report", str(folder)])
    assert "policy strict)" in capsys.readouterr().out
    value = json.loads((folder / "run.json").read_text())
    assert (value["policy"]["name"], value["environment"]["kernel"]) == ("strict", "6.1-x")
    assert value["groups"][0]["command"].startswith("cprlib run --qemu /q tests/functional/")


def test_merged_run_is_repeated_with_the_qemu_of_its_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    points, bad = ("q1-tap", "q1-vhost"), replace(point_case("q1-vhost"), loss=PerDirection(3, 0))
    shards = [put_shard(tmp_path / str(number), number, 2, points, change=bad) for number in (1, 2)]
    for number, folder in enumerate(shards, 1):
        command = f"cprlib run --matrix push --shard {number}/2 --qemu /q --lab kvm"
        build_report(folder, load_policy("default"), environment=Environment(), command=command)
    assert main(["report", "--merge", *map(str, shards), "--out", str(tmp_path / "m")]) == ExitStatus.FAIL
    assert "run again: cprlib run --qemu /q --lab kvm tests/functional/" in capsys.readouterr().out


def test_terminal_without_the_marks_gets_the_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good_case().write(tmp_path / "cases" / "good")
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="latin-1", write_through=True))
    assert main(["report", str(tmp_path), "--format", "md"]) == ExitStatus.PASS
    assert b"**? PASS**: 1 case: 1 pass" in written.getvalue()


def test_folder_without_a_run_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").touch()
    assert main(["report", str(tmp_path)]) == ExitStatus.USAGE
    assert "no run" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    (tmp_path / UNFINISHED).write_text(json.dumps(ENDED))
    assert main(["report", str(tmp_path)]) == ExitStatus.INCONCLUSIVE
