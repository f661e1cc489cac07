"""Matrices are read as Avocado reads them, cover what they claim, and are dealt to shards without a rest."""

from __future__ import annotations

from itertools import combinations, product
from pathlib import Path

import pytest

from cprlib.campaign.matrix import Matrix, Point, load_matrix, parse_shard, plan_matrix, shard_of, without, write_matrix
from cprlib.errors import UsageError
from cprlib.files import project_folder
from cprlib.lab.avocado_run import SuiteRun
from cprlib.testing.parameters import check_parameters

AXES = ("queues", "vhost", "machine", "base", "ip_version")
BAD = {
    "a: !mux\n  x: [1\n": "line 2",
    "a: !frob\n  queues: 1\n": "tag '!frob'",
    "- 1\n- 2\n": "not a tree of nodes",
    "just text": "string index",
    "": "no parameter of its own",
    "rate: 500\n": "no parameter of its own",
    "a:\n  queues: [1, 2]\n": "not a single value",
    "a:\n  base: 10.0\n": 'write base: "10.0"',
    "!include : nothing.yaml\n": "does not exist",
    "a: !mux\n  x:\n    queues: 1\n  y:\n    queues: 1\n": "two variants are point q1",
    "queues: 1\na: !mux\n  x:\n    queues: 2\nb: !mux\n  y:\n    rate: 5\n": "queues is set at",
    f"a:\n  machine: pc-q35-{'x' * 100}\n": "longer than 100",
    "a: !mux\n  x:\n    queues: 1\n    !filter-out : /run/a/x\n": "leave no variant",
}


@pytest.fixture(scope="module")
def night() -> Matrix:
    return load_matrix("night")


@pytest.fixture(scope="module")
def push() -> Matrix:
    return load_matrix("push")


def combined(night: Matrix) -> list[Point]:
    """The points of the product."""
    return [point for point in night.points if point.values.keys() == {*AXES, "mechanism"}]


def test_the_night_has_every_combination_but_those_that_cannot_be(night: Matrix) -> None:
    points = combined(night)
    assert len(points) == 2**5 * 3 - 2**4
    assert {point.values["vhost"] for point in points if point.values["mechanism"] == "fd-share"} == {"off"}
    local = [point.values for point in night.points if point.values["mechanism"] == "local"]
    assert {point["base"] for point in local} == {"10.2-local"}
    assert len({(point["queues"], point["vhost"], point["mode"]) for point in local}) == len(local) == 2**3
    for point in night.points:
        check_parameters(point.values)


def test_the_night_has_each_option_of_nic_and_qemu(night: Matrix) -> None:
    values = {(key, value) for point in night.points for key, value in point.values.items()}
    cpus = {("vcpus", "2"), ("vcpus", "4")}
    rings = {
        ("nic.packed", "on"),
        ("nic.event_idx", "off"),
        ("nic.indirect_desc", "off"),
        ("nic.rx_queue_size", "1024"),
    }
    headers = {("nic.mrg_rxbuf", "off"), ("nic.disable-modern", "on"), ("nic.hash", "on")}
    others = {("mtu", "9000"), ("machine", "pc-i440fx-4.2"), ("nics", "2")}
    assert cpus | rings | headers | others <= values


def test_each_push_covers_every_pair_of_values(push: Matrix, night: Matrix) -> None:
    points = combined(night)
    nights = {point.name: point.values for point in points}
    assert all(nights[point.name] == point.values for point in push.points)
    values = {axis: sorted({point.values[axis] for point in points}) for axis in AXES}
    by_cpr = [point.values for point in push.points if point.values["mechanism"] == "cpr"]
    for one, other in combinations(AXES, 2):
        seen = {(point[one], point[other]) for point in by_cpr}
        assert seen == set(product(values[one], values[other])), (one, other)
    wanted = {(point.values["mechanism"], axis, point.values[axis]) for point in points for axis in AXES}
    assert wanted == {(point.values["mechanism"], axis, point.values[axis]) for point in push.points for axis in AXES}


def test_a_node_of_the_push_matrix_has_its_points_name(push: Matrix) -> None:
    text = (project_folder() / "fixtures" / "matrix" / "push.yaml").read_text()
    assert [line.strip(" :") for line in text.splitlines() if line.startswith("  q")] == [p.name for p in push.points]


@pytest.mark.parametrize(("text", "why"), BAD.items())
def test_a_bad_file_is_one_line(text: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match="cannot read matrix") as caught:
        load_matrix(str(path))
    assert why in caught.value.one_line()
    assert "\n" not in caught.value.one_line()


def test_an_error_about_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="there are: moments, night, operations, push"):
        load_matrix("nihgt")


def test_without_a_base_points_that_are_the_same_become_one(night: Matrix) -> None:
    reduced = without(night, "base")
    left = [point for point in reduced.points if point.values.keys() == {*AXES, "mechanism"} - {"base"}]
    assert len(combined(night)) == 2 * len(left)
    assert reduced.points[0].name == "q1-tap-q35-cpr-ip4"
    assert plan_matrix("night", [], None, own_qemu=True).bases("10.0") == ("10.0",)


def test_a_matrix_of_bases_alone_is_not_for_another_qemu(tmp_path: Path) -> None:
    path = tmp_path / "bases.yaml"
    path.write_text('points: !mux\n  old:\n    base: "10.0"\n  new:\n    base: "10.2"\n')
    assert plan_matrix(str(path), [], None, own_qemu=False).bases("10.0") == ("10.0", "10.2")
    with pytest.raises(UsageError, match="differ in their base alone; run it without --qemu"):
        plan_matrix(str(path), [], None, own_qemu=True)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 80])
def test_shards_share_all_points_and_overlap_nowhere(night: Matrix, count: int) -> None:
    shards = [shard_of(night.points, number, count) for number in range(1, count + 1)]
    dealt = [point.name for shard in shards for point in shard]
    assert len(dealt) == len(set(dealt)) == len(night.points)
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_more_shards_than_points_are_refused(push: Matrix) -> None:
    with pytest.raises(UsageError, match="only 10 points"):
        shard_of(push.points, 11, 11)


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "a/b", "1/2/3", "-1/2", "1/99999"])
def test_what_is_no_shard(text: str) -> None:
    with pytest.raises(UsageError, match="NUMBER/COUNT"):
        parse_shard(text)


def test_points_are_chosen_by_pattern(push: Matrix) -> None:
    assert len(push.only(["*-cpr-*"])) == 6
    assert {point.values["base"] for point in push.only(["*-10.0-*"])} == {"10.0"}
    with pytest.raises(UsageError, match="no point matches; the first ones are q1-tap"):
        push.only(["*-cpr-*", "q8-*"])


def test_the_file_of_a_run_reads_as_the_points_it_was_made_of(push: Matrix, tmp_path: Path) -> None:
    path = tmp_path / "matrix.yaml"
    shared = {"policy": "default", "rate": "500", "kernel": "/a path: with #marks"}
    write_matrix(path, push.points, shared)
    again = load_matrix(str(path))
    assert again.points == push.points
    assert again.shared == shared


def test_a_path_of_a_qemu_is_not_part_of_a_name(tmp_path: Path) -> None:
    path = tmp_path / "matrix.yaml"
    write_matrix(path, [Point("q4", {"queues": "4", "qemu": "/a/qemu", "firmware": "/f"})], {})
    assert [point.name for point in load_matrix(str(path)).points] == ["q4"]


def test_avocado_gets_the_file_and_no_parameters_beside_it(tmp_path: Path) -> None:
    command = SuiteRun(tmp_path, ["x.py"], {"rate": "500"}, matrix=tmp_path / "matrix.yaml").command(tmp_path)
    assert command[command.index("--mux-yaml") + 1] == str(tmp_path / "matrix.yaml")
    assert "-p" not in command
