"""For all unit tests."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Let Ctrl-C interrupt again where a shell in the background ignores it: tests send it to themselves."""
    del config
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out files without a fast test when only those are selected: importing them takes longer than the tests."""
    if config.getoption("markexpr") != "fast" or not collection_path.name.startswith("test_"):
        return None
    return True if "pytest.mark.fast" not in collection_path.read_text(encoding="utf-8") else None
