"""The order in which the tests of a run begin."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from cprlib.lab.schedule import durations_file, known_durations, longest_first, remember_durations

pytestmark = pytest.mark.fast

NAMES = ["a", "b", "c"]
TESTS = [SimpleNamespace(name=name, uri=f"/x/tests/functional/test_f.py:Some.test_{name}") for name in NAMES]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPRLIB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()


def in_order() -> list[str]:
    return [test.name for test in longest_first(TESTS, "uml")]


def results(folder: Path, seconds: dict[str, float]) -> list[Path]:
    tests = [
        {"name": f"/x/tests/functional/test_f.py:Some.test_{name};run-3f2a", "time_elapsed": length}
        for name, length in seconds.items()
    ]
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps({"tests": tests}))
    return [folder]


def test_the_longest_begins_first_and_unknown_ones_before(tmp_path: Path) -> None:
    assert in_order() == NAMES
    remember_durations(results(tmp_path / "first", {"a": 1, "b": 2}), "uml")
    assert in_order() == ["c", "b", "a"]
    remember_durations(results(tmp_path / "second", {"a": 3, "c": 0.5}), "uml")
    assert in_order() == ["a", "b", "c"]


def test_each_kind_of_lab_has_its_own(tmp_path: Path) -> None:
    remember_durations(results(tmp_path / "uml", {"a": 1}), "uml")
    remember_durations(results(tmp_path / "kvm", {"a": 9}), "kvm")
    assert list(known_durations("uml").values()) == [1]
    assert known_durations(None) == {}


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": "x"}', "\x00"])
def test_a_damaged_file_is_none(tmp_path: Path, text: str) -> None:
    durations_file("uml").write_text(text)
    assert known_durations("uml") == {}
    assert in_order() == NAMES
    folder = tmp_path / "lost"
    folder.mkdir()
    (folder / "results.json").write_text(text)
    remember_durations([folder], "uml")
    assert known_durations("uml") == {}
