"""Labs at the same time get different cores, as long as there are some."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from cprlib.files import CACHE_VARIABLE
from cprlib.lab.uml import reserved_core


def test_each_gets_its_own_until_none_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    cores = os.sched_getaffinity(0)
    with contextlib.ExitStack() as stack:
        assert {stack.enter_context(reserved_core()) for _ in cores} == cores
        assert stack.enter_context(reserved_core()) in cores
    with reserved_core() as core:
        assert core == min(cores)


def test_an_error_under_a_reservation_passes_and_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    with pytest.raises(BlockingIOError, match="body"), reserved_core():
        raise BlockingIOError("body")
    with reserved_core() as core:
        assert core == min(os.sched_getaffinity(0))


def test_a_cache_that_cannot_be_written_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file"))
    with reserved_core() as core:
        assert core in os.sched_getaffinity(0)
