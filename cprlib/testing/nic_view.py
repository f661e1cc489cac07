"""The NIC before and after an update, as seen by kernel, QEMU and guest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cprlib.deadline import Deadline
from cprlib.errors import Awaited
from cprlib.evidence.guest_checks import GuestView, guest_view, view_guest
from cprlib.linux.descriptors import Pairing
from cprlib.linux.host_state import tap_queue_values
from cprlib.linux.tap import TapQueue, interface_offloads, read_tap_queues
from cprlib.linux.topology import Topology
from cprlib.qemu.machine import Machine
from cprlib.qemu.nic_state import FIRST_NIC_ID, STATUS, Facts, differences, filter_facts
from cprlib.testing.measured_case import MeasuredCase
from cprlib.update.running_guest import RunningGuest

DescriptorMap = dict[int, int]  # descriptor in the source: the same open file in the target


@dataclass(frozen=True, slots=True)
class TapView:
    """The kernel's view of a tap.

    :param queues: one per descriptor of QEMU; :param offloads: the interface's.
    """

    queues: tuple[TapQueue, ...]
    offloads: Facts

    @property
    def attached(self) -> int | None:
        """Number of attached queues, which carry packets; None for a macvtap, of which the kernel does not tell."""
        detached = [queue.detached for queue in self.queues]
        return None if None in detached else detached.count(False)

    def facts(self) -> Facts:
        """What an update must not change: offloads, and how many queues have what. A target has other descriptors."""
        return {**self.offloads, **tap_queue_values(self.queues)}


@dataclass(frozen=True, slots=True)
class NicView:
    """The NIC as seen by kernel, QEMU (receive filters) and guest."""

    tap: TapView
    filters: Facts
    guest: GuestView


def read_tap_view(topology: Topology, machine: Machine) -> TapView:
    """The kernel's view of a QEMU's tap. Not during an update, while descriptors are handed over.

    :raises InstrumentError: the kernel does not report it.
    """
    return TapView(
        read_tap_queues(machine.pid), interface_offloads(topology.switch, machine.settings.netdevs[0].interface)
    )


def read_nic_view(guest: RunningGuest) -> NicView:
    """The NIC from all sides, while the guest runs."""
    machine = guest.machine
    return NicView(
        read_tap_view(guest.topology, machine),
        filter_facts(machine.qmp),
        view_guest(guest.agent),
    )


def set_link(guest: RunningGuest, *, up: bool, name: str = FIRST_NIC_ID) -> None:
    """Set the link of the guest's first NIC by QMP, and wait until the guest has seen it, if it sees links at all.

    :param name: of the NIC, or of its netdev.
    :raises DeadlineExceeded: it does not see it.
    """
    guest.machine.qmp.execute("set_link", {"name": name, "up": up})
    if not guest.agent.network().nic().agreed_on(STATUS):
        return  # nic.status=off: its link is always up
    deadline = Deadline(20, f"the guest to see its link {'up' if up else 'down'}", Awaited.GUEST)
    deadline.poll(lambda: guest.agent.network().nic().carrier == int(up), 0.02)


def handed_over_queues(pairings: Sequence[Pairing]) -> DescriptorMap:
    """The descriptors of tap queues that are one open file in source and target."""
    return {item.source.number: item.target.number for item in pairings if item.source and item.target}


def expect_same_tap(case: MeasuredCase, before: TapView, after: TapView, descriptors: DescriptorMap, when: str) -> None:
    """Check that each queue is attached or detached as before, with the same header, and the offloads are unchanged.

    :param descriptors: the target's descriptor for each of the source's.
    :param when: for the checks' names: ``after-update``.
    """
    expect_same_queues(case, before, after, descriptors, when)
    switched_on = ", ".join(name for name, state in before.offloads.items() if state == "on")
    interface = before.queues[0].interface if before.queues else "the tap"
    changes = differences(before.offloads, after.offloads)
    meaning = f"offloads of {interface} changed"
    case.expect_empty(f"tap-offloads-{when}", changes, switched_on, meaning, family="tap-offloads")


def expect_same_queues(
    case: MeasuredCase, before: TapView, after: TapView, descriptors: DescriptorMap, when: str
) -> None:
    """Check that each queue is attached or detached as before, with the same header; see :func:`expect_same_tap`."""
    later = {queue.number: queue for queue in after.queues}
    found = []
    for queue in before.queues:
        other = later.get(descriptors.get(queue.number, -1))
        if other is None:
            found.append(f"descriptor {queue.number} has no partner in the target")
        else:
            changes = differences(queue.facts(), other.facts())
            found += [f"descriptor {queue.number}, now {other.number}: {change}" for change in changes]
    expected = f"{before.attached} of {len(before.queues)} queues attached, all as before"
    found += [] if before.queues else ["the source had no tap queue"]
    meaning = "a tap queue is not as the source left it"
    case.expect_empty(f"tap-queues-{when}", found, expected, meaning, family="tap-queues")


def expect_same_nic(case: MeasuredCase, before: NicView, after: NicView, when: str) -> None:
    """Check that QEMU and guest report the NIC as before: filters, features, address, link, offloads, queue pairs."""
    guest = tuple(
        f"{fact.name} was {fact.before}, is {fact.after}"
        for fact in guest_view(before.guest, after.guest)
        if fact.before != fact.after
    )
    link_changes = after.guest.nic.carrier_changes - before.guest.nic.carrier_changes
    guest += (f"its link changed {link_changes} times",) if link_changes else ()
    for name, changes, subject in (
        ("rx-filter", differences(before.filters, after.filters), "the target's receive filter"),
        ("guest-view", guest, "the NIC that the guest sees"),
    ):
        text = "; ".join(changes)  # all of them
        meaning = f"{subject} changed: {text}"
        case.expect(f"{name}-{when}", not changes, "as before", text or "the same", meaning, family=name)
