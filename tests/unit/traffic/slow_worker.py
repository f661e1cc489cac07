"""A worker for test_worker.py; standard library and cprlib only, as in each worker."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator


class Numbers:
    """Requests of the unit tests."""

    def text_after(self, seconds: float) -> str:
        """An answer that comes late."""
        time.sleep(seconds)
        return "late"

    def number(self) -> int:
        return 7

    def die(self) -> None:
        os._exit(1)


@contextlib.contextmanager
def serve() -> Iterator[Numbers]:
    yield Numbers()
