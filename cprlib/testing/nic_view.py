"""The NIC before and after an update, by everybody who knows of it: kernel, QEMU and guest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cprlib.deadline import Deadline
from cprlib.errors import Awaited
from cprlib.evidence.guest_checks import GuestView, guest_view, look_at
from cprlib.guest.agent import AgentConnection
from cprlib.linux.descriptors import Pairing
from cprlib.linux.tap import TapQueue, interface_offloads, read_tap_queues
from cprlib.linux.topology import GUEST, Topology
from cprlib.qemu.machine import Machine
from cprlib.qemu.nic_state import (
    Facts,
    device_facts,
    differences,
    filter_facts,
)
from cprlib.testing.measured_case import MeasuredCase
from cprlib.update.running_guest import RunningGuest

Numbers = dict[int, int]  # descriptor of the source: that of the target


@dataclass(frozen=True, slots=True)
class TapView:
    """The kernel's view.

    :param queues: by QEMU's descriptor; :param offloads: of the interface.
    """

    queues: tuple[TapQueue, ...]
    offloads: Facts

    @property
    def attached(self) -> int:
        """How many queues carry packets."""
        return sum(not queue.detached for queue in self.queues)


@dataclass(frozen=True, slots=True)
class NicView:
    """One look from all sides."""

    tap: TapView
    device: Facts
    filters: Facts
    guest: GuestView


def solicited_node(mac: str) -> str:
    """The multicast address that a NIC of this MAC receives for its link-local IPv6 address (RFC 4291, RFC 2464).

    Without colons, as the guest names it.
    """
    return "3333ff" + mac.lower().replace(":", "")[6:]


def wait_settled(agent: AgentConnection, *macs: str) -> None:
    """Wait until the guest has joined the groups of its link-local addresses, which takes it a second after boot.

    :param macs: of its NIC, where it has changed.
    :raises DeadlineExceeded: it has not.
    """
    wanted = {solicited_node(mac) for mac in macs or (GUEST.mac,)}
    Deadline(10, "the guest to join its multicast groups", Awaited.GUEST).poll(
        lambda: True if wanted <= set(agent.network().nic().multicast) else None, 0.1
    )


def look_at_tap(topology: Topology, machine: Machine) -> TapView:
    """The kernel's view of the tap that a QEMU has; only while no descriptors change hands.

    :raises InstrumentError: the kernel will not tell.
    """
    return TapView(
        read_tap_queues(machine.pid), interface_offloads(topology.switch, machine.settings.netdevs[0].interface)
    )


def look_at_nic(guest: RunningGuest) -> NicView:
    """Look from all sides while the guest runs."""
    machine = guest.machine
    return NicView(
        look_at_tap(guest.topology, machine),
        device_facts(machine.qmp),
        filter_facts(machine.qmp),
        look_at(guest.agent),
    )


def handed_over(pairings: Sequence[Pairing]) -> Numbers:
    """Descriptors of tap queues that are one open file in source and target."""
    return {item.source.number: item.target.number for item in pairings if item.source and item.target}


def expect_same_tap(case: MeasuredCase, before: TapView, after: TapView, numbers: Numbers, when: str) -> None:
    """Each queue is as it was: attached or detached, with the same header; the interface has the same offloads.

    :param numbers: the target's descriptor for each of the source's.
    :param when: for the checks' names: ``after-update``.
    """
    expect_same_queues(case, before, after, numbers, when)
    found = differences(before.offloads, after.offloads)
    switched_on = ", ".join(name for name, state in before.offloads.items() if state == "on")
    message = f"offloads of {before.queues[0].interface if before.queues else 'the tap'} changed: {'; '.join(found)}"
    case.expect(f"tap-offloads-{when}", not found, switched_on, "; ".join(found) or "the same", message)


def expect_same_queues(case: MeasuredCase, before: TapView, after: TapView, numbers: Numbers, when: str) -> None:
    """Each queue is as it was: attached or detached, with the same header; see :func:`expect_same_tap`."""
    later = {queue.number: queue for queue in after.queues}
    found = []
    for queue in before.queues:
        other = later.get(numbers.get(queue.number, -1))
        if other is None:
            found.append(f"descriptor {queue.number} has no partner in the target")
        else:
            changes = differences(queue.facts(), other.facts())
            found += [f"descriptor {queue.number}, now {other.number}: {change}" for change in changes]
    expected = f"{before.attached} of {len(before.queues)} queues attached, all as before"
    case.expect(
        f"tap-queues-{when}",
        not found and bool(before.queues),
        expected,
        "; ".join(found) or f"{after.attached} of {len(after.queues)} attached, the same",
        f"a tap queue is not as the source left it: {'; '.join(found)}",
    )


def expect_same_nic(case: MeasuredCase, before: NicView, after: NicView, when: str) -> None:
    """What QEMU and the guest say of the NIC is as it was: features, filters, address, link, offloads, queue pairs."""
    guest = tuple(
        f"{fact.name} was {fact.before}, is {fact.after}"
        for fact in guest_view(before.guest, after.guest)
        if fact.before != fact.after
    )
    moved = after.guest.nic.carrier_changes - before.guest.nic.carrier_changes
    guest += (f"its link changed {moved} times",) if moved else ()
    for name, found, whose in (
        ("device", differences(before.device, after.device), "the target's virtio-net device"),
        ("rx-filter", differences(before.filters, after.filters), "the target's receive filter"),
        ("guest-view", guest, "the NIC that the guest sees"),
    ):
        text = "; ".join(found)
        case.expect(f"{name}-{when}", not found, "as before", text or "the same", f"{whose} changed: {text}")
