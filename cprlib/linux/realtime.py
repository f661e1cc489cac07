"""Exact sleeping and scheduling of the calling thread, by the C library."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable

PR_SET_TIMERSLACK = 29  # linux/prctl.h
CLOCK_REALTIME = 0  # linux/time.h
TIMER_ABSTIME = 1
NANOSECONDS = 1_000_000_000


class _Timespec(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))


def make_sleeper() -> Callable[[int], None]:
    """A function that sleeps until a moment of CLOCK_REALTIME, given in ns; for one thread.

    The clock of the time stamps: so one reading serves as both, which counts where reading a clock is a system call
    (user-mode Linux). A clock that is set meanwhile spoils the stamps anyway.
    """
    call = ctypes.CDLL(None, use_errno=False).clock_nanosleep
    call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.POINTER(_Timespec), ctypes.c_void_p)
    moment = _Timespec()
    reference = ctypes.byref(moment)

    def sleep_until(deadline_ns: int) -> None:
        moment.tv_sec, moment.tv_nsec = divmod(deadline_ns, NANOSECONDS)
        while call(CLOCK_REALTIME, TIMER_ABSTIME, reference, None) == errno.EINTR:
            pass

    return sleep_until


def set_timer_slack(nanoseconds: int) -> bool:
    """Let the kernel delay this thread's sleeps by no more than this (default 50 us); False when refused."""
    return bool(ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, nanoseconds, 0, 0, 0) == 0)


def become_realtime(priority: int) -> str:
    """Schedule this thread, and those it starts, before ordinary ones (SCHED_FIFO); empty when done, else why not."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except OSError as error:
        return f"SCHED_FIFO refused: {error.strerror}"
    return ""


def change_priority(priority: int) -> None:
    """Another priority for this thread, if it is a real-time one."""
    if os.sched_getscheduler(0) == os.SCHED_FIFO:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))


def become_ordinary() -> None:
    """Schedule this thread like any other again."""
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
