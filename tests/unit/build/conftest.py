"""An empty cache folder for every test."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder, empty."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("CPRLIB_CACHE", str(folder))
    return folder
