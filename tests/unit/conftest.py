"""For all unit tests."""

from __future__ import annotations

import signal
from collections.abc import Iterable

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Let Ctrl-C interrupt again where a shell in the background ignores it: tests send it to themselves."""
    del config
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    """Mark every test that is not marked ``slow`` as ``fast``."""
    for item in items:
        if item.get_closest_marker("slow") is None:
            item.add_marker(pytest.mark.fast)
