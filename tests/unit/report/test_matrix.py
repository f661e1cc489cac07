"""Runs over a matrix: names of points, missing points, and shards that become one run with one verdict."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cprlib.cli.main import main
from cprlib.errors import ExitStatus, InstrumentError, UsageError
from cprlib.report import build_report
from cprlib.report.build_report import judge_results
from cprlib.report.matrix import MatrixRecord, Shard, merge_results, point_name, shard_points
from cprlib.report.results_folder import BASELINE_FILE, UNFINISHED
from cprlib.traffic.figures import PerDirection
from cprlib.verdict.policy_file import load_policy
from tests.unit.report.samples import MACHINE, point_case, put_shard

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


def test_merged_shards_are_one_run(shards: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(str(path) for folder in shards for path in folder.rglob("*"))
    status, folder, _ = merged([shards[2], shards[0], shards[1]], capsys)
    assert status == ExitStatus.PASS
    value = json.loads((folder / "run.json").read_text())
    assert {case["id"] for case in value["cases"]} == {f"update-{point}" for point in POINTS}
    assert value["environment"]["kernel"] == "6.12"
    assert (folder / "junit.xml").read_text().count("<testcase ") == len(POINTS)
    assert sorted(str(path) for path in shards[0].parent.glob("shard*/**/*")) == before
    record = MatrixRecord.read(folder)
    assert record is not None
    assert [shard.number for shard in record.shards] == [1, 2, 3]


def test_missing_shard_is_inconclusive_now_and_later(shards: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    status, folder, printed = merged([shards[0], shards[2]], capsys)
    assert status == ExitStatus.INCONCLUSIVE
    assert "shard 2/3 is missing: 2 points never ran: q1-vhost, q8-tap" in printed
    assert main(["report", str(folder)]) == ExitStatus.INCONCLUSIVE


def test_policy_of_the_run_judges_it_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = put_shard(tmp_path / "1", 1, 1, POINTS)
    for arguments in (["--policy", "slow-machine"], [], ["--merge", "--out", str(tmp_path / "merged")]):
        main(["report", str(folder), *arguments])
        assert "policy slow-machine)" in capsys.readouterr().out


def test_shards_of_different_policies_need_one(shards: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    for folder, policy in zip(shards, ("strict", "default"), strict=False):
        main(["report", str(folder), "--policy", policy])
    capsys.readouterr()
    status, _, printed = merged(shards, capsys)
    assert status == ExitStatus.USAGE
    assert "different policies: strict, default" in printed


def test_loss_in_one_shard_fails_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = replace(point_case("q1-vhost"), loss=PerDirection(3, 0))
    shards = [put_shard(tmp_path / str(number), number, 2, POINTS, change=bad) for number in (1, 2)]
    status, _, printed = merged(shards, capsys)
    assert status == ExitStatus.FAIL
    assert "update-q1-vhost" in printed


def test_missing_shard_is_reported_of_a_failing_run_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = replace(point_case("q1-tap"), loss=PerDirection(3, 0))
    status, folder, printed = merged([put_shard(tmp_path / "1", 1, 2, POINTS, change=bad)], capsys)
    assert status == ExitStatus.FAIL
    assert printed.count("run: shard 2/2 is missing: 2 points never ran") == 1
    assert "shard 2/2 is missing" in json.loads((folder / "run.json").read_text())["problems"][0]


def test_point_without_a_case_is_inconclusive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards = [
        put_shard(tmp_path / "1", 1, 2, POINTS, cases=("q1-tap", "q8-tap")),
        put_shard(tmp_path / "2", 2, 2, POINTS),
    ]
    status, _, printed = merged(shards, capsys)
    assert status == ExitStatus.INCONCLUSIVE
    assert "1 point of the matrix left no evidence: q4-tap" in printed


def test_interrupted_job_is_reported(shards: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    (shards[1] / "avocado" / "job-2" / "results.json").unlink()
    status, _, printed = merged(shards, capsys)
    assert status == ExitStatus.INCONCLUSIVE
    assert "was interrupted" in printed


def test_interrupted_shard_is_inconclusive_although_its_cases_passed(
    shards: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (shards[1] / UNFINISHED).write_text('{"pid": 1, "started": 0, "boot": "another"}')
    status, folder, printed = merged(shards, capsys)
    assert status == ExitStatus.INCONCLUSIVE
    assert "run: shard2: the run was interrupted before it wrote its report" in printed
    assert main(["report", str(folder)]) == ExitStatus.INCONCLUSIVE


def test_merged_run_has_the_baseline_of_its_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards = [put_shard(tmp_path / str(number), number, 2, POINTS) for number in (1, 2)]
    policy = tmp_path / "ratio.toml"
    policy.write_text('extends = "default"\n[interruption]\nmax_ratio = 2\n')
    baseline = {f"update-{point}": 288.0 for point in POINTS}
    for folder in shards:
        (folder / BASELINE_FILE).write_text(json.dumps(baseline))
        build_report.build_report(folder, load_policy(policy))
    status, folder, _ = merged(shards, capsys)
    assert status == ExitStatus.PASS
    assert json.loads((folder / BASELINE_FILE).read_text()) == baseline
    (shards[1] / BASELINE_FILE).write_text('{"update-q1-tap": 100.0}')
    refused(shards, "they have different baselines")


def test_shards_of_two_commits_are_inconclusive(tmp_path: Path) -> None:
    first = put_shard(tmp_path / "1", 1, 2, POINTS)
    second = put_shard(tmp_path / "2", 2, 2, POINTS, machine=replace(MACHINE, commit="def"))
    merge_results([first, second], tmp_path / "m")
    report = judge_results(tmp_path / "m", DEFAULT)
    assert report.exit_status == ExitStatus.INCONCLUSIVE
    assert "different commits of this project: abc, def" in report.problems[0]


@pytest.mark.parametrize(("base", "status"), [("", ExitStatus.INCONCLUSIVE), ("10.0", ExitStatus.PASS)])
def test_different_given_qemus_are_inconclusive_but_own_builds_are_not(tmp_path: Path, base: str, status: int) -> None:
    shards = [
        put_shard(tmp_path / str(number), number, 2, POINTS, base=base, sha256=str(number) * 64) for number in (1, 2)
    ]
    merge_results(shards, tmp_path / "m")
    report = judge_results(tmp_path / "m", DEFAULT)
    assert report.exit_status == status
    assert any("different QEMUs" in problem for problem in report.problems) == (base == "")


def test_different_machines_are_shown_side_by_side(tmp_path: Path) -> None:
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


def test_shards_of_different_matrices_are_refused(shards: list[Path], tmp_path: Path) -> None:
    refused([shards[0], shards[0]], "both are shard 1/3")
    refused([shards[0], put_shard(tmp_path / "x", 2, 2, POINTS)], "one is of 3 shards, the other of 2")
    refused([shards[0], put_shard(tmp_path / "y", 2, 3, POINTS, name="night")], "have different points")
    refused([shards[0], put_shard(tmp_path / "z", 2, 3, POINTS[:3])], "have different points")
    refused([shards[0], tmp_path / "nothing"], "no such folder")
    (tmp_path / "plain").mkdir()
    refused([shards[0], tmp_path / "plain"], "not a run over a matrix")
    merge_results(shards, tmp_path / "m")
    refused([tmp_path / "m", shards[0]], "already a merged run")


def test_refused_merge_leaves_nothing(shards: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    status, folder, printed = merged([shards[0], shards[0]], capsys)
    assert status == ExitStatus.USAGE
    assert "both are shard 1/3" in printed
    assert list(folder.parent.iterdir()) == []


def test_shards_of_different_machines_are_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lab = replace(MACHINE, mode="lab", engine="uml", accelerator="tcg", lab_retries=1)
    native = replace(MACHINE, mode="native", engine="", accelerator="kvm", lab_retries=1)
    shards = [
        put_shard(tmp_path / "1", 1, 2, POINTS, machine=lab),
        put_shard(tmp_path / "2", 2, 2, POINTS, machine=native),
    ]
    status, folder, _ = merged(shards, capsys)
    assert status == ExitStatus.PASS
    machine = json.loads((folder / "run.json").read_text())["environment"]
    assert (machine["mode"], machine["accelerator"], machine["lab_retries"]) == ("", "", 2)


def test_merge_whose_report_fails_leaves_nothing(
    shards: list[Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise InstrumentError("write run.json", "a member does not fit its type")

    monkeypatch.setattr(build_report, "build_report", failing)
    status, folder, _ = merged(shards, capsys)
    assert status == ExitStatus.INCONCLUSIVE
    assert list(folder.parent.iterdir()) == []


def test_wrong_arguments_are_usage_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--merge"]) == ExitStatus.USAGE
    assert main(["report", str(tmp_path), str(tmp_path)]) == ExitStatus.USAGE
    assert main(["report", str(tmp_path), "--out", str(tmp_path)]) == ExitStatus.USAGE
    assert "give one folder, or --merge to join several" in capsys.readouterr().err


NAMES = {
    "q4-vhost-q35-cpr-10.0-ip6": {
        "ip_version": "6",
        "base": "10.0",
        "mechanism": "cpr",
        "machine": "q35",
        "vhost": "on",
        "queues": "4",
    },
    "q1-tap": {"queues": "1", "vhost": "off"},
    "q1-queue-length-50-rate-500": {"rate": "500", "queues": "1", "queue_length": "50"},
    "q1": {"queues": "1", "qemu": "/some/where", "firmware": "/else", "memory": ""},
    "microvm-pcie-on": {"machine": "microvm,pcie=on"},
    "": {},
}


@pytest.mark.parametrize(("name", "values"), NAMES.items())
def test_point_has_the_same_name_everywhere(name: str, values: dict[str, str]) -> None:
    assert point_name(values) == name


def test_shard_is_every_third_point() -> None:
    assert [shard_points(("a", "b", "c", "d"), number, 3) for number in (1, 2, 3)] == [("a", "d"), ("b",), ("c",)]


def test_complete_run_passes_and_a_missing_point_is_inconclusive(tmp_path: Path) -> None:
    whole = put_shard(tmp_path / "a", 1, 1, ("q1-tap", "q4-tap"))
    assert judge_results(whole, DEFAULT).exit_status == ExitStatus.PASS
    lost = put_shard(tmp_path / "b", 1, 1, ("q1-tap", "q4-tap"), cases=("q1-tap",))
    report = judge_results(lost, DEFAULT)
    assert report.exit_status == ExitStatus.INCONCLUSIVE
    assert "1 point of the matrix left no evidence: q4-tap" in report.problems[0]


def test_point_is_not_mistaken_for_one_whose_name_ends_alike(tmp_path: Path) -> None:
    folder = put_shard(tmp_path / "a", 1, 1, ("vhost-q35", "q1-vhost-q35"), cases=("q1-vhost-q35",))
    assert "left no evidence: vhost-q35" in judge_results(folder, DEFAULT).problems[0]


def test_single_shard_has_to_cover_its_own_points_only(tmp_path: Path) -> None:
    folder = put_shard(tmp_path / "a", 1, 2, ("q1-tap", "q4-tap"))
    assert [path.name for path in (folder / "cases").iterdir()] == ["update-q1-tap"]
    assert judge_results(folder, DEFAULT).exit_status == ExitStatus.PASS


def test_many_missing_points_are_counted() -> None:
    points = tuple(f"q{number}" for number in range(1, 9))
    record = MatrixRecord("night", points, (Shard(1, points),))
    assert list(record.problems([])) == ["8 points of the matrix left no evidence: q1, q2, q3, q4, and 4 more"]


def test_broken_record_is_inconclusive(tmp_path: Path) -> None:
    folder = put_shard(tmp_path / "a", 1, 1, ("q1-tap",))
    (folder / "matrix.json").write_text('{"name": 5}')
    with pytest.raises(InstrumentError, match="name"):
        MatrixRecord.read(folder)
    assert judge_results(folder, DEFAULT).exit_status == ExitStatus.INCONCLUSIVE


def test_run_without_a_matrix_has_no_record(tmp_path: Path) -> None:
    assert MatrixRecord.read(tmp_path) is None
    assert point_case("q1-tap").parameters.more["point"] == "q1-tap"
