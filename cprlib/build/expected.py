"""How long a build takes: processor seconds of its steps, the number of cores, and the speed seen so far.

The figures are those of the 2-core machine on which docs/evidence has the times of a first run. Another machine is
faster or slower by one factor, which is measured while the steps run.
"""

from __future__ import annotations

import threading
import time

PACKAGES = 20.0
VENV, PIP, BYTE_CODE = 5.0, 12.0, 7.0
UNPACK_QEMU, BUILD_PYTHON, CONFIGURE_QEMU, QEMU_HEADER, COMPILE_QEMU = 10.0, 5.0, 14.0, 2.0, 210.0
GUEST_IMAGE = 3.0
UNPACK_KERNEL, CONFIGURE_KERNEL, COMPILE_KERNEL = 12.0, 3.0, 290.0

ENVIRONMENT = VENV + PIP + BYTE_CODE
QEMU = UNPACK_QEMU + BUILD_PYTHON + CONFIGURE_QEMU + QEMU_HEADER + COMPILE_QEMU
KERNEL = UNPACK_KERNEL + CONFIGURE_KERNEL + COMPILE_KERNEL
FIRST_CASE, SUITE = 16.0, 600.0  # from its start to the first verdict; all cases

TRUSTED_FOR = 120.0  # seconds for which the figures above count as much as the measured speed


class Expected:
    """Time that is left of a build.

    :param work: processor seconds of all its steps.
    :param cores: that it uses.
    :param then: seconds from its end to what the user waits for.
    :param until: what that is: ``"to the first verdict"``.
    """

    def __init__(self, work: float, cores: int, then: float = 0.0, until: str = "left") -> None:
        self.work = work
        self.cores = cores
        self.then = then
        self.until = until
        self._done = 0.0
        self._started = time.monotonic()
        self._lock = threading.Lock()

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    def finish(self, work: float) -> None:
        """Count a step as done.

        :param work: its processor seconds.
        """
        with self._lock:
            self._done += work

    def left(self, running: float = 0.0) -> float:
        """Seconds until the user has what they wait for.

        :param running: processor seconds that running steps have done.
        """
        done = min(self._done + running, self.work)
        speed = (done + self.cores * TRUSTED_FOR) / (self.elapsed + TRUSTED_FOR)
        return (self.work - done) / speed + self.then
