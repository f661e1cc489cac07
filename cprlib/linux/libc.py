"""System calls and library functions that Python's standard library does not offer, and the scheduling of threads."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Callable, Mapping

from cprlib.errors import InstrumentError

CLONE_NEWNET, CLONE_NEWUSER = 0x40000000, 0x10000000  # linux/sched.h
KCMP_FILE = 0  # linux/kcmp.h
KCMP_NUMBERS = {"x86_64": 312}  # by machine, asm/unistd.h
PIDFD_GETFD_NUMBER = 438  # asm-generic/unistd.h, the same on every architecture
PR_SET_TIMERSLACK, PR_SET_NO_NEW_PRIVS = 29, 38  # linux/prctl.h
SECCOMP_NUMBERS = {"x86_64": 317}  # asm/unistd.h
SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER = 1, 8  # linux/seccomp.h
FSOPEN_NUMBER, FSCONFIG_NUMBER, FSMOUNT_NUMBER = 430, 431, 432  # asm-generic/unistd.h, the same everywhere
FSOPEN_CLOEXEC, FSCONFIG_CMD_CREATE, FSMOUNT_CLOEXEC = 1, 6, 1  # linux/mount.h
CLOCK_REALTIME, TIMER_ABSTIME = 0, 1  # linux/time.h
NANOSECONDS = 1_000_000_000


class _Timespec(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))


def _call(name: str, *arguments: int) -> int:
    """Call a function of the C library that sets errno.

    :raises OSError: it returned a negative number.
    """
    function = getattr(ctypes.CDLL(None, use_errno=True), name)
    result = int(function(*(ctypes.c_long(value) for value in arguments)))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _number(numbers: Mapping[str, int], name: str, tried: str) -> int:
    machine = os.uname().machine
    if machine not in numbers:
        raise InstrumentError(tried, f"the system call number of {name}(2) on {machine} is not known to cprlib")
    return numbers[machine]


def unshare_network(*, user: bool = False) -> None:
    """Move the calling thread into a new network namespace (unshare(2)).

    :param user: into a new user namespace as well, which needs no rights.
    :raises OSError: the kernel refused.
    """
    _call("unshare", CLONE_NEWNET | (CLONE_NEWUSER if user else 0))


def set_network_namespace(descriptor: int) -> None:
    """Move the calling thread into the network namespace of a descriptor (setns(2)).

    :raises OSError: the kernel refused.
    """
    _call("setns", descriptor, CLONE_NEWNET)


def same_open_file(pid: int, number: int, other_pid: int, other_number: int) -> bool:
    """Whether two descriptors of living processes refer to the same open file description (kcmp(2), KCMP_FILE).

    :raises InstrumentError: the kernel gave no answer, which never means "different".
    """
    tried = f"compare descriptor {number} of process {pid} with {other_number} of {other_pid}"
    system_call = _number(KCMP_NUMBERS, "kcmp", tried)
    try:
        return _call("syscall", system_call, pid, other_pid, KCMP_FILE, number, other_number) == 0
    except OSError as error:
        advice = {
            errno.ENOSYS: "this kernel lacks CONFIG_KCMP: use the lab",
            errno.EPERM: "run as root or in the lab: kcmp needs the right to trace both processes",
        }.get(error.errno or 0, "")
        raise InstrumentError(tried, f"kcmp: {error.strerror}", advice) from error


def duplicate_descriptor(pid: int, number: int) -> int:
    """Duplicate a descriptor of another process into this one (pidfd_getfd(2)); the caller closes it.

    :raises OSError: the process is gone, or the caller may not trace it.
    """
    process = os.pidfd_open(pid)
    try:
        return _call("syscall", PIDFD_GETFD_NUMBER, process, number, 0)
    finally:
        os.close(process)


def mount_sysfs() -> int:
    """A detached mount of sysfs for the calling thread's network namespace (fsopen(2), fsmount(2)).

    /sys shows the devices of the namespace in which it was mounted.

    :returns: a descriptor of its root, which the caller closes.
    :raises OSError: the kernel refused.
    """
    name = ctypes.create_string_buffer(b"sysfs")
    context = _call("syscall", FSOPEN_NUMBER, ctypes.addressof(name), FSOPEN_CLOEXEC)
    try:
        _call("syscall", FSCONFIG_NUMBER, context, FSCONFIG_CMD_CREATE, 0, 0, 0)
        return _call("syscall", FSMOUNT_NUMBER, context, FSMOUNT_CLOEXEC, 0)
    finally:
        os.close(context)


def make_sleeper() -> Callable[[int], None]:
    """A function that sleeps until a time of CLOCK_REALTIME in ns (clock_nanosleep(2)); each thread needs its own.

    Time stamps use the same clock, so that one clock reading serves both: under user-mode Linux a reading is a system
    call. Setting the clock during a run invalidates the time stamps anyway.
    """
    call = ctypes.CDLL(None, use_errno=False).clock_nanosleep
    call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.POINTER(_Timespec), ctypes.c_void_p)
    time = _Timespec()
    reference = ctypes.byref(time)

    def sleep_until(deadline_ns: int) -> None:
        time.tv_sec, time.tv_nsec = divmod(deadline_ns, NANOSECONDS)
        while call(CLOCK_REALTIME, TIMER_ABSTIME, reference, None) == errno.EINTR:
            pass

    return sleep_until


def set_timer_slack(nanoseconds: int) -> bool:
    """Limit how long the kernel may delay this thread's sleeps (default 50 us); False when refused."""
    try:
        _call("prctl", PR_SET_TIMERSLACK, nanoseconds, 0, 0, 0)
    except OSError:
        return False
    return True


def become_realtime(priority: int) -> str:
    """Schedule this thread and its future children by SCHED_FIFO.

    :returns: empty on success, else the reason.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except OSError as error:
        return f"SCHED_FIFO refused: {error.strerror}"
    return ""


def change_priority(priority: int) -> None:
    """Set the priority of this thread if it is a real-time one."""
    if os.sched_getscheduler(0) == os.SCHED_FIFO:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))


def become_ordinary() -> None:
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def filter_system_calls(program: bytes) -> int:
    """Install a seccomp filter for this thread and all programs that it executes (seccomp(2)).

    :param program: instructions of classic BPF, struct sock_filter each (linux/filter.h).
    :returns: the listener for calls that the filter answers with SECCOMP_RET_USER_NOTIF; closed at exec.
    :raises InstrumentError: the machine is none of those that cprlib knows.
    :raises OSError: the kernel refused.
    """
    number = _number(SECCOMP_NUMBERS, "seccomp", "install a seccomp filter")
    instructions = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(instructions))  # struct sock_fprog
    whole = ctypes.create_string_buffer(header, len(header))
    _call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    operation = (SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER)
    return _call("syscall", number, *operation, ctypes.addressof(whole))
