"""Concurrent labs get different cores while there are free ones."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from cprlib.files import CACHE_VARIABLE
from cprlib.lab.uml import reserved_core

pytestmark = pytest.mark.fast


def test_each_lab_reserves_another_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    cores = os.sched_getaffinity(0)
    with contextlib.ExitStack() as stack:
        assert {stack.enter_context(reserved_core()) for _ in cores} == cores
        assert stack.enter_context(reserved_core()) in cores
    with reserved_core() as core:
        assert core == min(cores)


def test_error_ends_the_reservation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    with pytest.raises(BlockingIOError, match="body"), reserved_core():
        raise BlockingIOError("body")
    with reserved_core() as core:
        assert core == min(os.sched_getaffinity(0))


def test_read_only_cache_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file"))
    with reserved_core() as core:
        assert core in os.sched_getaffinity(0)
