"""Ends a QEMU whose console or log grows without end, before the disk is full: a guest can write as it likes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

LOOK_INTERVAL_S = 0.25
CONSOLE_LIMIT = 32 << 20  # bytes; a guest that boots and is measured writes some 30 KiB
LOG_LIMIT = 256 << 20


class FloodWatch:
    """Looks at files while a process writes them, as a context manager.

    :param limits: bytes that each file may have.
    :param end: called once, when one has more.
    """

    def __init__(self, limits: Mapping[Path, int], end: Callable[[], None]) -> None:
        self._limits = limits
        self._end = end
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="flood-watch", daemon=True)
        self.flooded: Path | None = None

    def __enter__(self) -> FloodWatch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(LOOK_INTERVAL_S):
            for path, limit in self._limits.items():
                with contextlib.suppress(OSError):
                    if path.stat().st_size > limit:
                        self.flooded = path
                        self._end()
                        return
