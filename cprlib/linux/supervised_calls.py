"""System calls of a QEMU that are recorded, or fail when a test says so.

The program is started through this module, which installs a seccomp filter before it executes it. The filter asks a
supervisor about the chosen system calls (SECCOMP_RET_USER_NOTIF, seccomp_unotify(2)); this class is the supervisor,
and lets all of them continue except those that a test has chosen to fail. A test can also act before one continues.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import socket
import struct
import sys
import tempfile
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cprlib.errors import InstrumentError
from cprlib.linux import ioctls
from cprlib.linux.libc import filter_system_calls
from cprlib.linux.procfs import status_field

CLOSE, IOCTL, WRITEV, SENDMSG, FCNTL, OPENAT, DUP3 = 3, 16, 20, 46, 72, 257, 292  # asm/unistd_64.h
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
_DESCRIPTOR = struct.Struct("i")  # in SCM_RIGHTS, unix(7)
_CONTINUE = 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE
_WRITE, _SIZE_SHIFT, _SIZE_MASK = 0x40000000, 16, 0x3FFF  # of a request of ioctl(2), asm-generic/ioctl.h


@dataclass(frozen=True, slots=True)
class SystemCall:
    """A system call that can be made to fail.

    :param number: on x86-64.
    :param value: low 32 bits of one of its arguments; :data:`ANY` for all calls.
    :param position: position of this argument, from 0; by default the request of ioctl(2), the command of fcntl(2).
    """

    number: int
    value: int = ANY
    position: int = 1

    def is_made(self, number: int, arguments: Sequence[int]) -> bool:
        return number == self.number and self.value in (ANY, arguments[self.position] & 0xFFFFFFFF)


OPEN_VHOST_AGAIN = SystemCall(OPENAT, 0x80802, 2)  # O_RDWR | O_NONBLOCK | O_CLOEXEC
ALWAYS = 1 << 62  # for FailingCall.times


@dataclass(frozen=True, slots=True)
class MadeCall:
    """A system call of a program that was not made to fail.

    :param pid: the process that made it.
    :param data: what a request of ioctl(2) gives the kernel in memory, by the size in the request; else empty, also
        where there is no memory.
    :param descriptor_open: whether the first argument is a descriptor that is open.
    """

    pid: int
    number: int
    arguments: tuple[int, ...]
    data: bytes
    descriptor_open: bool


@dataclass(slots=True)
class FailingCall:
    """A system call that is to fail.

    :param error: errno.
    :param descriptor: only calls with this first argument; :data:`ANY` for all.
    :param other_than: no calls with one of these first arguments.
    :param after: calls to let pass before; :param times: calls to let fail then.
    :param since: a supervised call that has to be made first.
    """

    call: SystemCall
    error: int = errno.EIO
    descriptor: int = ANY
    other_than: Collection[int] = ()
    after: int = 0
    times: int = 1
    since: SystemCall | None = None

    def concerns(self, number: int, arguments: Sequence[int]) -> bool:
        descriptor = arguments[0]
        return (
            self.call.is_made(number, arguments)
            and self.descriptor in (ANY, descriptor)
            and descriptor not in self.other_than
        )


class SupervisedCalls:
    """Supervises programs that are started with :attr:`prefix`, as a context manager.

    :param calls: to supervise; each of them costs a round trip to this process, so choose seldom ones.
    :param record: keep them in :attr:`made`.
    """

    def __init__(self, calls: Sequence[SystemCall], *, record: bool = False) -> None:
        self._calls = tuple(calls)
        self._record = record
        self._made: list[MadeCall] = []
        self._stack = contextlib.ExitStack()
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="calls-")))
        self._server = self._stack.enter_context(socket.socket(socket.AF_UNIX))
        self._server.bind(str(self._folder / "s"))
        self._server.listen()
        self._ended, self._end = os.pipe()
        self._lock = threading.Lock()
        self._armed: list[FailingCall] = []  # what is left of each
        self._failed: list[SystemCall] = []
        self._actions: list[tuple[SystemCall, Callable[[], None]]] = []
        self._action_error: Exception | None = None
        self._thread = threading.Thread(target=self._supervise, name="supervised-calls", daemon=True)

    def __enter__(self) -> SupervisedCalls:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the supervision.

        :raises InstrumentError: an action of :meth:`before_next` failed.
        """
        os.close(self._end)
        self._thread.join(END_SECONDS)
        os.close(self._ended)
        self._stack.close()
        if self._action_error is not None:
            raise InstrumentError("act before a system call", str(self._action_error)) from self._action_error

    @property
    def prefix(self) -> tuple[str, ...]:
        """Words before a command line."""
        rules = [f"{call.number}:{call.value}:{call.position}" for call in self._calls]
        return (sys.executable, "-m", __name__, str(self._folder / "s"), *rules, "--")

    @property
    def made(self) -> tuple[MadeCall, ...]:
        """The recorded calls, in the order in which they were made."""
        with self._lock:
            return tuple(self._made)

    @property
    def failed(self) -> tuple[SystemCall, ...]:
        with self._lock:
            return tuple(self._failed)

    def arm(self, *calls: FailingCall) -> None:
        """Let the next of these calls fail."""
        with self._lock:
            self._armed += [replace(item) for item in calls]

    def disarm(self) -> tuple[SystemCall, ...]:
        """Let all calls pass again; returns those that were to fail and were not made."""
        with self._lock:
            left = tuple(item.call for item in self._armed)
            self._armed.clear()
        return left

    def before_next(self, call: SystemCall, action: Callable[[], None]) -> None:
        """Run an action in the supervisor's thread before the next such call continues: its thread waits meanwhile."""
        with self._lock:
            self._actions.append((call, action))

    def _act(self, number: int, arguments: Sequence[int]) -> None:
        with self._lock:
            due = [item for item in self._actions if item[0].is_made(number, arguments)]
            self._actions = [item for item in self._actions if item not in due]
        for _, action in due:
            try:
                action()
            except Exception as error:  # the program must continue, whatever failed
                self._action_error = error

    def _error_of(self, number: int, arguments: Sequence[int]) -> int:
        """errno of a call, 0 to let it pass."""
        with self._lock:
            for item in self._armed:
                if item.since is not None:
                    if item.since.is_made(number, arguments):
                        item.since = None
                    continue
                if not item.concerns(number, arguments):
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

    def _keep(self, thread: int, number: int, arguments: Sequence[int]) -> None:
        try:
            data = _data_of(thread, number, arguments)
        except (OSError, OverflowError):  # the program was killed, or the kernel will refuse the address
            data = b""
        process = status_field(thread, "Tgid")
        is_open = os.path.lexists(f"/proc/{thread}/fd/{arguments[0]}")
        with self._lock:
            self._made.append(MadeCall(int(process or thread), number, tuple(arguments), data, is_open))

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
                        for listener in self._accept():
                            listeners.callback(os.close, listener)
                            poll.register(listener, select.POLLIN)
                    elif events & select.POLLIN:
                        self._answer(number)
                    else:  # POLLHUP: the program has ended
                        poll.unregister(number)

    def _accept(self) -> Sequence[int]:
        """The listener of a new program, which continues then; none when it has died before it sent one."""
        connection, _ = self._server.accept()
        with connection:
            # not socket.recv_fds(), which ignores its flags in Python 3.11
            _, rights, _, _ = connection.recvmsg(1, socket.CMSG_LEN(_DESCRIPTOR.size), socket.MSG_CMSG_CLOEXEC)
            with contextlib.suppress(ConnectionError):  # it has died meanwhile
                connection.sendall(b"!")
        return [_DESCRIPTOR.unpack(data)[0] for _, _, data in rights]

    def _answer(self, listener: int) -> None:
        notification = bytearray(_NOTIFICATION.size)
        with contextlib.suppress(OSError):  # the program was killed meanwhile
            fcntl.ioctl(listener, _RECEIVE, notification)
            identifier, thread, _, number, _, _, *arguments = _NOTIFICATION.unpack(notification)
            code = self._error_of(number, arguments)
            if self._record and not code:
                self._keep(thread, number, arguments)
            self._act(number, arguments)
            answer = _ANSWER.pack(identifier, 0, -code, 0 if code else _CONTINUE)
            fcntl.ioctl(listener, _SEND, bytearray(answer))


def _data_of(thread: int, number: int, arguments: Sequence[int]) -> bytes:
    request = arguments[1]
    if number != IOCTL or not request & _WRITE:
        return b""
    with Path(f"/proc/{thread}/mem").open("rb", buffering=0) as memory:
        memory.seek(arguments[2])
        data = memory.read(request >> _SIZE_SHIFT & _SIZE_MASK)
        if request == ioctls.VHOST_SET_FEATURES_ARRAY:
            data += memory.read(min(8 * int.from_bytes(data, "little"), _SIZE_MASK))
        return data


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
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, _DESCRIPTOR.pack(listener))
        connection.sendmsg([b"!"], [rights], socket.MSG_NOSIGNAL)  # a flag that no supervised call has
        connection.recv(1)
    os.execvp(command[0], list(command))  # noqa: S606 - no shell


if __name__ == "__main__":
    main(sys.argv[1:])
