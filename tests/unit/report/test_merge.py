"""Shards become one run with one verdict, and nothing of them is lost silently."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cprlib.cli.main import main
from cprlib.errors import ExitStatus, UsageError
from cprlib.evidence.case import PerDirection
from cprlib.report.matrix import MatrixRecord, merge_results
from cprlib.report.pipeline import judge_results
from cprlib.verdict.policy_file import load_policy
from tests.unit.report.shards import MACHINE, point_case, put_shard

DEFAULT = load_policy("default")
POINTS = ("q1-tap", "q1-vhost", "q4-tap", "q4-vhost", "q8-tap")


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    return [put_shard(tmp_path / f"shard{number}", number, 3, POINTS) for number in (1, 2, 3)]


def merged(shards: list[Path], capsys: pytest.CaptureFixture[str]) -> tuple[int, Path, str]:
    """Exit status, folder and output of the command."""
    out = shards[0].parent / "merged"
    status = main(["report", "--merge", *map(str, shards), "--out", str(out)])
    printed = capsys.readouterr()
    return status, out / "latest", printed.out + printed.err


def test_all_shards_are_one_run_that_passes(shards: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(str(path) for folder in shards for path in folder.rglob("*"))
    status, folder, _ = merged([shards[2], shards[0], shards[1]], capsys)
    assert status == ExitStatus.PASS
    value = json.loads((folder / "run.json").read_text())
    assert {case["id"] for case in value["cases"]} == {f"update-{point}" for point in POINTS}
    assert value["environment"]["kernel"] == "6.12"
    assert (folder / "junit.xml").read_text().count("<testsuite ") == 3
    assert sorted(str(path) for path in shards[0].parent.glob("shard*/**/*")) == before
    record = MatrixRecord.read(folder)
    assert record is not None
    assert [shard.number for shard in record.shards] == [1, 2, 3]


def test_a_missing_shard_is_inconclusive_now_and_later(shards: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    status, folder, printed = merged([shards[0], shards[2]], capsys)
    assert status == ExitStatus.INCONCLUSIVE
    assert "shard 2/3 is missing: 2 points never ran: q1-vhost, q8-tap" in printed
    assert main(["report", str(folder)]) == ExitStatus.INCONCLUSIVE


def test_a_loss_in_one_shard_fails_the_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = replace(point_case("q1-vhost"), loss=PerDirection(3, 0))
    shards = [put_shard(tmp_path / str(number), number, 2, POINTS, change=bad) for number in (1, 2)]
    status, _, printed = merged(shards, capsys)
    assert status == ExitStatus.FAIL
    assert "update-q1-vhost" in printed


def test_a_missing_shard_is_told_of_a_run_that_fails_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = replace(point_case("q1-tap"), loss=PerDirection(3, 0))
    status, folder, printed = merged([put_shard(tmp_path / "1", 1, 2, POINTS, change=bad)], capsys)
    assert status == ExitStatus.FAIL
    assert printed.count("run: shard 2/2 is missing: 2 points never ran") == 1
    assert "shard 2/2 is missing" in json.loads((folder / "run.json").read_text())["problems"][0]


def test_a_point_that_its_shard_lost_is_missed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards = [
        put_shard(tmp_path / "1", 1, 2, POINTS, cases=("q1-tap", "q8-tap")),
        put_shard(tmp_path / "2", 2, 2, POINTS),
    ]
    status, _, printed = merged(shards, capsys)
    assert status == ExitStatus.INCONCLUSIVE
    assert "1 point of the matrix left no evidence: q4-tap" in printed


def test_a_job_that_was_interrupted_is_reported(shards: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    (shards[1] / "avocado" / "job-2" / "results.json").unlink()
    status, _, printed = merged(shards, capsys)
    assert status == ExitStatus.INCONCLUSIVE
    assert "was interrupted" in printed


def test_shards_of_two_commits_are_inconclusive(tmp_path: Path) -> None:
    first = put_shard(tmp_path / "1", 1, 2, POINTS)
    second = put_shard(tmp_path / "2", 2, 2, POINTS, machine=replace(MACHINE, commit="def"))
    merge_results([first, second], tmp_path / "m")
    report = judge_results(tmp_path / "m", DEFAULT)
    assert report.exit_status == ExitStatus.INCONCLUSIVE
    assert "different commits of this project: abc, def" in report.problems[0]


@pytest.mark.parametrize(("base", "status"), [("", ExitStatus.INCONCLUSIVE), ("10.0", ExitStatus.PASS)])
def test_two_brought_qemus_are_not_one_run_but_two_own_builds_are(tmp_path: Path, base: str, status: int) -> None:
    shards = [
        put_shard(tmp_path / str(number), number, 2, POINTS, base=base, sha256=str(number) * 64) for number in (1, 2)
    ]
    merge_results(shards, tmp_path / "m")
    report = judge_results(tmp_path / "m", DEFAULT)
    assert report.exit_status == status
    assert any("different QEMUs" in problem for problem in report.problems) == (base == "")


def test_machines_that_differ_stand_side_by_side(tmp_path: Path) -> None:
    other = replace(MACHINE, kernel="6.18", cores=8, mode="native", engine="")
    shards = [
        put_shard(tmp_path / str(number), number, 2, POINTS, machine=machine)
        for number, machine in ((1, MACHINE), (2, other))
    ]
    merge_results(shards, tmp_path / "m")
    both = judge_results(tmp_path / "m", DEFAULT).environment
    assert (both.kernel, both.cores, both.mode, both.python) == ("6.12 | 6.18", None, "", "3.13.1")


def refused(folders: list[Path], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        merge_results(folders, folders[0].parent / "m")


def test_what_does_not_belong_together_is_refused(shards: list[Path], tmp_path: Path) -> None:
    refused([shards[0], shards[0]], "both are shard 1/3")
    refused([shards[0], put_shard(tmp_path / "x", 2, 2, POINTS)], "one is of 3 shards, the other of 2")
    refused([shards[0], put_shard(tmp_path / "y", 2, 3, POINTS, name="night")], "have different points")
    refused([shards[0], put_shard(tmp_path / "z", 2, 3, POINTS[:3])], "have different points")
    refused([shards[0], tmp_path / "nothing"], "no such folder")
    (tmp_path / "plain").mkdir()
    refused([shards[0], tmp_path / "plain"], "not a run over a matrix")
    merge_results(shards, tmp_path / "m")
    refused([tmp_path / "m", shards[0]], "already a merged run")


def test_the_command_leaves_nothing_when_it_refuses(shards: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    status, folder, printed = merged([shards[0], shards[0]], capsys)
    assert status == ExitStatus.USAGE
    assert "both are shard 1/3" in printed
    assert list(folder.parent.iterdir()) == []


def test_usage_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--merge"]) == ExitStatus.USAGE
    assert main(["report", str(tmp_path), str(tmp_path)]) == ExitStatus.USAGE
    assert main(["report", str(tmp_path), "--out", str(tmp_path)]) == ExitStatus.USAGE
    assert "give one folder, or --merge to join several" in capsys.readouterr().err
