"""A proxy relays, holds and changes messages; a start-up barrier holds a reader; neither leaves a descriptor open."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import socket
from collections.abc import Iterator
from typing import cast

import pytest

from cprlib.deadline import Deadline
from cprlib.errors import DeadlineExceeded, InstrumentError
from cprlib.linux.namespace import NetworkNamespace
from cprlib.update.barrier import StartupBarrier
from cprlib.update.proxy import ChannelProxy, Hold, Message, receive, send

pytestmark = pytest.mark.fast


class Here:
    """Stands for the network namespace of the QEMUs: the one that the test runs in."""

    def entered(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


HERE = cast(NetworkNamespace, Here())


def soon(purpose: str = "the relay") -> Deadline:
    return Deadline(10, purpose)


@contextlib.contextmanager
def target() -> Iterator[tuple[str, socket.socket]]:
    name = f"cprlib-test-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{name}")
        listener.listen(1)
        listener.settimeout(10)
        yield name, listener


@contextlib.contextmanager
def source(proxy: ChannelProxy) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(f"\0{proxy.name}")
        yield connection


def read_all(connection: socket.socket) -> tuple[bytes, list[int]]:
    data, descriptors = b"", list[int]()
    while (message := receive(connection)).data:
        data += message.data
        descriptors += message.descriptors
    return data, descriptors


@pytest.fixture(autouse=True)
def nothing_left_open() -> Iterator[None]:
    before = sorted(os.listdir("/proc/self/fd"))
    yield
    assert sorted(os.listdir("/proc/self/fd")) == before


def pipe_message(text: bytes) -> Message:
    """Bytes with a descriptor, from which ``text`` can be read."""
    reader, writer = os.pipe()
    os.write(writer, text)
    os.close(writer)
    return Message(b"x", (reader,))


def hold_descriptor(proxy: ChannelProxy, connection: socket.socket, text: bytes = b"") -> None:
    """Send a message with a descriptor, the last one, and wait until the proxy holds it."""
    message = pipe_message(text)
    send(connection, message)
    message.close()
    connection.shutdown(socket.SHUT_WR)
    proxy.wait_held(soon())


def test_bytes_and_descriptors_are_relayed_on_release() -> None:
    with target() as (name, listener), ChannelProxy(HERE, name) as proxy, source(proxy) as connection:
        connection.sendall(b"head ")
        with_descriptor = pipe_message(b"behind the descriptor")
        send(connection, with_descriptor)
        with_descriptor.close()
        connection.sendall(b" tail")
        connection.shutdown(socket.SHUT_WR)
        proxy.wait_held(soon())
        assert (proxy.byte_count, proxy.descriptors) == (11, 1)
        assert [row.kind for row in proxy.held_descriptors()] == ["pipe"]
        listener.settimeout(0.2)
        with pytest.raises(TimeoutError):
            listener.accept()
        listener.settimeout(10)
        proxy.release()
        accepted, _ = listener.accept()
        with accepted:
            data, descriptors = read_all(accepted)
        assert data == b"head x tail"
        assert [os.read(number, 100) for number in descriptors] == [b"behind the descriptor"]
        for number in descriptors:
            os.close(number)
        assert connection.recv(1) == b""  # the target has closed its end


def test_no_descriptor_stays_open_when_the_target_has_died() -> None:
    with target() as (name, listener), ChannelProxy(HERE, name) as proxy, source(proxy) as connection:
        hold_descriptor(proxy, connection, b"behind the descriptor")
        listener.close()
        proxy.release()
        soon().poll(lambda: not proxy.held_descriptors())


def test_both_directions_are_relayed_after_release() -> None:
    with (
        target() as (name, listener),
        ChannelProxy(HERE, name, Hold.WHEN_CONNECTED) as proxy,
        source(proxy) as connection,
    ):
        proxy.wait_held(soon())
        proxy.release()
        accepted, _ = listener.accept()
        with accepted:
            accepted.settimeout(10)
            connection.sendall(b"there")
            assert accepted.recv(100) == b"there"
            accepted.sendall(b"back")
            assert connection.recv(100) == b"back"
        assert connection.recv(1) == b""


def test_answer_of_a_target_that_hangs_up_without_reading_on_arrives() -> None:
    """A target has all state, answers and closes, while the end of the source's stream is still on its way."""
    with (
        target() as (name, listener),
        ChannelProxy(HERE, name, Hold.WHEN_CONNECTED) as proxy,
        source(proxy) as connection,
    ):
        proxy.wait_held(soon())
        proxy.release()
        accepted, _ = listener.accept()
        accepted.sendall(b"x")
        assert connection.recv(1) == b"x"
        for _ in range(20):
            connection.send(b"more")
        accepted.sendall(b"done")
        accepted.close()
        assert connection.recv(4, socket.MSG_WAITALL) == b"done"  # a reset may follow: what was sent was not read


def test_the_beginning_is_passed_on() -> None:
    with (
        target() as (name, listener),
        ChannelProxy(HERE, name, 4, forward_held=True) as proxy,
        source(proxy) as connection,
    ):
        accepted, _ = listener.accept()
        with accepted:
            accepted.settimeout(10)
            connection.sendall(b"abcd")
            assert accepted.recv(100) == b"abcd"
            proxy.wait_held(soon())
            connection.sendall(b"efgh")
            accepted.settimeout(0.2)
            with pytest.raises(TimeoutError):
                accepted.recv(100)
            accepted.settimeout(10)
            proxy.release()
            assert accepted.recv(100) == b"efgh"


def test_cut_closes_both_sides_and_the_descriptors() -> None:
    with target() as (name, _), ChannelProxy(HERE, name) as proxy, source(proxy) as connection:
        hold_descriptor(proxy, connection)
        proxy.cut()
        assert connection.recv(1) == b""


@pytest.mark.parametrize(("change", "expected"), [("replace", b"garbage"), ("truncate", b"abc")])
def test_held_messages_are_changed(change: str, expected: bytes) -> None:
    with target() as (name, listener), ChannelProxy(HERE, name) as proxy, source(proxy) as connection:
        connection.sendall(b"abcdef")
        connection.shutdown(socket.SHUT_WR)
        proxy.wait_held(soon())
        if change == "replace":
            proxy.replace(b"garbage")
        else:
            proxy.truncate(3)
        accepted, _ = listener.accept()
        with accepted:
            assert read_all(accepted) == (expected, [])


def test_descriptors_can_be_dropped() -> None:
    with target() as (name, listener), ChannelProxy(HERE, name) as proxy, source(proxy) as connection:
        message = pipe_message(b"")
        send(connection, message)
        message.close()
        connection.sendall(b"yz")
        connection.shutdown(socket.SHUT_WR)
        proxy.wait_held(soon())
        proxy.truncate(proxy.byte_count, descriptors=False)
        accepted, _ = listener.accept()
        with accepted:
            assert read_all(accepted) == (b"xyz", [])


def test_a_source_that_hangs_up_ends_the_channel() -> None:
    with target() as (name, listener), ChannelProxy(HERE, name) as proxy:
        with source(proxy) as connection:
            connection.sendall(b"abc")
            connection.shutdown(socket.SHUT_WR)
            proxy.wait_held(soon())
        proxy.release()
        listener.settimeout(0.5)
        with contextlib.suppress(TimeoutError):  # either is right: it may have been noticed before the proxy opened
            accepted, _ = listener.accept()
            accepted.close()


def test_a_proxy_that_delivers_outlives_its_source() -> None:
    with target() as (name, listener), ChannelProxy(HERE, name, 2, forward_held=True, outlive_source=True) as proxy:
        with source(proxy) as connection:
            connection.sendall(b"ab")
            proxy.wait_held(soon())
            connection.sendall(b"cd")
        accepted, _ = listener.accept()
        with accepted:
            accepted.sendall(b"never read")
            proxy.release()
            assert read_all(accepted) == (b"abcd", [])
            accepted.sendall(b"and once more")


def test_a_source_never_waits_for_room_in_an_unlimited_proxy() -> None:
    data = bytes(4 << 20)  # more than a socket has room for
    with (
        target() as (name, listener),
        ChannelProxy(HERE, name, 2, forward_held=True, outlive_source=True, unlimited=True) as proxy,
    ):
        with source(proxy) as connection:
            connection.settimeout(10)
            connection.sendall(data)
        accepted, _ = listener.accept()
        with accepted:
            proxy.release()
            assert read_all(accepted) == (data, [])


def test_a_refusing_proxy_accepts_only_after_release() -> None:
    with (
        target() as (name, listener),
        ChannelProxy(HERE, name, Hold.BEFORE_ACCEPT) as proxy,
        socket.socket(socket.AF_UNIX) as connection,
    ):
        connection.setblocking(False)
        with pytest.raises(BlockingIOError):
            connection.connect(f"\0{proxy.name}")
        proxy.release()
        connection.settimeout(10)
        soon().poll(lambda: connection.connect_ex(f"\0{proxy.name}") == 0)
        connection.sendall(b"abc")
        connection.shutdown(socket.SHUT_WR)
        accepted, _ = listener.accept()
        with accepted:
            assert read_all(accepted) == (b"abc", [])


def test_a_refusing_proxy_can_be_cut() -> None:
    with target() as (name, _), ChannelProxy(HERE, name, Hold.BEFORE_ACCEPT) as proxy:
        proxy.cut()
        with socket.socket(socket.AF_UNIX) as connection, pytest.raises(ConnectionRefusedError):
            connection.connect(f"\0{proxy.name}")


def test_a_proxy_that_never_holds_exceeds_the_deadline() -> None:
    with target() as (name, _), ChannelProxy(HERE, name) as proxy, pytest.raises(DeadlineExceeded):
        proxy.wait_held(Deadline(0.1, "the source"))


def test_a_barrier_holds_its_reader() -> None:
    with StartupBarrier() as proxy:
        reader = os.open(proxy.path, os.O_RDONLY)
        assert proxy.holds(os.getpid())
        proxy.release()
        assert os.read(reader, 10) == b"\n"
        assert os.read(reader, 10) == b""
        os.close(reader)


def test_a_barrier_reports_that_its_reader_has_ended() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    with StartupBarrier() as proxy, pytest.raises(InstrumentError):
        proxy.holds(child)


def test_a_recording_proxy_relays_at_once_and_keeps_what_the_source_sent() -> None:
    with target() as (name, listener), ChannelProxy(HERE, name, Hold.WHEN_CONNECTED, record=True) as proxy:
        proxy.release()
        with source(proxy) as sender:
            sender.sendall(b"state")
            receiver = listener.accept()[0]
            with receiver:
                receiver.settimeout(10)
                assert receiver.recv(100) == b"state"
                receiver.sendall(b"reply")
                assert sender.recv(100) == b"reply"
                sender.sendall(b" of devices" * 20_000)
                sender.shutdown(socket.SHUT_WR)
                assert read_all(receiver)[0] == b" of devices" * 20_000
        assert bytes(proxy.recorded) == b"state" + b" of devices" * 20_000


def test_a_proxy_that_holds_answers_relays_what_the_source_sends() -> None:
    with target() as (name, listener), ChannelProxy(HERE, name, Hold.WHEN_CONNECTED, hold_answers=True) as proxy:
        proxy.release()
        with source(proxy) as sender:
            sender.sendall(b"state")
            with listener.accept()[0] as receiver:
                receiver.settimeout(10)
                assert receiver.recv(100) == b"state"
                receiver.sendall(b"reply")
                sender.sendall(b"more")
                assert receiver.recv(100) == b"more"
                sender.settimeout(0.2)
                with pytest.raises(TimeoutError):
                    sender.recv(100)


def test_a_proxy_that_cannot_listen_leaves_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EADDRINUSE, "Address already in use")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    before = os.listdir("/proc/self/fd")
    proxy = ChannelProxy(HERE, "target")
    with pytest.raises(OSError, match="in use"), proxy:
        pass
    assert os.listdir("/proc/self/fd") == before
