"""A session-reflector in Python: it answers streams that start in the guest, and replaces the guest in unit tests.

Stateful (RFC 8762 section 4.3): each session (peer address and port) has its own sequence numbers.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from array import array
from collections import Counter
from collections.abc import Sequence

from cprlib.traffic.packet_records import Reflection
from cprlib.traffic.sockets import SO_TIMESTAMPNS, Ancillary, by_kind, family_of, kernel_time_ns, new_socket
from cprlib.traffic.stamp import ERROR_ESTIMATE, MINIMUM_SIZE, REFLECTOR, SENDER, STAMP_PORT, ns_to_ntp

SO_RXQ_OVFL = 40  # asm-generic/socket.h
SO_RCVBUFFORCE = 33
IP_RECVTTL = 12  # linux/in.h
RECEIVE_BUFFER = 64 * 1024 * 1024
LARGEST_DATAGRAM = 65536  # packets may be larger than the MTU


class StampReflector:
    """Answers test packets, one thread per address, and keeps a log; a context manager.

    The sockets belong to the network namespace of the calling thread.

    :param port: UDP port to listen on.
    :param addresses: local addresses to bind; all of IPv4 and IPv6 by default.
    :raises EnvironmentFailure: the port is taken, or rights are missing.
    """

    def __init__(self, port: int = STAMP_PORT, addresses: Sequence[str] = ("0.0.0.0", "::")) -> None:  # noqa: S104
        self.counts: Counter[str] = Counter()
        self._peers: list[tuple[str, int]] = []
        self._columns = tuple(array(kind) for kind in "IIqqI")
        self._sequences: dict[tuple[str, int], list[int]] = {}
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._overflow: dict[int, int] = {}
        self._lock = threading.Lock()
        with contextlib.ExitStack() as stack:
            self._sockets = [stack.enter_context(_listen(address, port)) for address in addresses]
            self._resources = stack.pop_all()

    def __enter__(self) -> StampReflector:
        for opened in self._sockets:  # packets that arrived since construction wait in them
            thread = threading.Thread(target=self._run, args=(opened,), name="stamp-reflector", daemon=True)
            self._threads.append(thread)
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._resources.close()

    @property
    def dropped(self) -> int:
        """Packets that the sockets dropped because their buffers were full (SO_RXQ_OVFL of the last packet)."""
        return sum(self._overflow.values())

    def log(self) -> tuple[Reflection, ...]:
        """Every test packet answered so far, in the order of answering."""
        lines = min(map(len, self._columns))
        sender, reflector, received, sent, peer = self._columns
        return tuple(
            Reflection(sender[i], reflector[i], received[i], sent[i], *self._peers[peer[i]]) for i in range(lines)
        )

    def _run(self, opened: socket.socket) -> None:
        opened.settimeout(0.05)
        while not self._stop.is_set():
            try:
                self._answer(opened)
            except TimeoutError:
                continue
            except OSError as error:
                self.counts[f"error: {error.strerror}"] += 1

    def _answer(self, opened: socket.socket) -> None:
        payload, ancillary, _flags, peer = opened.recvmsg(LARGEST_DATAGRAM, 256)
        if len(payload) < MINIMUM_SIZE:
            self.counts["too short"] += 1
            return
        received_ns, ttl = self._read_ancillary(opened, ancillary)
        sequence, stamp, estimate, ssid = SENDER.unpack_from(payload)
        if not estimate & 0xFF:  # a multiplier of 0 is invalid (RFC 4656 section 4.1.2)
            self.counts["corrupt"] += 1
            return
        key = (peer[0], peer[1])
        session = self._sequences.get(key)
        if session is None:
            with self._lock:
                session = self._sequences[key] = [len(self._peers), 0]
                self._peers.append(key)
        number, own = session
        sent_ns = time.time_ns()
        answer = REFLECTOR.pack(
            own, ns_to_ntp(sent_ns), ERROR_ESTIMATE, ssid, ns_to_ntp(received_ns), sequence, stamp, estimate, ttl
        )
        opened.sendto(answer + payload[MINIMUM_SIZE:], peer)
        session[1] = own + 1
        with self._lock:
            for column, value in zip(self._columns, (sequence, own, received_ns, sent_ns, number), strict=True):
                column.append(value)

    def _read_ancillary(self, opened: socket.socket, ancillary: Ancillary) -> tuple[int, int]:
        values = by_kind(ancillary)
        if overflow := values.get((socket.SOL_SOCKET, SO_RXQ_OVFL)):
            self._overflow[opened.fileno()] = int.from_bytes(overflow, sys.byteorder)
        ttl = values.get((socket.IPPROTO_IP, socket.IP_TTL)) or values.get((socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT))
        return kernel_time_ns(ancillary) or time.time_ns(), int.from_bytes(ttl, sys.byteorder) if ttl else 255


def _listen(address: str, port: int) -> socket.socket:
    family, tried = family_of(address), f"listen on UDP port {port} of {address}"
    with new_socket(family, socket.SOCK_DGRAM, tried, "end the other reflector, or choose another port") as opened:
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
        else:
            opened.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
        opened.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        opened.setsockopt(socket.SOL_SOCKET, SO_RXQ_OVFL, 1)
        try:
            opened.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
        except PermissionError:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        opened.bind((address, port))
        return opened
