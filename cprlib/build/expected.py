"""How long a build takes: processor seconds of its steps, the number of cores, and the speed seen so far.

The figures were measured on two cores of a rented machine (2026-11). Another machine is faster or slower by one
factor, which is measured while the steps run.
"""

from __future__ import annotations

import time

PACKAGES = 20.0
VENV, PIP, BYTE_CODE = 7.0, 30.0, 14.0
UNPACK_QEMU, BUILD_PYTHON, CONFIGURE_QEMU, QEMU_HEADER, COMPILE_QEMU = 8.0, 8.0, 25.0, 2.0, 320.0
GUEST_IMAGE = 7.0
UNPACK_KERNEL, CONFIGURE_KERNEL, COMPILE_KERNEL = 18.0, 6.0, 620.0

ENVIRONMENT = VENV + PIP + BYTE_CODE
QEMU = UNPACK_QEMU + BUILD_PYTHON + CONFIGURE_QEMU + QEMU_HEADER + COMPILE_QEMU
KERNEL = UNPACK_KERNEL + CONFIGURE_KERNEL + COMPILE_KERNEL
FIRST_CASE, SUITE = 15.0, 900.0  # from its start to the first verdict; all cases

SHORT_STEPS, SHORT_STEPS_WORK = 0.58, 0.25  # parts of QEMU's steps and of its time: generated files come first

TRUSTED_FOR = 60.0  # seconds for which the figures above count as much as the measured speed


class Expected:
    """Time that is left of a build.

    :param work: processor seconds of all its steps.
    :param cores: that it uses.
    :param then: seconds from its end to what the user waits for, on the machine of the figures above.
    :param until: what that is: ``"to the first verdict"``.
    """

    def __init__(self, work: float, cores: int, then: float = 0.0, until: str = "left") -> None:
        self.work = work
        self.cores = cores
        self.then = then
        self.until = until
        self._done = 0.0
        self._started = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    def finish(self, work: float) -> None:
        """Count a step as done; not for several threads at once.

        :param work: its processor seconds.
        """
        self._done += work

    def left(self, running: float = 0.0) -> float:
        """Seconds until the user has what they wait for.

        :param running: processor seconds that running steps have done.
        """
        done = min(self._done + running, self.work)
        speed = (done + self.cores * TRUSTED_FOR) / (self.elapsed + TRUSTED_FOR)
        return (self.work - done) / speed + self.then * self.cores / speed


def qemu_work(steps: float) -> float:
    """The part of the time of QEMU's compilation that has passed.

    :param steps: the part of its steps that is done, 0 to 1.
    """
    if steps < SHORT_STEPS:
        return steps / SHORT_STEPS * SHORT_STEPS_WORK
    return SHORT_STEPS_WORK + (steps - SHORT_STEPS) / (1 - SHORT_STEPS) * (1 - SHORT_STEPS_WORK)
