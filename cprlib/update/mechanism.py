"""Mechanisms: how the NIC crosses from source to target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from cprlib.errors import UsageError
from cprlib.linux.topology import Topology
from cprlib.qemu.facts import QemuFacts
from cprlib.qemu.netdev import TapNetdev, Way


class Mechanism(Protocol):
    """What management does for the NIC around a live update."""

    @property
    def name(self) -> str:
        """The mechanism's name in parameters and reports."""

    @property
    def shares_files(self) -> bool:
        """Whether management opens the netdevs' files, and gives the same ones to every QEMU of a guest."""

    @property
    def parameters(self) -> Mapping[str, object]:
        """Migration parameters of source and target beside the mode."""

    def require(self, facts: QemuFacts) -> None:
        """Refuse a QEMU that cannot do it.

        :raises NotSupported: with the reason in one line.
        """

    def source_netdev(self, netdev: TapNetdev) -> TapNetdev:
        """The netdev the source is started with."""

    def target_netdev(self, topology: Topology, source: TapNetdev) -> TapNetdev:
        """Prepare what the target needs and give back its netdev; called before the target starts."""

    def source_stopped(self, topology: Topology, source: TapNetdev, target: TapNetdev) -> None:
        """What management does when the source's guest has stopped."""

    def source_gone(self, topology: Topology, source: TapNetdev) -> None:
        """What management does when the source has ended."""


class Unattended:
    """What management does for a NIC that crosses by itself: nothing."""

    __slots__ = ()

    def target_netdev(self, topology: Topology, source: TapNetdev) -> TapNetdev:  # noqa: ARG002
        """The same netdev again."""
        return source

    def source_stopped(self, topology: Topology, source: TapNetdev, target: TapNetdev) -> None:
        """Nothing."""

    def source_gone(self, topology: Topology, source: TapNetdev) -> None:
        """Nothing."""


@dataclass(frozen=True, slots=True)
class CprTap(Unattended):
    """``-netdev tap,cpr=on``: the source sends its descriptors, management does nothing."""

    name: str = "cpr"
    shares_files: bool = False
    parameters: Mapping[str, object] = field(default_factory=dict)

    def require(self, facts: QemuFacts) -> None:
        """See :meth:`Mechanism.require`."""
        facts.require_netdev_cpr()

    def source_netdev(self, netdev: TapNetdev) -> TapNetdev:
        """See :meth:`Mechanism.source_netdev`."""
        return replace(netdev, cpr=True)


@dataclass(frozen=True, slots=True)
class LinkSwitch:
    """As in traditional migration: a new tap for the target, the old one taken down, the new one set up.

    Management acts on the source's STOP event; what arrives between is lost, which is what this mechanism is
    here to show.
    """

    queue_length: int = 1000
    name: str = "link-switch"
    shares_files: bool = False
    parameters: Mapping[str, object] = field(default_factory=dict)

    def require(self, facts: QemuFacts) -> None:
        """See :meth:`Mechanism.require`."""
        facts.require_cpr_transfer()

    def source_netdev(self, netdev: TapNetdev) -> TapNetdev:
        """The netdev as it is."""
        return netdev

    def target_netdev(self, topology: Topology, source: TapNetdev) -> TapNetdev:
        """Make a second tap, not attached yet: tap0, tap1, tap2 in a chain of updates."""
        stem = source.interface.rstrip("0123456789")
        number = int(source.interface[len(stem) :] or 0) + 1
        target = replace(source, interface=f"{stem}{number}")
        topology.add_tap(target.interface, queues=source.queues, queue_length=self.queue_length, attached=False)
        return target

    def source_stopped(self, topology: Topology, source: TapNetdev, target: TapNetdev) -> None:
        """Take the old link down and set the new one up."""
        topology.detach(source.interface)
        topology.attach(target.interface)

    def source_gone(self, topology: Topology, source: TapNetdev) -> None:
        """Delete the old tap."""
        topology.remove_tap(source.interface)


@dataclass(frozen=True, slots=True)
class FdShare(Unattended):
    """Management opens the tap and gives the same descriptors to both QEMUs (``fd=``, ``fds=``), without ``cpr=on``.

    Both QEMUs read the tap at the same time; what the one that does not run takes is lost (docs/findings.md).
    With vhost each QEMU opens /dev/vhost-net itself: a vhost device has one owner, so its descriptors cannot be shared.
    """

    name: str = "fd-share"
    shares_files: bool = True
    parameters: Mapping[str, object] = field(default_factory=dict)

    def require(self, facts: QemuFacts) -> None:
        """See :meth:`Mechanism.require`."""
        facts.require_cpr_transfer()

    def source_netdev(self, netdev: TapNetdev) -> TapNetdev:
        """The netdev with descriptors in place of the interface's name."""
        return replace(netdev, way=Way.FDS if netdev.queues > 1 else Way.FD)


@dataclass(frozen=True, slots=True)
class Local(Unattended):
    """Migration parameter ``local`` of newer QEMUs: the device state brings the backend's descriptors along.

    No release that could be had has it (11.1.3 has not): the parameter is set where query-qmp-schema tells of it, and
    nothing more is known to be needed. Never run.
    """

    name: str = "local"
    shares_files: bool = False
    parameters: Mapping[str, object] = field(default_factory=lambda: {"local": True})

    def require(self, facts: QemuFacts) -> None:
        """See :meth:`Mechanism.require`."""
        facts.require_migration_local()

    def source_netdev(self, netdev: TapNetdev) -> TapNetdev:
        """The netdev as it is."""
        return netdev


def target_arguments(mechanism: Mechanism) -> tuple[str, ...]:
    """Arguments that set the mechanism's parameters on a target, which serves no QMP before it needs them."""
    words = {True: "on", False: "off"}
    return tuple(
        argument
        for name, value in mechanism.parameters.items()
        for argument in ("-global", f"migration.{name}={words[value] if isinstance(value, bool) else value}")
    )


def mechanism_named(name: str) -> Mechanism:
    """The mechanism of that name.

    :raises UsageError: there is none.
    """
    known: dict[str, Mechanism] = {item.name: item for item in (CprTap(), LinkSwitch(), FdShare(), Local())}
    if name not in known:
        raise UsageError(f"use mechanism {name!r}", f"it is none of {', '.join(known)}")
    return known[name]
