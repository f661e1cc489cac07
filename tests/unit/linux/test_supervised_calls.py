"""System calls of a program that are recorded, or fail when a test says so."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from cprlib.errors import InstrumentError
from cprlib.linux import ioctls
from cprlib.linux.libc import filter_system_calls, same_open_file
from cprlib.linux.supervised_calls import CLOSE, FCNTL, IOCTL, FailingCall, SupervisedCalls, SystemCall, filter_program

F_GETFL = 3
GET_FLAGS = SystemCall(FCNTL, F_GETFL)
SET_SEND_BUFFER = SystemCall(IOCTL, ioctls.TUNSETSNDBUF)
TWICE = """
import fcntl
for _ in range(3):
    try:
        print(fcntl.fcntl(0, fcntl.F_GETFL) >= 0)
    except OSError as error:
        print(error.errno)
"""


def run(calls: SupervisedCalls, program: str = TWICE) -> list[str]:
    command = [*calls.prefix, sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    if "Operation not permitted" in done.stderr or "Function not implemented" in done.stderr:
        pytest.skip("this machine has no seccomp filters")
    return done.stdout.split()


def test_chosen_call_fails_once_and_others_continue() -> None:
    with SupervisedCalls([SystemCall(FCNTL, 99), GET_FLAGS]) as calls:
        assert run(calls) == ["True", "True", "True"]
        calls.arm(FailingCall(GET_FLAGS, after=1))
        assert run(calls) == ["True", str(errno.EIO), "True"]
        assert calls.failed == (GET_FLAGS,)
        calls.arm(FailingCall(GET_FLAGS))
        assert calls.disarm() == (GET_FLAGS,)
        assert run(calls) == ["True", "True", "True"]


def test_a_program_that_dies_before_it_has_a_filter_leaves_the_others_supervised() -> None:
    with SupervisedCalls([GET_FLAGS]) as calls:
        with socket.socket(socket.AF_UNIX) as dying:
            dying.connect(calls.prefix[3])
        assert run(calls) == ["True", "True", "True"]


def test_filter_ends_by_allowing() -> None:
    program = filter_program([SystemCall(FCNTL), GET_FLAGS])
    assert len(program) % 8 == 0
    assert program[-8:] == b"\x06\0\0\0\0\0\xff\x7f"


def test_calls_pass_until_another_one_is_made() -> None:
    with SupervisedCalls([GET_FLAGS]) as calls:
        calls.arm(FailingCall(GET_FLAGS, times=2, since=GET_FLAGS))
        assert run(calls) == ["True", str(errno.EIO), str(errno.EIO)]
        calls.arm(FailingCall(GET_FLAGS, descriptor=12345))
        calls.arm(FailingCall(GET_FLAGS, other_than=[0]))
        assert run(calls) == ["True", "True", "True"]


def test_an_action_comes_before_the_next_call_and_only_that() -> None:
    with SupervisedCalls([GET_FLAGS], record=True) as calls:
        made: list[int] = []
        calls.before_next(GET_FLAGS, lambda: made.append(len(calls.made)))
        assert run(calls) == ["True", "True", "True"]
    assert made == [1]


def test_calls_are_recorded_with_what_the_kernel_is_given_in_memory() -> None:
    program = f"""
import fcntl, os, struct
print(os.getpid())
for given in (struct.pack("i", 7), 16):  # 16 is no address
    try:
        fcntl.ioctl(0, {SET_SEND_BUFFER.value}, given)
    except OSError as error:
        print(error.errno)
"""
    with SupervisedCalls([SET_SEND_BUFFER, GET_FLAGS], record=True) as calls:
        calls.arm(FailingCall(GET_FLAGS))
        pid, *refused = run(calls, program)
        run(calls)
        sent, unreadable, *others = calls.made
    assert refused == [str(errno.ENOTTY)] * 2
    assert (sent.pid, sent.number, sent.arguments[:2], sent.data) == (
        int(pid),
        IOCTL,
        (0, SET_SEND_BUFFER.value),
        struct.pack("i", 7),
    )
    assert (unreadable.pid, unreadable.number, unreadable.arguments[2], unreadable.data) == (int(pid), IOCTL, 16, b"")
    assert [(call.number, call.data) for call in others] == [(FCNTL, b"")] * 2  # the first of three failed


def test_an_address_that_no_file_offset_can_be_ends_no_supervision() -> None:
    program = f"""
import ctypes
for _ in range(2):
    print(ctypes.CDLL(None).ioctl(0, ctypes.c_ulong({SET_SEND_BUFFER.value}), ctypes.c_ulong(1 << 63)))
"""
    with SupervisedCalls([SET_SEND_BUFFER], record=True) as calls:
        assert run(calls, program) == ["-1", "-1"]
        assert [call.data for call in calls.made] == [b"", b""]


def test_the_supervision_is_not_inherited_by_other_programs() -> None:
    inherited: list[str] = []

    def look() -> None:
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                if os.get_inheritable(int(name)):
                    inherited.append(os.readlink(f"/proc/self/fd/{name}"))

    with SupervisedCalls([GET_FLAGS]) as calls:
        calls.before_next(GET_FLAGS, look)
        run(calls)
    assert not [link for link in inherited if "seccomp" in link]


def test_features_array_is_recorded_with_all_its_words() -> None:
    words = struct.pack("3Q", 2, 5, 1 << 3)
    program = f"""
import ctypes
words = ctypes.create_string_buffer({words!r})
print(ctypes.CDLL(None).ioctl(0, ctypes.c_ulong({ioctls.VHOST_SET_FEATURES_ARRAY}), words))
"""
    with SupervisedCalls([SystemCall(IOCTL, ioctls.VHOST_SET_FEATURES_ARRAY)], record=True) as calls:
        assert run(calls, program) == ["-1"]  # standard input is no vhost device
        (call,) = calls.made
    assert call.data == words


def test_record_says_whether_a_descriptor_was_open() -> None:
    with SupervisedCalls([SystemCall(CLOSE)], record=True) as calls:
        run(calls, "import contextlib, os\nos.close(0)\nwith contextlib.suppress(OSError):\n    os.close(0)\n")
        made = [call.descriptor_open for call in calls.made if call.arguments[0] == 0]
    assert made[-2:] == [True, False]


@pytest.mark.parametrize("call", [lambda: filter_system_calls(b""), lambda: same_open_file(1, 0, 1, 0)])
def test_system_calls_of_another_processor_are_not_known(
    call: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine="aarch64"))
    with pytest.raises(InstrumentError, match="on aarch64 is not known"):
        call()
