"""For all unit tests."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

CHEAP_PICTURE = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'


def pytest_configure(config: pytest.Config) -> None:
    """Let Ctrl-C interrupt again where a shell in the background ignores it: tests send it to themselves."""
    del config
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _cheap_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the drawing of plots, seconds for each page, where pictures are not the subject of the test."""
    if "pictures" not in request.keywords:
        monkeypatch.setattr("cprlib.report.plotting.as_svg", lambda *_, **__: CHEAP_PICTURE)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out files without a fast test when only those are selected: importing them takes longer than the tests."""
    if config.getoption("markexpr") != "fast" or not collection_path.name.startswith("test_"):
        return None
    return True if "pytest.mark.fast" not in collection_path.read_text(encoding="utf-8") else None
