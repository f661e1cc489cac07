"""The guest's NIC as QEMU has it: a tap netdev from each tap source, and a virtio-net device.

Also the descriptors that a manager opens for a netdev and passes to QEMU, which then needs no right to open them. The
manager must close its copies: an open file lives as long as any process has it open, and hides what QEMU loses.
"""

from __future__ import annotations

import contextlib
import enum
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cprlib.errors import EnvironmentFailure, UsageError
from cprlib.linux.tap import open_tap
from cprlib.qemu.facts import LocalNames

INTERFACE_NAME = re.compile(r"^[A-Za-z][A-Za-z0-9_.-]{0,14}$")  # IFNAMSIZ - 1, and nothing that a path could use
IDENTIFIER = re.compile(r"^[A-Za-z][A-Za-z0-9_.-]*$")  # id_wellformed(), QEMU util/id.c
NIC_DRIVER = "virtio-net-pci"
SET_BY_SUITE = ("id", "netdev", "mac", "mq", "romfile")  # see VirtioNet.options


class TapSource(enum.Enum):
    """Where QEMU gets the tap's descriptors from (net_init_tap(), QEMU net/tap.c)."""

    INTERFACE = "ifname"
    """QEMU opens the tap by name."""
    UNNAMED = "no ifname"
    """QEMU makes a tap, and the kernel names it."""
    PATTERN = "ifname with %d"
    """QEMU makes a tap, and the kernel names it by a pattern (__dev_alloc_name(), net/core/dev.c)."""
    FD = "fd"
    """A manager opens the tap and passes the descriptor."""
    FDS = "fds"
    """A manager opens a multi-queue tap and passes the descriptors."""
    MACVTAP = "macvtap"
    """A manager opens the character device of a macvtap and passes the descriptors as ``fds``."""
    HELPER = "helper"
    """QEMU runs a program that opens the tap and sends the descriptor."""


class FdSyntax(enum.Enum):
    """How the target's netdev names the descriptors that CPR will provide."""

    MINUS_ONE = "-1"
    """``fd=-1`` for each descriptor."""
    LEFT_OUT = "left out"
    """No descriptors, helper or interface name, only the number of queues."""


class VhostOption(enum.Enum):
    """How a netdev asks for vhost, or does without it."""

    VHOST = "vhost="
    FORCE = "vhostforce="
    DESCRIPTORS = "no option but the descriptors that are passed"


@dataclass(frozen=True, slots=True)
class TapNetdev:
    """``-netdev tap`` (QAPI NetdevTapOptions).

    :param interface: name of a persistent tap in QEMU's network namespace; with
        :attr:`TapSource.PATTERN` the pattern without its ``%d``, and not used with :attr:`TapSource.UNNAMED`.
    :param queues: queue pairs; more than 1 needs a multi-queue tap.
    :param vhost: vhost-net of the kernel carries the packets.
    :param vnet_hdr: a passed tap has a virtio header in front of each packet (IFF_VNET_HDR).
    :param cpr: a live update hands the descriptors over; None leaves the member out.
    :param local: a live update hands the tap over in the device state: the names for it.
    :param vhost_passed: a manager opens /dev/vhost-net as well (``vhostfd=``, ``vhostfds=``).
    :param script, down_script: paths of programs, or ``no``; only when QEMU opens the tap. None leaves the down script
        out, so that QEMU takes its default one.
    :param helper: path of a program, or a command; only with :attr:`TapSource.HELPER`.
    :param bridge: argument of the helper.
    :param fd_syntax: of the target's options.
    :param send_buffer: limit in bytes of the guest's packets that the kernel has not sent yet (``sndbuf``); QEMU's
        default when None.
    :param poll_us: time in µs that vhost busy-polls when it has no packets; only with vhost.
    """

    identifier: str = "net0"
    interface: str = "tap0"
    queues: int = 1
    vhost: bool = False
    cpr: bool | None = None
    tap_source: TapSource = TapSource.INTERFACE
    vhost_passed: bool = False
    script: str = "no"
    down_script: str | None = "no"
    helper: str = ""
    bridge: str = "br0"
    fd_syntax: FdSyntax = FdSyntax.MINUS_ONE
    send_buffer: int | None = None
    poll_us: int | None = None
    local: LocalNames | None = None
    vhost_option: VhostOption = VhostOption.VHOST
    vnet_hdr: bool = True

    def __post_init__(self) -> None:
        if not INTERFACE_NAME.fullmatch(self.interface):
            raise UsageError(f"name a tap {self.interface!r}", "not a valid interface name")
        if not IDENTIFIER.fullmatch(self.identifier):
            raise UsageError(f"name a netdev {self.identifier!r}", "not a valid QEMU identifier")
        if not 1 <= self.queues <= 256:  # MAX_TAP_QUEUES, drivers/net/tun.c
            raise UsageError(f"give a tap {self.queues} queues", "a tap has 1 to 256")
        if self.queues > 1 and self.tap_source in (TapSource.FD, TapSource.HELPER):
            raise UsageError(f"give a tap {self.queues} queues with {self.tap_source.value}=", "it has one descriptor")
        if self.vhost_passed and not self.vhost:
            raise UsageError("pass vhost descriptors", "the netdev has no vhost")
        if self.vhost_option is VhostOption.DESCRIPTORS and not self.vhost_passed:
            raise UsageError("leave out vhost=on", "no vhost descriptor is passed")
        if not (self.vnet_hdr or self.tap_source is TapSource.FD):
            raise UsageError("leave out the virtio header", f"only a tap with {TapSource.FD.value}= is opened without")
        if self.poll_us is not None and not self.vhost:
            raise UsageError("let vhost busy-poll", "the netdev has no vhost")
        if bool(self.helper) != (self.tap_source is TapSource.HELPER):
            raise UsageError(f"make a tap with {self.tap_source.value}", "a helper belongs to helper=, and only to it")

    @property
    def tap_passed(self) -> bool:
        return self.tap_source is TapSource.FD or self.fds_passed

    @property
    def kernel_names_tap(self) -> bool:
        """True when the name of the tap is known only when QEMU has made it."""
        return self.tap_source in (TapSource.UNNAMED, TapSource.PATTERN)

    @property
    def fds_passed(self) -> bool:
        """True when QEMU counts the queues by the descriptors that it is passed."""
        return self.tap_source in (TapSource.FDS, TapSource.MACVTAP)

    @property
    def is_handed_over(self) -> bool:
        """True when the target gets the tap from the source."""
        return bool(self.cpr or self.local)

    @property
    def descriptors(self) -> int:
        """Number of descriptors that QEMU holds for it: one per queue for the tap, and one per queue for vhost."""
        return self.queues * (2 if self.vhost else 1)

    def options(
        self, tap: Sequence[str] = (), vhost: Sequence[str] = (), *, incoming: bool = False
    ) -> dict[str, object]:
        """Arguments of ``-netdev`` in JSON and of QMP's netdev_add.

        :param tap, vhost: descriptors that a manager passes: numbers, or names of QMP's getfd.
        :param incoming: for the target of an update, which gets the descriptors of a netdev that is handed over.
        """
        if incoming and self.is_handed_over:
            return self.local_target_options(self.local) if self.local else self.handed_over_options()
        options: dict[str, object] = {"type": "tap", "id": self.identifier} | self._source_options(tap)
        options |= self._vhost_member() | self._known_limits()
        if self.vhost_passed:
            options["vhostfds" if self.fds_passed else "vhostfd"] = ":".join(vhost)
        if self.queues > 1 and not self.fds_passed:
            options["queues"] = self.queues
        if self.cpr is not None:
            options["cpr"] = self.cpr
        if self.local and self.local.netdev:
            options[self.local.netdev] = True
        return options

    def _vhost_member(self) -> dict[str, object]:
        match self.vhost_option:
            case VhostOption.VHOST:
                return {"vhost": self.vhost}
            case VhostOption.FORCE:
                return {"vhostforce": self.vhost}
            case VhostOption.DESCRIPTORS:
                return {}

    def _known_limits(self) -> dict[str, object]:
        known: dict[str, object] = {"sndbuf": self.send_buffer, "poll-us": self.poll_us}
        return {name: value for name, value in known.items() if value is not None}

    def _source_options(self, tap: Sequence[str]) -> dict[str, object]:
        match self.tap_source:
            case TapSource.FD:
                return {"fd": ":".join(tap)}
            case TapSource.FDS | TapSource.MACVTAP:
                return {"fds": ":".join(tap)}
            case TapSource.HELPER:
                return {"helper": self.helper, "br": self.bridge}
        scripts: dict[str, object] = {"script": self.script}
        if self.down_script is not None:
            scripts["downscript"] = self.down_script
        if self.tap_source is TapSource.UNNAMED:
            return scripts
        return {"ifname": self.interface + "%d" * (self.tap_source is TapSource.PATTERN)} | scripts

    def handed_over_options(self) -> dict[str, object]:
        """Arguments for the target of a CPR, which inherits all descriptors."""
        if self.fd_syntax is FdSyntax.MINUS_ONE:
            minus_one = ["-1"] * self.queues
            return self.options(minus_one if self.tap_passed else (), minus_one if self.vhost_passed else ())
        options: dict[str, object] = {"type": "tap", "id": self.identifier}
        if not (self.tap_passed or self.helper):  # QEMU has default scripts for a tap that it opens
            options |= {"script": "no", "downscript": "no"}
        vhost = self._vhost_member() or {"vhost": True}  # no descriptor is named that would ask for it
        options |= vhost | {"cpr": bool(self.cpr)}
        return options | ({"queues": self.queues} if self.queues > 1 else {})

    def local_target_options(self, names: LocalNames) -> dict[str, object]:
        """Arguments for a target that gets the tap with the device state and opens vhost devices of its own.

        Scripts are empty: newer QEMUs warn of ``no``.
        """
        options: dict[str, object] = {"type": "tap", "id": self.identifier, "script": "", "downscript": ""}
        options |= {"vhost": self.vhost} | self._known_limits()
        options |= {"queues": self.queues} if self.queues > 1 else {}
        return options | {name: True for name in (names.netdev, names.target) if name}


def device_counts(netdevs: Sequence[TapNetdev]) -> dict[str, int]:
    """Number of tap and vhost descriptors that QEMU holds for netdevs."""
    return {
        "tap": sum(item.queues for item in netdevs),
        "vhost": sum(item.queues for item in netdevs if item.vhost),
    }


@dataclass(frozen=True, slots=True)
class VirtioNet:
    """``-device virtio-net-pci`` on a netdev, or a NIC of another kind.

    :param port: id of the PCIe root port that the NIC is behind; on the root bus when empty.
    :param rom: path of its option ROM, which is memory of QEMU; none when empty.
    :param msix: MSI-X vectors as several queue pairs need them: two for each, one for configuration, one for the
        control queue. QEMU's default is three with an old machine type.
    """

    mac: str
    identifier: str = "nic0"
    netdev: str = "net0"
    queues: int = 1
    port: str = ""
    rom: str = ""
    msix: bool = True
    driver: str = NIC_DRIVER

    def options(self) -> dict[str, object]:
        """Arguments of ``-device`` in JSON and of QMP's device_add."""
        options: dict[str, object] = {
            "driver": self.driver,
            "id": self.identifier,
            "netdev": self.netdev,
            "mac": self.mac,
            "romfile": self.rom,
        }
        if self.queues > 1:
            options |= {"mq": True} | ({"vectors": 2 * self.queues + 2} if self.msix else {})
        return options | ({"bus": self.port} if self.port else {})


@dataclass(frozen=True, slots=True)
class PassedFds:
    """Descriptors of this process that QEMU receives, one per queue."""

    tap: tuple[int, ...] = ()
    vhost: tuple[int, ...] = ()

    @property
    def all(self) -> tuple[int, ...]:
        return (*self.tap, *self.vhost)


@contextlib.contextmanager
def opened_fds(netdev: TapNetdev) -> Iterator[PassedFds]:
    """Open the descriptors that a manager passes for a netdev; close them when the body ends.

    The taps are opened in the network namespace of the calling thread.

    :raises EnvironmentFailure: the kernel refuses.
    """
    with contextlib.ExitStack() as stack:

        def owned(descriptor: int) -> int:
            stack.callback(os.close, descriptor)
            return descriptor

        macvtap, several = netdev.tap_source is TapSource.MACVTAP, netdev.queues > 1
        options = {"macvtap": macvtap, "multi_queue": several, "vnet_hdr": netdev.vnet_hdr}
        taps = netdev.queues if netdev.tap_passed else 0
        vhosts = netdev.queues if netdev.vhost_passed else 0
        yield PassedFds(
            tuple(owned(open_tap(netdev.interface, **options)) for _ in range(taps)),
            tuple(owned(_open_vhost()) for _ in range(vhosts)),
        )


def _open_vhost() -> int:
    try:
        return os.open("/dev/vhost-net", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise EnvironmentFailure("open /dev/vhost-net", str(error), "use the lab: cprlib run --lab") from error
