"""Gates relay bytes and descriptors, hold them, and spoil them; nothing of them stays open."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from collections.abc import Iterator
from typing import cast

import pytest

from cprlib.deadline import Deadline
from cprlib.errors import DeadlineExceeded, InstrumentError
from cprlib.linux.namespace import NetworkNamespace
from cprlib.update.channel_gate import ChannelGate
from cprlib.update.channel_piece import Piece, receive, send
from cprlib.update.pipe_gate import PipeGate


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
def source(gate: ChannelGate) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(f"\0{gate.name}")
        yield connection


def read_all(connection: socket.socket) -> tuple[bytes, list[int]]:
    data, descriptors = b"", list[int]()
    while (piece := receive(connection)).data:
        data += piece.data
        descriptors += piece.descriptors
    return data, descriptors


@pytest.fixture(autouse=True)
def nothing_left_open() -> Iterator[None]:
    before = sorted(os.listdir("/proc/self/fd"))
    yield
    assert sorted(os.listdir("/proc/self/fd")) == before


def pipe_piece(text: bytes) -> Piece:
    """Bytes with a descriptor, from which ``text`` can be read."""
    reader, writer = os.pipe()
    os.write(writer, text)
    os.close(writer)
    return Piece(b"x", (reader,))


def test_bytes_and_descriptors_cross_when_the_gate_opens() -> None:
    with target() as (name, listener), ChannelGate(HERE, name, None) as gate, source(gate) as connection:
        connection.sendall(b"head ")
        with_descriptor = pipe_piece(b"behind the descriptor")
        send(connection, with_descriptor)
        with_descriptor.close()
        connection.sendall(b" tail")
        connection.shutdown(socket.SHUT_WR)
        gate.wait_held(soon())
        assert (gate.byte_count, gate.descriptors) == (11, 1)
        assert [row.kind for row in gate.standing()] == ["pipe"]
        listener.settimeout(0.2)
        with pytest.raises(TimeoutError):
            listener.accept()
        listener.settimeout(10)
        gate.release()
        accepted, _ = listener.accept()
        with accepted:
            data, descriptors = read_all(accepted)
        assert data == b"head x tail"
        assert [os.read(number, 100) for number in descriptors] == [b"behind the descriptor"]
        for number in descriptors:
            os.close(number)
        assert connection.recv(1) == b""  # the target has closed its end


def test_both_directions_are_relayed_behind_an_open_gate() -> None:
    with target() as (name, listener), ChannelGate(HERE, name, 0) as gate, source(gate) as connection:
        gate.wait_held(soon())
        gate.release()
        accepted, _ = listener.accept()
        with accepted:
            accepted.settimeout(10)
            connection.sendall(b"there")
            assert accepted.recv(100) == b"there"
            accepted.sendall(b"back")
            assert connection.recv(100) == b"back"
        assert connection.recv(1) == b""


def test_the_beginning_is_passed_on() -> None:
    with target() as (name, listener), ChannelGate(HERE, name, 4, pass_on=True) as gate, source(gate) as connection:
        accepted, _ = listener.accept()
        with accepted:
            accepted.settimeout(10)
            connection.sendall(b"abcd")
            assert accepted.recv(100) == b"abcd"
            gate.wait_held(soon())
            connection.sendall(b"efgh")
            accepted.settimeout(0.2)
            with pytest.raises(TimeoutError):
                accepted.recv(100)
            accepted.settimeout(10)
            gate.release()
            assert accepted.recv(100) == b"efgh"


def test_cut_closes_both_sides_and_the_descriptors() -> None:
    with target() as (name, _), ChannelGate(HERE, name, None) as gate, source(gate) as connection:
        piece = pipe_piece(b"")
        send(connection, piece)
        piece.close()
        connection.shutdown(socket.SHUT_WR)
        gate.wait_held(soon())
        gate.cut()
        assert connection.recv(1) == b""


@pytest.mark.parametrize(("spoil", "expected"), [("replace", b"garbage"), ("truncate", b"abc")])
def test_what_stands_before_the_gate_is_spoilt(spoil: str, expected: bytes) -> None:
    with target() as (name, listener), ChannelGate(HERE, name, None) as gate, source(gate) as connection:
        connection.sendall(b"abcdef")
        connection.shutdown(socket.SHUT_WR)
        gate.wait_held(soon())
        if spoil == "replace":
            gate.replace(b"garbage")
        else:
            gate.truncate(3)
        accepted, _ = listener.accept()
        with accepted:
            assert read_all(accepted) == (expected, [])


def test_descriptors_can_be_kept_back() -> None:
    with target() as (name, listener), ChannelGate(HERE, name, None) as gate, source(gate) as connection:
        piece = pipe_piece(b"")
        send(connection, piece)
        piece.close()
        connection.sendall(b"yz")
        connection.shutdown(socket.SHUT_WR)
        gate.wait_held(soon())
        gate.truncate(gate.byte_count, descriptors=False)
        accepted, _ = listener.accept()
        with accepted:
            assert read_all(accepted) == (b"xyz", [])


def test_a_source_that_hangs_up_is_let_go() -> None:
    with target() as (name, listener), ChannelGate(HERE, name, None) as gate:
        with source(gate) as connection:
            connection.sendall(b"abc")
            connection.shutdown(socket.SHUT_WR)
            gate.wait_held(soon())
        gate.release()
        listener.settimeout(0.5)
        with contextlib.suppress(TimeoutError):  # either is right: it may have been noticed before the gate opened
            accepted, _ = listener.accept()
            accepted.close()


def test_a_gate_that_delivers_outlives_its_source() -> None:
    with target() as (name, listener), ChannelGate(HERE, name, 2, pass_on=True, delivers=True) as gate:
        with source(gate) as connection:
            connection.sendall(b"ab")
            gate.wait_held(soon())
            connection.sendall(b"cd")
        accepted, _ = listener.accept()
        with accepted:
            accepted.sendall(b"said to nobody")
            gate.release()
            assert read_all(accepted) == (b"abcd", [])
            accepted.sendall(b"and once more")


def test_a_refusing_gate_lets_nobody_in_before_it_opens() -> None:
    with (
        target() as (name, listener),
        ChannelGate(HERE, name, None, refuse=True) as gate,
        socket.socket(socket.AF_UNIX) as connection,
    ):
        connection.setblocking(False)
        with pytest.raises(BlockingIOError):
            connection.connect(f"\0{gate.name}")
        gate.release()
        connection.settimeout(10)
        soon().poll(lambda: True if connection.connect_ex(f"\0{gate.name}") == 0 else None)
        connection.sendall(b"abc")
        connection.shutdown(socket.SHUT_WR)
        accepted, _ = listener.accept()
        with accepted:
            assert read_all(accepted) == (b"abc", [])


def test_a_refusing_gate_can_be_cut() -> None:
    with target() as (name, _), ChannelGate(HERE, name, None, refuse=True) as gate:
        gate.cut()
        with socket.socket(socket.AF_UNIX) as connection, pytest.raises(ConnectionRefusedError):
            connection.connect(f"\0{gate.name}")


def test_nothing_comes_to_the_gate() -> None:
    with target() as (name, _), ChannelGate(HERE, name, None) as gate, pytest.raises(DeadlineExceeded):
        gate.wait_held(Deadline(0.1, "the source"))


def test_a_pipe_holds_its_reader() -> None:
    with PipeGate() as gate:
        reader = os.open(gate.path, os.O_RDONLY)
        assert gate.holds(os.getpid())
        gate.release()
        assert os.read(reader, 10) == b"\n"
        assert os.read(reader, 10) == b""
        os.close(reader)


def test_a_pipe_gate_tells_that_its_reader_is_gone() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    with PipeGate() as gate, pytest.raises(InstrumentError):
        gate.holds(child)
