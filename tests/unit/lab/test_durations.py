"""The order in which the tests of a run begin."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from cprlib.lab.schedule import FILE, known_durations, longest_first, remember_durations

pytestmark = pytest.mark.fast

NAMES = ["a", "b", "c"]
TESTS = [SimpleNamespace(name=name, uri=f"/x/tests/functional/test_f.py:Some.test_{name}") for name in NAMES]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CPRLIB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


def in_order() -> list[str]:
    return [test.name for test in longest_first(TESTS)]


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
    remember_durations(results(tmp_path / "first", {"a": 1, "b": 2}))
    assert in_order() == ["c", "b", "a"]
    remember_durations(results(tmp_path / "second", {"a": 3, "c": 0.5}))
    assert in_order() == ["a", "b", "c"]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": "x"}', "\x00"])
def test_a_damaged_file_is_none(cache: Path, tmp_path: Path, text: str) -> None:
    (cache / FILE).write_text(text)
    assert known_durations() == {}
    assert in_order() == NAMES
    folder = tmp_path / "lost"
    folder.mkdir()
    (folder / "results.json").write_text(text)
    remember_durations([folder])
    assert known_durations() == {}
