"""The guest's NIC as QEMU sees it: a tap netdev, in every way that there is to make one, and a virtio-net device."""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass

from cprlib.errors import UsageError

INTERFACE_NAME = re.compile(r"^[A-Za-z][A-Za-z0-9_.-]{0,14}$")  # IFNAMSIZ - 1, and nothing a path could use
IDENTIFIER = re.compile(r"^[A-Za-z][A-Za-z0-9_.-]*$")  # id_wellformed(), QEMU util/id.c


class Way(enum.Enum):
    """How QEMU comes to the tap's descriptors (net_init_tap(), QEMU net/tap.c)."""

    INTERFACE = "ifname"
    """It opens the tap by name."""
    UNNAMED = "no ifname"
    """It makes a tap, which the kernel names."""
    FD = "fd"
    """A manager opens the tap and passes the descriptor."""
    FDS = "fds"
    """The same with several queues."""
    HELPER = "helper"
    """QEMU runs a program that opens the tap and sends the descriptor."""


class Spelling(enum.Enum):
    """What the target of a CPR is told in place of descriptors that CPR will provide."""

    MINUS_ONE = "-1"
    """``fd=-1``: as long as the source's options, and no number that means anything."""
    LEFT_OUT = "left out"
    """Nothing: neither descriptors nor helper nor name, only how many queues there are."""


@dataclass(frozen=True, slots=True)
class TapNetdev:
    """``-netdev tap`` (QAPI NetdevTapOptions).

    :param interface: name of a persistent tap in QEMU's network namespace; not for :attr:`Way.UNNAMED`.
    :param queues: queue pairs; more than 1 needs a multi-queue tap.
    :param vhost: whether the kernel's vhost-net carries the packets.
    :param cpr: whether the descriptors shall cross a live update; None leaves the member out.
    :param way: how QEMU comes to the tap.
    :param vhost_passed: a manager opens /dev/vhost-net too (``vhostfd=``, ``vhostfds=``).
    :param script, down_script: paths of programs, or ``no``; only where QEMU opens the tap.
    :param helper: path of a program, or a command; only for :attr:`Way.HELPER`.
    :param bridge: what the helper is told.
    :param spelling: what a target is told in place of descriptors.
    :param send_buffer: bytes of the guest's packets that may be under way in the kernel (``sndbuf``); QEMU's default
        when None.
    :param poll_us: for how many µs vhost polls busily when it has run out of packets; only with vhost.
    """

    identifier: str = "net0"
    interface: str = "tap0"
    queues: int = 1
    vhost: bool = False
    cpr: bool | None = None
    way: Way = Way.INTERFACE
    vhost_passed: bool = False
    script: str = "no"
    down_script: str = "no"
    helper: str = ""
    bridge: str = "br0"
    spelling: Spelling = Spelling.MINUS_ONE
    send_buffer: int | None = None
    poll_us: int | None = None

    def __post_init__(self) -> None:
        if not INTERFACE_NAME.fullmatch(self.interface):
            raise UsageError(f"name a tap {self.interface!r}", "not a valid interface name")
        if not IDENTIFIER.fullmatch(self.identifier):
            raise UsageError(f"name a netdev {self.identifier!r}", "not a valid QEMU identifier")
        if not 1 <= self.queues <= 256:  # MAX_TAP_QUEUES, drivers/net/tun.c
            raise UsageError(f"give a tap {self.queues} queues", "a tap has 1 to 256")
        if self.queues > 1 and self.way in (Way.FD, Way.HELPER):
            raise UsageError(f"give a tap {self.queues} queues with {self.way.value}=", "it has one descriptor")
        if self.vhost_passed and not self.vhost:
            raise UsageError("pass vhost descriptors", "the netdev has no vhost")
        if self.poll_us is not None and not self.vhost:
            raise UsageError("let vhost poll busily", "the netdev has no vhost")
        if bool(self.helper) != (self.way is Way.HELPER):
            raise UsageError(f"make a tap with {self.way.value}", "a helper belongs to that way, and only to it")

    @property
    def tap_passed(self) -> bool:
        """Whether a manager opens the tap."""
        return self.way in (Way.FD, Way.FDS)

    @property
    def descriptors(self) -> int:
        """How many descriptors QEMU holds for it: one for the tap per queue, and one more per queue with vhost."""
        return self.queues * (2 if self.vhost else 1)

    def options(self, tap: Sequence[str] = (), vhost: Sequence[str] = ()) -> dict[str, object]:
        """Arguments for ``-netdev`` in JSON, and for QMP's netdev_add.

        :param tap, vhost: descriptors that a manager passes: numbers, or names given with getfd.
        """
        options: dict[str, object] = {"type": "tap", "id": self.identifier} | self._way_options(tap)
        options["vhost"] = self.vhost
        known = {"sndbuf": self.send_buffer, "poll-us": self.poll_us}
        options |= {name: value for name, value in known.items() if value is not None}
        if self.vhost_passed:
            options |= {"vhostfds": ":".join(vhost)} if self.way is Way.FDS else {"vhostfd": ":".join(vhost)}
        if self.queues > 1 and self.way is not Way.FDS:
            options["queues"] = self.queues
        if self.cpr is not None:
            options["cpr"] = self.cpr
        return options

    def _way_options(self, tap: Sequence[str]) -> dict[str, object]:
        match self.way:
            case Way.FD | Way.FDS:
                return {self.way.value: ":".join(tap)}
            case Way.HELPER:
                return {"helper": self.helper, "br": self.bridge}
        scripts: dict[str, object] = {"script": self.script, "downscript": self.down_script}
        return ({"ifname": self.interface} if self.way is Way.INTERFACE else {}) | scripts

    def handed_over_options(self) -> dict[str, object]:
        """Arguments for the target of a CPR, which opens nothing itself."""
        if self.spelling is Spelling.MINUS_ONE:
            minus_one = ["-1"] * self.queues
            return self.options(minus_one if self.tap_passed else (), minus_one if self.vhost_passed else ())
        options: dict[str, object] = {"type": "tap", "id": self.identifier, "script": "no", "downscript": "no"}
        options |= {"vhost": self.vhost, "cpr": bool(self.cpr)}
        return options | ({"queues": self.queues} if self.queues > 1 else {})


@dataclass(frozen=True, slots=True)
class VirtioNet:
    """``-device virtio-net-pci`` on a netdev."""

    mac: str
    identifier: str = "nic0"
    netdev: str = "net0"
    queues: int = 1

    def options(self) -> dict[str, object]:
        """Arguments for ``-device`` in JSON, and for QMP's device_add.

        Two vectors per queue pair, one for configuration and one for the control queue.
        """
        options: dict[str, object] = {
            "driver": "virtio-net-pci",
            "id": self.identifier,
            "netdev": self.netdev,
            "mac": self.mac,
            "romfile": "",
        }
        if self.queues > 1:
            options |= {"mq": True, "vectors": 2 * self.queues + 2}
        return options
