"""The agent in the guest: session-reflector, session-sender, TCP connections, and the guest's view of its NICs."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Mapping

from cprlib.deadline import Deadline
from cprlib.guest.channel import AGENT_ANSWER_S, LINE_LIMIT, AgentChannel
from cprlib.guest.files import GuestFile, parse_files
from cprlib.guest.packet_log import RECORD_SIZE, PacketLog
from cprlib.guest.replies import (
    GUEST_INTERFACE,
    BoundDriver,
    BrokenRing,
    Clocks,
    Identity,
    NetInfo,
    ReflectorCounters,
    Reply,
    RssSettings,
    SenderStream,
    TcpResult,
    ToggleResult,
    invalid_answer,
)
from cprlib.linux.topology import GUEST

REPEAT_S = 2.0  # without an answer for this long, an idempotent request is sent again
FILES_REPEAT_S = 10.0  # more than it takes on a busy machine: a repetition would make the guest busier still
LOG_S = 60.0  # for each part of a log
REBIND_S = 20.0  # a driver that is bound negotiates, which is slow under emulation
LEAST_PART = LINE_LIMIT // 2  # bytes of a part of a log, except the last: the agent sends as many as fit
LOG_LIMIT = 10_000_000  # records; a guest that claims more is lying


class AgentConnection:
    """The agent of one guest, through the QEMU that currently runs it.

    All methods raise GuestFailed (request refused, channel closed), DeadlineExceeded (no answer) or InstrumentError
    (invalid answer).

    :param connection: our end of the virtio-serial port; the caller closes it.
    :param when_silent: called when a request was not answered, before it fails.
    """

    def __init__(self, connection: socket.socket, when_silent: Callable[[], None] = lambda: None) -> None:
        self._channel = AgentChannel(connection, when_silent)

    def use(self, connection: socket.socket) -> None:
        """Switch to another QEMU, after a live update."""
        self._channel.use(connection)

    def _repeatable(
        self, command: str, parameters: Mapping[str, str | int] | None = None, seconds: float = AGENT_ANSWER_S
    ) -> Reply:
        """The answer to a request that may be carried out twice."""
        return self._channel.request(command, parameters, seconds=seconds, repeat_after=REPEAT_S)

    def ping(self, seconds: float = AGENT_ANSWER_S) -> Clocks:
        """The guest's clocks; also shows that the agent is alive."""
        return self._repeatable("ping", seconds=seconds).read(Clocks)

    def identity(self) -> Identity:
        return self._repeatable("identity").read(Identity)

    def network(self) -> NetInfo:
        return self._repeatable("netinfo").read(NetInfo)

    def files(self, patterns: Iterable[str]) -> Mapping[str, GuestFile]:
        """Files of the guest by path, in the order of the patterns; long ones without their end.

        :param patterns: of glob(7), with braces, without ``:`` and spaces; a request has room for 2000 characters.
        """
        parameters = {"of": ":".join(patterns)}
        return parse_files(self._channel.request("files", parameters, seconds=30, repeat_after=FILES_REPEAT_S))

    def set_queue_pairs(self, pairs: int, device: str = GUEST_INTERFACE) -> int:
        """Set the number of queue pairs, as ``ethtool -L combined``; returns how many are in use now."""
        return self._repeatable("set-channels", {"device": device, "pairs": pairs}).number("channels")

    def set_ring_sizes(self, receive: int, send: int) -> None:
        """Set the sizes of the rings in packets, as ``ethtool -G``; the driver resets them one by one."""
        self._repeatable("set-rings", {"device": GUEST_INTERFACE, "rx": receive, "tx": send}, seconds=REBIND_S)

    def start_toggling(self, low: int, high: int, period_ms: int) -> None:
        """Alternate the number of queue pairs between two values until :meth:`stop_toggling`."""
        self._channel.request(
            "toggle-start", {"low": low, "high": high, "period_ms": period_ms, "device": GUEST_INTERFACE}
        )

    def stop_toggling(self) -> ToggleResult:
        return self._repeatable("toggle-stop").read(ToggleResult)

    def toggling(self) -> ToggleResult:
        """The changes of the number of queue pairs so far."""
        return self._repeatable("toggle-status").read(ToggleResult)

    def reflector(self) -> ReflectorCounters:
        return self._repeatable("reflector").read(ReflectorCounters)

    def reset_reflector(self) -> None:
        """Forget sessions, counters and log; each peer's next packet starts a new session at sequence number 0."""
        self._repeatable("reflector-reset")

    def pause_reflector(self, *, paused: bool = True, receive_buffer: int = 0) -> None:
        """Pause or resume the session-reflector; meanwhile packets wait in its socket.

        :param receive_buffer: of that socket in bytes (SO_RCVBUF); 0 leaves it unchanged.
        """
        self._repeatable("reflector-pause", {"paused": int(paused), "receive_buffer": receive_buffer})

    def reflector_log(self) -> PacketLog:
        """The log of every packet reflected."""
        return self._log("reflector")

    def start_stream(
        self,
        destination: str,
        rate: int,
        *,
        count: int = 0,
        size: int = 44,
        port: int = 862,
        source_port: int = 0,
        ssid: int = 0,
    ) -> int:
        """Start a stream of test packets; returns its index.

        :param destination: IPv4 or IPv6 address of the session-reflector; :param port: its UDP port.
        :param rate: packets/s, 1 to 100,000; :param count: packets, 0 for "until stopped".
        :param size: bytes of UDP payload, 44 to 65,507; :param source_port: 0 for any.
        """
        parameters: dict[str, str | int] = {"destination": destination, "rate": rate, "count": count, "size": size}
        parameters |= {"port": port, "source_port": source_port, "ssid": ssid}
        return self._channel.request("sender-start", parameters).number("stream")

    def stop_stream(self, stream: int) -> None:
        """Stop sending; answers are still received."""
        self._repeatable("sender-stop", {"stream": stream})

    def streams(self) -> tuple[SenderStream, ...]:
        """The counters of all streams, in the order of their start."""
        return self._repeatable("sender").list("streams", SenderStream)

    def reset_streams(self) -> None:
        """Close all streams; forget counters and log."""
        self._repeatable("sender-reset")

    def sender_log(self) -> PacketLog:
        """The log of every packet sent and every answer received, of all streams."""
        return self._log("sender")

    def start_tcp(
        self, role: str, port: int, address: str | None = None, *, rate: int = 0, byte_count: int = 0, seed: int = 1
    ) -> int:
        """Start a TCP connection with predictable content, or wait for one; returns its index.

        :param role: ``source`` sends, ``sink`` receives.
        :param address: to connect to; None: wait for a connection on ``port``.
        :param rate: bytes/s that a source sends, 0 for no limit.
        :param byte_count: bytes that a source sends before it closes its half, 0 for "until stopped".
        :param seed: of the content; see images/guest/agent/content.h.
        """
        parameters: dict[str, str | int] = {"role": role, "port": port, "rate": rate}
        parameters |= {"byte_count": byte_count, "seed": seed, **({} if address is None else {"address": address})}
        return self._channel.request("tcp-start", parameters).number("connection")

    def stop_tcp(self, connection: int) -> None:
        """Let a source stop sending and close its half; the CRC-32 covers what was sent."""
        self._repeatable("tcp-stop", {"connection": connection})

    def tcp(self) -> tuple[TcpResult, ...]:
        return self._repeatable("tcp").list("connections", TcpResult)

    def finished_tcp(self, connection: int, deadline: Deadline) -> TcpResult:
        """Wait until a TCP connection is closed or has failed.

        :raises DeadlineExceeded: neither.
        """

        def finished() -> TcpResult | None:
            results = self.tcp()
            if connection >= len(results):
                raise invalid_answer("tcp", f"it has no connection {connection}")
            result = results[connection]
            return result if result.state in ("done", "failed") else None

        return deadline.poll(finished, 0.05)

    def reset_tcp(self) -> None:
        self._repeatable("tcp-reset")

    def add_vlan(self, vlan: int) -> None:
        """Create a VLAN device and set it up, so that the NIC's VLAN filter has this id."""
        self._channel.request("vlan", {"action": "add", "vlan": vlan, "device": GUEST_INTERFACE})

    def remove_vlan(self, vlan: int) -> None:
        self._channel.request("vlan", {"action": "remove", "vlan": vlan, "device": GUEST_INTERFACE})

    def add_filter(self, mac: str) -> None:
        """Let the NIC receive one more link-layer address, multicast or unicast."""
        self._channel.request("filter", {"action": "add", "mac": mac, "device": GUEST_INTERFACE})

    def remove_filter(self, mac: str) -> None:
        """Let the NIC no longer receive an address that was added."""
        self._channel.request("filter", {"action": "remove", "mac": mac, "device": GUEST_INTERFACE})

    def set_interface(
        self,
        *,
        mac: str | None = None,
        up: bool | None = None,
        promiscuous: bool | None = None,
        all_multicast: bool | None = None,
    ) -> None:
        """Change the NIC's address, state or receive modes, as ``ip link set``; None leaves a property unchanged."""
        changes = {"mac": mac, "up": up, "promisc": promiscuous, "allmulti": all_multicast}
        given = {
            key: int(value) if isinstance(value, bool) else value for key, value in changes.items() if value is not None
        }
        self._repeatable("interface", {"device": GUEST_INTERFACE, **given})

    def set_feature(self, feature: str, on: bool) -> None:
        """Switch an offload on or off, as ``ethtool -K``; names as in :attr:`NicInfo.features`."""
        self._repeatable("feature", {"device": GUEST_INTERFACE, "feature": feature, "on": int(on)})

    def defer_receiving(self, wait_ms: int) -> None:
        """Let the driver poll for received packets rarely, so that the NIC's receive ring fills up.

        After each poll the driver waits this long with the device's interrupts off (napi_complete_done(),
        net/core/dev.c; ``gro_flush_timeout`` and ``napi_defer_hard_irqs``).

        :param wait_ms: in ms of the guest's clock; 0 for none, effective after the current wait.
        """
        self._repeatable("defer", {"device": GUEST_INTERFACE, "wait_us": 1000 * wait_ms})

    def rss(self) -> RssSettings:
        """Key and table of receive-side scaling.

        :raises GuestFailed: the NIC has none.
        """
        return self._repeatable("rss", {"device": GUEST_INTERFACE}).read(RssSettings)

    def set_rss(self, key: str, queue: int | None = None) -> None:
        """Set key and table of receive-side scaling, as ``ethtool -X``.

        :param key: in hexadecimal.
        :param queue: of every entry of the table; None for the driver's default table.
        """
        table = {} if queue is None else {"queue": queue}
        self._repeatable("rss-set", {"device": GUEST_INTERFACE, "key": key, **table})

    def unbind_driver(self) -> BoundDriver:
        """Unbind the NIC's driver: the guest has no such NIC until :meth:`bind_driver`."""
        return self._channel.request("unbind", {"device": GUEST_INTERFACE}, seconds=REBIND_S).read(BoundDriver)

    def bind_driver(self, bound: BoundDriver) -> None:
        """Bind a driver again: the NIC is new then, down and without addresses."""
        self._channel.request("bind", {"name": bound.name, "driver": bound.driver}, seconds=REBIND_S)

    def break_ring(self) -> BoundDriver:
        """Take the NIC from its driver, and give the device a transmit queue with a chain that does not end.

        A device then asks for a reset, and takes nothing from its queues (VIRTIO 1.2 section 2.1.2). A right
        chain follows.
        """
        return self._channel.request("ring-break", {"device": GUEST_INTERFACE}, seconds=REBIND_S).read(BoundDriver)

    def kick_broken_ring(self) -> BrokenRing:
        """Notify the device of the queue of :meth:`break_ring`, and wait a moment."""
        return self._channel.request("ring-kick").read(BrokenRing)

    def end_broken_ring(self, bound: BoundDriver) -> None:
        """Return the NIC to its driver, as :meth:`bind_driver` does."""
        self._channel.request("ring-end", {"name": bound.name, "driver": bound.driver}, seconds=REBIND_S)

    def write_port(self, port: int, value: int, width: int) -> None:
        """Write to an I/O port.

        :param width: 1, 2 or 4 bytes.
        """
        self._channel.request("write-port", {"port": port, "value": value, "width": width})

    def write_file(self, path: str, offset: int, content: bytes) -> None:
        """Write into a file of registers: ``config`` of a PCI device in sysfs, or ``/dev/cpu/0/msr``.

        :param content: 1 to 16 bytes.
        """
        self._channel.request("write-file", {"path": path, "offset": offset, "bytes": content.hex()})

    def configure(self) -> None:
        """Set a new NIC up with its addresses, as at boot; a NIC that has them is unchanged."""
        addresses = {"ipv4": f"{GUEST.ipv4}/24", "ipv6": f"{GUEST.ipv6}/64"}
        self._repeatable("configure", {"device": GUEST_INTERFACE, **addresses})

    def reboot(self) -> None:
        self._channel.request("reboot")

    def power_off(self) -> None:
        """Power the guest off a moment later."""
        self._channel.request("poweroff")

    def set_alarm(self, seconds: int) -> None:
        """Set the alarm of the guest's real-time clock, which Linux removes when it comes (drivers/rtc/sysfs.c)."""
        self._channel.request("alarm", {"seconds": seconds})

    def suspend(self) -> None:
        """Suspend the guest to RAM a moment later (ACPI S3): it answers again when QMP ``system_wakeup`` woke it."""
        self._channel.request("suspend")

    def _log(self, name: str) -> PacketLog:
        content = bytearray()
        while True:
            reply = self._channel.request(
                "log", {"of": name, "from": len(content) // RECORD_SIZE}, seconds=LOG_S, repeat_after=LOG_S / 4
            )
            if reply.number("record_size") != RECORD_SIZE:
                raise reply.invalid("record_size")
            if len(reply.payload) != reply.number("records") * RECORD_SIZE:
                raise reply.invalid("records")
            if not 0 <= reply.number("total") <= LOG_LIMIT:
                raise reply.invalid("total")
            content += reply.payload
            if len(content) // RECORD_SIZE >= reply.number("total"):
                return PacketLog(bytes(content), reply.number("overflow"))
            if len(reply.payload) < LEAST_PART:
                raise reply.invalid("records")
