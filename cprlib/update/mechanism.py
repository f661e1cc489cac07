"""Mechanisms: how a NIC is moved from source to target, and what management does for it."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import replace

from cprlib.linux.topology import Topology
from cprlib.qemu.facts import LocalNames, QemuFacts
from cprlib.qemu.netdev import NIC_DRIVER, TapNetdev, TapSource


class Mechanism(enum.StrEnum):
    """How the NIC is moved from source to target."""

    CPR = "cpr"
    LINK_SWITCH = "link-switch"
    FD_SHARE = "fd-share"
    LOCAL = "local"
    NONE = "none"  # no update: a control run, or a case on another subject

    @property
    def handling(self) -> NicHandling:
        """Properties of the mechanism, and what management does for the NIC."""
        return _HANDLING[self]


class Mode(enum.StrEnum):
    """Migration mode of an update (QAPI MigMode)."""

    CPR_TRANSFER = "cpr-transfer"
    CPR_EXEC = "cpr-exec"
    NORMAL = "normal"


class NicHandling:
    """Properties of a mechanism, and what management does for it. By default none, and nothing."""

    sends_descriptors = False
    """The source sends the NIC's descriptors with its CPR state, so the guest must stand still from then on."""
    same_files: tuple[str, ...] = ()
    """Identity: kinds of the NIC's descriptors that are the same open files in source and target."""
    releases_vhost = False
    """The source releases its vhost devices before it ends."""
    may_lose = False
    """Packets may be lost: usable as a negative control only."""
    shares_fds = False
    """Management opens the netdevs' files and passes the same ones to every QEMU of a guest."""
    supports_vhost = True
    plugged = False
    """Netdevs and NICs are added by QMP, before the guest runs."""
    modes: tuple[Mode, ...] = (Mode.CPR_TRANSFER,)

    def is_same_file(self, kind: str) -> bool:
        """Whether a descriptor of this kind must be the same open file in source and target."""
        return kind in self.same_files

    def require(self, facts: QemuFacts, mode: Mode = Mode.CPR_TRANSFER) -> None:
        """Refuse a QEMU that lacks the mechanism or the mode.

        :raises NotSupported: with the reason in one line.
        """
        if mode is Mode.CPR_EXEC:
            facts.require_cpr_exec()
        else:
            facts.require_cpr_transfer()

    def of(self, netdev: TapNetdev) -> NicHandling:  # noqa: ARG002
        """How this netdev is moved; a mechanism may treat some netdevs like another mechanism."""
        return self

    def parameters(self, netdev: TapNetdev) -> dict[str, object]:  # noqa: ARG002
        """Migration parameters of source and target in addition to the mode."""
        return {}

    def arguments(self, local: LocalNames | None = None) -> tuple[str, ...]:  # noqa: ARG002
        """Further arguments of source and target.

        :param local: names of QEMU for :attr:`Mechanism.LOCAL`; likewise below.
        """
        return ()

    def source_netdev(self, netdev: TapNetdev, local: LocalNames | None = None) -> TapNetdev:  # noqa: ARG002
        """The netdev of the QEMU that boots the guest."""
        return netdev

    def target_netdev(self, topology: Topology, source: TapNetdev) -> TapNetdev:  # noqa: ARG002
        """Prepare for the target, before it starts, and return its netdev."""
        return source

    def source_stopped(self, topology: Topology, source: TapNetdev, target: TapNetdev) -> None:
        """Called when the source's guest has stopped."""

    def source_gone(self, topology: Topology, source: TapNetdev) -> None:
        """Called when the source has ended."""


class LinkSwitchHandling(NicHandling):
    """As in traditional migration: the target has a new tap; management sets the old one down and the new one up.

    Management reacts to the source's STOP event. Packets that arrive in between are lost: this is a negative control.
    """

    may_lose = True
    modes = (Mode.CPR_TRANSFER, Mode.CPR_EXEC)

    def target_netdev(self, topology: Topology, source: TapNetdev) -> TapNetdev:
        """Create the next tap, not attached yet: tap0, tap1, tap2 in a chain of updates."""
        stem = source.interface.rstrip("0123456789")
        number = int(source.interface[len(stem) :] or 0) + 1
        target = replace(source, interface=f"{stem}{number}")
        topology.add_tap(target.interface, queues=source.queues, attached=False)
        return target

    def source_stopped(self, topology: Topology, source: TapNetdev, target: TapNetdev) -> None:
        topology.detach(source.interface)
        topology.attach(target.interface)

    def source_gone(self, topology: Topology, source: TapNetdev) -> None:
        topology.remove_tap(source.interface)


class CprTapHandling(NicHandling):
    """``-netdev tap,cpr=on``: the source sends its descriptors to the target.

    A netdev with ``cpr=off`` beside it is moved as by :class:`LinkSwitchHandling`.
    """

    sends_descriptors = releases_vhost = True
    same_files = ("tap", "vhost")
    modes = (Mode.CPR_TRANSFER, Mode.CPR_EXEC)

    def require(self, facts: QemuFacts, mode: Mode = Mode.CPR_TRANSFER) -> None:
        NicHandling.require(self, facts, mode)
        facts.require_netdev_cpr()

    def source_netdev(self, netdev: TapNetdev, local: LocalNames | None = None) -> TapNetdev:  # noqa: ARG002
        return netdev if netdev.cpr is False else replace(netdev, cpr=True)

    def of(self, netdev: TapNetdev) -> NicHandling:
        return LinkSwitchHandling() if netdev.cpr is False else self


class FdShareHandling(NicHandling):
    """Management opens the tap and passes the same descriptors to both QEMUs (``fd=``, ``fds=``), without ``cpr=on``.

    Both QEMUs read the tap at the same time; packets that the stopped one reads are lost (docs/findings.md). With vhost
    each QEMU opens /dev/vhost-net itself: a vhost device has one owner, so its descriptors cannot be shared.
    """

    may_lose = shares_fds = True
    same_files = ("tap",)
    supports_vhost = False

    def source_netdev(self, netdev: TapNetdev, local: LocalNames | None = None) -> TapNetdev:  # noqa: ARG002
        return replace(netdev, tap_source=TapSource.FDS if netdev.queues > 1 else TapSource.FD)


class LocalHandling(NicHandling):
    """Migration parameter ``local`` of newer QEMUs: the device state carries the tap's descriptors.

    The target's netdevs are added by QMP once the parameter is set: those of a command line are made before, and would
    open the tap again. By design the target opens vhost devices of its own.
    """

    same_files = ("tap",)
    plugged = True
    modes = (Mode.CPR_TRANSFER, Mode.NORMAL)

    def require(self, facts: QemuFacts, mode: Mode = Mode.CPR_TRANSFER) -> None:
        facts.require_migration_local()
        if mode is Mode.CPR_TRANSFER:
            facts.require_local_in_cpr()

    def parameters(self, netdev: TapNetdev) -> dict[str, object]:
        return {netdev.local.parameter: True} if netdev.local else {}

    def arguments(self, local: LocalNames | None = None) -> tuple[str, ...]:
        return ("-global", f"{NIC_DRIVER}.{local.nic}=on") if local and local.nic else ()

    def source_netdev(self, netdev: TapNetdev, local: LocalNames | None = None) -> TapNetdev:
        return replace(netdev, local=local)


_HANDLING: Mapping[Mechanism, NicHandling] = {
    Mechanism.CPR: CprTapHandling(),
    Mechanism.LINK_SWITCH: LinkSwitchHandling(),
    Mechanism.FD_SHARE: FdShareHandling(),
    Mechanism.LOCAL: LocalHandling(),
    Mechanism.NONE: NicHandling(),
}
