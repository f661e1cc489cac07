"""Each patch of the series has a result: the worst of its tests, and those that did not run are not covered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cprlib.build.series import find_series
from cprlib.evidence.case import CaseEvidence
from cprlib.report.patch_results import (
    PropertyResult,
    patch_number,
    patch_results,
    property_results,
    read_test_sources,
    series_names,
    suite_key,
)
from cprlib.traffic.figures import PerDirection
from cprlib.verdict.judge import judge
from cprlib.verdict.policy_file import load_policy
from tests.unit.evidence.samples import good_case

SUITE = '''
class Taps(LiveUpdateTest):
    def test_one(self) -> None:
        """One queue loses ``nothing``.

        :avocado: tags=patch:no-loss,patch:9
        :avocado: tags=vhost:on
        """

    def test_two(self) -> None:
        """Two queues.

        :avocado: tags=patch:9
        """

    def helper(self) -> None:
        """No test."""
'''


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    (tmp_path / "test_taps.py").write_text(SUITE)
    (tmp_path / "test_broken.py").write_text("def (")
    return tmp_path


def case_of(method: str, lost: int = 0, skipped: str = "") -> CaseEvidence:
    name = f"1-tests/functional/test_taps.py:Taps.{method};run-10.0-3f2a"
    return replace(good_case(method), test=name, loss=PerDirection(lost, 0), skipped=skipped, skip_word="no-target")


def results(suite: Path, *cases: CaseEvidence) -> dict[str, PropertyResult]:
    judged = [judge(case, load_policy("default")) for case in cases]
    return {each.test: each for each in property_results(judged, read_test_sources(suite))}


def test_tests_are_read_from_the_sources(suite: Path) -> None:
    first, second = read_test_sources(suite)
    assert (first.key, first.title) == ("test_taps.py:Taps.test_one", "One queue loses nothing.")
    assert first.tags == {"patch:no-loss", "patch:9", "vhost:on"}
    assert second.tags == {"patch:9"}


def test_property_has_the_worst_of_its_cases(suite: Path) -> None:
    found = results(suite, case_of("test_one"), case_of("test_one", lost=2))
    assert found["test_taps.py:Taps.test_one"].verdict == "fail"
    assert len(found["test_taps.py:Taps.test_one"].cases) == 2


def test_property_without_a_case_that_ran_is_not_covered(suite: Path) -> None:
    found = results(suite, case_of("test_one", skipped="no other QEMU"))
    assert {each.verdict for each in found.values()} == {None}
    assert found["test_taps.py:Taps.test_one"].cases == ("test_one",)


def test_every_patch_of_the_series_has_a_name_and_tests() -> None:
    names = series_names()
    assert [number for number, _, _ in names] == [patch_number(patch) for patch in find_series("10.2").patches]
    tags = {tag for test in read_test_sources() for tag in test.tags}
    for number, name, subject in names:
        assert {f"patch:{number}", f"patch:{name}"} <= tags
        assert subject


@pytest.mark.parametrize("order", [("9.2", "10.0", "10.2", "10.2-local"), ("10.2-local", "10.2", "10.0", "9.2")])
def test_names_are_those_of_the_newest_release(
    order: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``order``: of the file system, which may be any."""
    for base in order:
        folder = tmp_path / "images" / "qemu" / "series" / base
        folder.mkdir(parents=True)
        (folder / f"0001-on-{base}.patch").write_text(f"Subject: [PATCH] net: on {base}\n")
    listed = Path.glob

    def glob(self: Path, pattern: str) -> Iterator[Path]:
        return iter(sorted(listed(self, pattern), key=lambda path: order.index(path.name) if path.name in order else 0))

    monkeypatch.setattr(Path, "glob", glob)
    assert series_names(tmp_path) == ((1, "on-10.2", "net: on 10.2"),)


def test_patch_fails_with_one_of_its_tests() -> None:
    test = next(test for test in read_test_sources() if {"patch:9", "patch:6"} <= test.tags)
    case = replace(good_case(), test=f"tests/functional/{test.key}", loss=PerDirection(1, 0))
    patches = {patch.number: patch for patch in patch_results([judge(case, load_policy("default"))])}
    assert patches[9].verdict == patches[6].verdict == "fail"
    assert (patches[9].count(patches[9].verdict), patches[9].covered) == (1, 1)
    assert patches[2].verdict is None


def test_key_is_the_same_for_all_variants_of_a_test() -> None:
    assert suite_key("/a/b/test_x.py:X.test_y") == suite_key("07-test_x.py:X.test_y;run-q4") == "test_x.py:X.test_y"
    assert suite_key("") == ""
