"""Interrupts and kicks per packet before and after an update, which a storm or suppression without effect changes.

A device interrupts the guest for used buffers, and a guest's driver kicks the device for available ones, unless the
other side has asked for silence (VIRTIO 1.2 section 2.7.7, event index and flags). How often depends on load: packets
that have waited arrive in bursts, with one interrupt for many. So fewer are no finding, and only a large increase is
one. A lost notification leaves a single packet waiting (:mod:`cprlib.testing.quiet_nic`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from cprlib.evidence.records import Check
from cprlib.guest.replies import NicInfo

FEWEST_PACKETS = 300  # in each of the two periods
LARGEST_RATIO = 4.0
SMALLEST_INCREASE = 0.4  # per packet
CONFIG_VECTORS = ("config", "control")  # not for packets: link, announcements, control queue


@dataclass(frozen=True, slots=True)
class Notifications:
    """What a NIC of the guest has counted so far."""

    packets: int
    interrupts: int
    kicks: int


def notifications(nic: NicInfo) -> Notifications:
    """Sums over all queues."""
    return Notifications(
        packets=nic.counters.get("rx_packets", 0) + nic.counters.get("tx_packets", 0),
        interrupts=sum(count for name, count in nic.interrupts.items() if name not in CONFIG_VECTORS),
        kicks=sum(count for name, count in nic.statistics.items() if name.endswith("kicks")),
    )


def per_packet(first: Notifications, last: Notifications) -> Mapping[str, float] | None:
    """Interrupts and kicks per packet in a period; None for too few packets, or where the guest counts none."""
    packets = last.packets - first.packets
    moved = {"interrupts": last.interrupts - first.interrupts, "kicks": last.kicks - first.kicks}
    if packets < FEWEST_PACKETS or not last.interrupts or not last.kicks:
        return None
    return {name: count / packets for name, count in moved.items()}


def notification_checks(before: Mapping[str, float] | None, after: Mapping[str, float] | None) -> Iterator[Check]:
    """A check for each kind that was measured in both periods."""
    if before is None or after is None:
        return
    for name, earlier in before.items():
        later = after[name]
        more = later > LARGEST_RATIO * earlier and later - earlier > SMALLEST_INCREASE
        yield Check.of(
            f"{name}-per-packet",
            not more,
            f"at most {LARGEST_RATIO:.0f} times as many {name} per packet after the update as before",
            f"{earlier:.2f} before, {later:.2f} after",
            f"{earlier:.2f} {name} per packet before the update, {later:.2f} after it",
        )
