"""System calls of a program that fail when a test says so."""

from __future__ import annotations

import errno
import subprocess
import sys

import pytest

from cprlib.linux.failing_calls import FCNTL, FailingCalls, SystemCall, filter_program

F_GETFL = 3
GET_FLAGS = SystemCall(FCNTL, F_GETFL)
TWICE = """
import fcntl
for _ in range(3):
    try:
        print(fcntl.fcntl(0, fcntl.F_GETFL) >= 0)
    except OSError as error:
        print(error.errno)
"""


def run(calls: FailingCalls) -> list[str]:
    done = subprocess.run([*calls.prefix, sys.executable, "-c", TWICE], capture_output=True, text=True, check=False)
    if "Operation not permitted" in done.stderr or "Function not implemented" in done.stderr:
        pytest.skip("this machine has no seccomp filters")
    return done.stdout.split()


def test_chosen_call_fails_once_and_others_continue() -> None:
    with FailingCalls([SystemCall(FCNTL, 99), GET_FLAGS]) as calls:
        assert run(calls) == ["True", "True", "True"]
        calls.fail_next(GET_FLAGS, errno.EIO, after=1)
        assert run(calls) == ["True", str(errno.EIO), "True"]
        assert calls.failed == (GET_FLAGS,)
        calls.fail_next(GET_FLAGS, errno.EIO)
        assert calls.disarm() == (GET_FLAGS,)
        assert run(calls) == ["True", "True", "True"]


def test_filter_ends_by_allowing() -> None:
    program = filter_program([SystemCall(FCNTL), GET_FLAGS])
    assert len(program) % 8 == 0
    assert program[-8:] == b"\x06\0\0\0\0\0\xff\x7f"


def test_calls_pass_until_another_one_is_made() -> None:
    with FailingCalls([GET_FLAGS]) as calls:
        calls.fail_next(GET_FLAGS, errno.EIO, times=2, since=GET_FLAGS)
        assert run(calls) == ["True", str(errno.EIO), str(errno.EIO)]
        calls.fail_next(GET_FLAGS, errno.EIO, descriptor=12345)
        assert run(calls) == ["True", "True", "True"]
