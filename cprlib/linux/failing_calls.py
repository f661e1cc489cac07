"""System calls of a QEMU that fail when a test says so: failures of the kernel that nothing else brings about.

The program is started through this module, which installs a seccomp filter before it executes it. The filter asks a
supervisor about the chosen system calls (SECCOMP_RET_USER_NOTIF, seccomp_unotify(2)); this class is the supervisor,
and lets all of them continue except those that a test has chosen to fail.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import struct
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cprlib.linux.libc import filter_system_calls

IOCTL, WRITEV, FCNTL, OPENAT, DUP3 = 16, 20, 72, 257, 292  # asm/unistd_64.h
ANY = -1
END_SECONDS = 5.0  # a killed program may leave the supervisor waiting

# linux/filter.h, linux/seccomp.h
_INSTRUCTION = struct.Struct("HBBI")  # struct sock_filter
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06  # BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_JEQ|BPF_K, BPF_RET|BPF_K
_NUMBER_OFFSET, _ARGUMENTS_OFFSET = 0, 16  # in struct seccomp_data; the low half of an argument comes first
_ALLOW, _ASK = 0x7FFF0000, 0x7FC00000  # SECCOMP_RET_ALLOW, SECCOMP_RET_USER_NOTIF
_RECEIVE, _SEND = 0xC0502100, 0xC0182101  # SECCOMP_IOCTL_NOTIF_RECV, SECCOMP_IOCTL_NOTIF_SEND
_NOTIFICATION = struct.Struct("QIIiIQ6Q")  # struct seccomp_notif with struct seccomp_data
_ANSWER = struct.Struct("QqiI")  # struct seccomp_notif_resp
_CONTINUE = 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE


@dataclass(frozen=True, slots=True)
class SystemCall:
    """A system call that can be made to fail.

    :param number: on x86-64.
    :param value: of one of its arguments, low 32 bits; :data:`ANY` for all calls.
    :param position: of this argument, from 0; by default the request of ioctl(2), the command of fcntl(2).
    """

    number: int
    value: int = ANY
    position: int = 1

    def is_made(self, number: int, arguments: Sequence[int]) -> bool:
        return number == self.number and self.value in (ANY, arguments[self.position] & 0xFFFFFFFF)


@dataclass(slots=True)
class _Failure:
    """A failure to come.

    :param descriptor: first argument; :data:`ANY` for all.
    :param after: calls to let pass before; :param times: calls to let fail then.
    :param since: a call that has to be made first; None when it was, or there is none.
    """

    call: SystemCall
    error: int
    descriptor: int
    after: int
    times: int
    since: SystemCall | None


class FailingCalls:
    """Supervises programs that are started with :attr:`prefix`, as a context manager.

    :param calls: that can fail; each of them costs a round trip to this process, so choose seldom ones.
    """

    def __init__(self, calls: Sequence[SystemCall]) -> None:
        self._calls = tuple(calls)
        self._stack = contextlib.ExitStack()
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="calls-")))
        self._server = self._stack.enter_context(socket.socket(socket.AF_UNIX))
        self._server.bind(str(self._folder / "s"))
        self._server.listen()
        self._ended, self._end = os.pipe()
        self._lock = threading.Lock()
        self._armed: list[_Failure] = []
        self._failed: list[SystemCall] = []
        self._thread = threading.Thread(target=self._supervise, name="failing-calls", daemon=True)

    def __enter__(self) -> FailingCalls:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._end)
        self._thread.join(END_SECONDS)
        os.close(self._ended)
        self._stack.close()

    @property
    def prefix(self) -> tuple[str, ...]:
        """Words before a command line."""
        rules = [f"{call.number}:{call.value}:{call.position}" for call in self._calls]
        return (sys.executable, "-m", __name__, str(self._folder / "s"), *rules, "--")

    @property
    def failed(self) -> tuple[SystemCall, ...]:
        with self._lock:
            return tuple(self._failed)

    def fail_next(
        self,
        call: SystemCall,
        error: int,
        *,
        descriptor: int = ANY,
        after: int = 0,
        times: int = 1,
        since: SystemCall | None = None,
    ) -> None:
        """Let the next of these calls fail.

        :param error: errno.
        :param descriptor: only calls with this first argument.
        :param after: how many to let pass before that.
        :param times: how many to let fail.
        :param since: let all pass until this call is made, which must be one of the chosen ones.
        """
        with self._lock:
            self._armed.append(_Failure(call, error, descriptor, after, times, since))

    def disarm(self) -> tuple[SystemCall, ...]:
        """Let all calls pass again; returns those that were to fail and were not made."""
        with self._lock:
            left = tuple(item.call for item in self._armed)
            self._armed.clear()
        return left

    def _error_of(self, number: int, arguments: Sequence[int]) -> int:
        """errno of a call, 0 to let it pass."""
        with self._lock:
            for item in self._armed:
                if item.since is not None:
                    if item.since.is_made(number, arguments):
                        item.since = None
                    continue
                if not item.call.is_made(number, arguments) or item.descriptor not in (ANY, arguments[0]):
                    continue
                if item.after:
                    item.after -= 1
                    return 0
                item.times -= 1
                if not item.times:
                    self._armed.remove(item)
                self._failed.append(item.call)
                return item.error
        return 0

    def _supervise(self) -> None:
        poll = select.poll()
        poll.register(self._ended, select.POLLIN | select.POLLHUP)
        poll.register(self._server, select.POLLIN)
        with contextlib.ExitStack() as listeners:
            while True:
                for number, events in poll.poll():
                    if number == self._ended:
                        return
                    if number == self._server.fileno():
                        listener = self._accept()
                        listeners.callback(os.close, listener)
                        poll.register(listener, select.POLLIN)
                    elif events & select.POLLIN:
                        self._answer(number)
                    else:  # POLLHUP: the program has ended
                        poll.unregister(number)

    def _accept(self) -> int:
        """The listener of a new program, which continues then."""
        connection, _ = self._server.accept()
        with connection:
            _, (listener,), _, _ = socket.recv_fds(connection, 1, 1)
            connection.sendall(b"!")
        return listener

    def _answer(self, listener: int) -> None:
        notification = bytearray(_NOTIFICATION.size)
        with contextlib.suppress(OSError):  # the program was killed meanwhile
            fcntl.ioctl(listener, _RECEIVE, notification)
            identifier, _, _, number, _, _, *arguments = _NOTIFICATION.unpack(notification)
            code = self._error_of(number, arguments)
            answer = _ANSWER.pack(identifier, 0, -code, 0 if code else _CONTINUE)
            fcntl.ioctl(listener, _SEND, bytearray(answer))


def filter_program(calls: Sequence[SystemCall]) -> bytes:
    """A filter that asks about some system calls and allows all others."""
    program = b""
    for call in calls:
        program += _INSTRUCTION.pack(_LOAD, 0, 0, _NUMBER_OFFSET)
        if call.value == ANY:
            program += _INSTRUCTION.pack(_JUMP_IF_EQUAL, 0, 1, call.number)
        else:
            program += _INSTRUCTION.pack(_JUMP_IF_EQUAL, 0, 3, call.number)
            program += _INSTRUCTION.pack(_LOAD, 0, 0, _ARGUMENTS_OFFSET + 8 * call.position)
            program += _INSTRUCTION.pack(_JUMP_IF_EQUAL, 0, 1, call.value)
        program += _INSTRUCTION.pack(_RETURN, 0, 0, _ASK)
    return program + _INSTRUCTION.pack(_RETURN, 0, 0, _ALLOW)


def main(arguments: Sequence[str]) -> None:
    """Install a filter, pass its listener to the supervisor, execute the program."""
    end = arguments.index("--")
    path, rules, command = arguments[0], arguments[1:end], arguments[end + 1 :]
    calls = [SystemCall(*(int(part) for part in rule.split(":"))) for rule in rules]
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        listener = filter_system_calls(filter_program(calls))
        socket.send_fds(connection, [b"!"], [listener])
        connection.recv(1)
    os.execvp(command[0], list(command))  # noqa: S606 - no shell


if __name__ == "__main__":
    main(sys.argv[1:])
