"""Points have one name everywhere, and one that left nothing is missed."""

from __future__ import annotations

from pathlib import Path

import pytest

from cprlib.errors import ExitStatus, InstrumentError
from cprlib.report.matrix import MatrixRecord, Shard, point_name, shard_points
from cprlib.report.pipeline import judge_results
from cprlib.verdict.policy_file import load_policy
from tests.unit.report.shards import point_case, put_shard

DEFAULT = load_policy("default")
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
def test_names(name: str, values: dict[str, str]) -> None:
    assert point_name(values) == name


def test_every_third() -> None:
    assert [shard_points(("a", "b", "c", "d"), number, 3) for number in (1, 2, 3)] == [("a", "d"), ("b",), ("c",)]


def test_a_whole_run_passes_and_a_lost_point_makes_it_inconclusive(tmp_path: Path) -> None:
    whole = put_shard(tmp_path / "a", 1, 1, ("q1-tap", "q4-tap"))
    assert judge_results(whole, DEFAULT).exit_status == ExitStatus.PASS
    lost = put_shard(tmp_path / "b", 1, 1, ("q1-tap", "q4-tap"), cases=("q1-tap",))
    report = judge_results(lost, DEFAULT)
    assert report.exit_status == ExitStatus.INCONCLUSIVE
    assert "1 point of the matrix left no evidence: q4-tap" in report.problems[0]


def test_a_point_is_not_taken_for_another_whose_name_ends_alike(tmp_path: Path) -> None:
    folder = put_shard(tmp_path / "a", 1, 1, ("vhost-q35", "q1-vhost-q35"), cases=("q1-vhost-q35",))
    assert "left no evidence: vhost-q35" in judge_results(folder, DEFAULT).problems[0]


def test_a_shard_by_itself_has_to_cover_its_own_points_only(tmp_path: Path) -> None:
    folder = put_shard(tmp_path / "a", 1, 2, ("q1-tap", "q4-tap"))
    assert [path.name for path in (folder / "cases").iterdir()] == ["update-q1-tap"]
    assert judge_results(folder, DEFAULT).exit_status == ExitStatus.PASS


def test_many_lost_points_are_counted() -> None:
    points = tuple(f"q{number}" for number in range(1, 9))
    record = MatrixRecord("night", points, (Shard(1, points),))
    assert list(record.problems([])) == ["8 points of the matrix left no evidence: q1, q2, q3, q4 and 4 more"]


def test_a_record_that_cannot_be_read_is_inconclusive(tmp_path: Path) -> None:
    folder = put_shard(tmp_path / "a", 1, 1, ("q1-tap",))
    (folder / "matrix.json").write_text('{"name": 5}')
    with pytest.raises(InstrumentError, match="name"):
        MatrixRecord.read(folder)
    assert judge_results(folder, DEFAULT).exit_status == ExitStatus.INCONCLUSIVE


def test_any_other_run_has_no_record(tmp_path: Path) -> None:
    assert MatrixRecord.read(tmp_path) is None
    assert point_case("q1-tap").parameters.more["point"] == "q1-tap"
