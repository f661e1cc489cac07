"""The rate of this machine's TSC, which is also the rate of an emulated guest's.

TCG hands the host's counter to the guest (QEMU, system/cpu-timers.c, cpu_get_ticks). A guest that has to find the rate
out by itself measures it against emulated timers, and on a busy machine gets it wrong: guests were seen whose clock ran
five times too fast. So the guest is told (kernel parameter tsc_early_khz).
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import mmap
import platform
import time
from collections.abc import Callable
from typing import NamedTuple

READ_TSC = bytes.fromhex("0f31 48c1e220 4809d0 c3")  # rdtsc; shl rdx, 32; or rax, rdx; ret
BASE_NS = 50_000_000  # the measurement's length; with brackets of 1 us that is 20 ppm
TRIES = 20  # readings at each end, of which the one with the shortest bracket counts


class _Reading(NamedTuple):
    bracket_ns: int
    time_ns: int
    ticks: int


@functools.cache
def host_tsc_khz() -> int | None:
    """The TSC's rate in kHz, measured once; None where this machine has none or forbids making code."""
    if platform.machine() != "x86_64":
        return None
    with contextlib.suppress(OSError, ValueError), mmap.mmap(-1, mmap.PAGESIZE, prot=7) as code:
        code.write(READ_TSC)
        place = ctypes.c_char.from_buffer(code)
        function = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(place))
        try:
            return _measure(function)
        finally:
            del place, function  # the mapping cannot be closed while something points into it
    return None


def _measure(read_ticks: Callable[[], int]) -> int:
    first = _read(read_ticks)
    time.sleep(BASE_NS / 1e9)  # the time that passes is what is wanted here
    second = _read(read_ticks)
    return round((second.ticks - first.ticks) * 1_000_000 / (second.time_ns - first.time_ns))


def _read(read_ticks: Callable[[], int]) -> _Reading:
    def once() -> _Reading:
        before = time.monotonic_ns()
        ticks = read_ticks()
        after = time.monotonic_ns()
        return _Reading(after - before, (before + after) // 2, ticks)

    return min(once() for _ in range(TRIES))
