"""Counters around an update: errors, which must not rise, and interrupts and kicks per packet, which must not multiply.

The capture and the reflector's log show what arrived. The error counters of both ends and of everything between them
(stacks, NICs, tap and bridge port) show what a stack or a NIC refused: a checksum that is wrong because the tap's vnet
header was lost, a frame of the wrong length, a bad IP header.

A device interrupts the guest for used buffers, and a guest's driver kicks the device for available ones, unless the
other side has asked for silence (VIRTIO 1.2 section 2.7.7, event index and flags). How often depends on load: packets
that have waited arrive in bursts, with one interrupt for many. So a decrease is not a finding, nor is an increase up to
one for each packet. A lost notification leaves a single packet waiting (:mod:`cprlib.testing.idle_nic`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from cprlib.evidence.records import Check, Outcome
from cprlib.guest.replies import NetInfo, NicInfo
from cprlib.linux.counters import read_link_errors, read_stack_counters
from cprlib.linux.topology import PORT, STATION_INTERFACE
from cprlib.update.running_guest import RunningGuest

Errors = Mapping[str, int]
"""Counts by place and counter: ``guest Udp.InCsumErrors``, ``tap0 rx_frame_errors``."""

#: Ends of names in /proc/net/snmp and snmp6. Not in the list: ICMP's InErrors, which counts errors about closed ports.
REFUSED = ("InHdrErrors", "InCsumErrors", "InTruncatedPkts", "InUnknownProtos", "InTooBigErrors", "Tcp.InErrs")
UDP_ERRORS, FULL_SOCKET = ("Udp.InErrors", "Udp6InErrors"), ("RcvbufErrors", "MemErrors")
NIC_STATISTICS = ("drop", "err", "timeout")  # in names of ethtool -S
FEWEST_PACKETS = 300  # in each of the two periods
LARGEST_RATIO = 4.0
FEW_PER_PACKET = 1.25  # each packet may have a notification of its own; some packets are not counted
CONFIG_VECTORS = ("config", "control")  # not for packets: link, announcements, control queue


def read_errors(guest: RunningGuest, network: NetInfo) -> Errors:
    """All error counters now.

    :param network: what the guest's agent reports.
    :raises InstrumentError: the kernel does not report them.
    """
    topology = guest.topology
    errors = {f"station {name}": count for name, count in _refused(read_stack_counters(topology.station)).items()}
    errors |= {f"guest {name}": count for name, count in _refused(network.stack).items()}
    for name in UDP_ERRORS:  # not at the station, whose sockets discard answers that the capture has seen
        full = sum(network.stack.get(name.replace("InErrors", other), 0) for other in FULL_SOCKET)
        errors[f"guest {name}"] = network.stack.get(name, 0) - full
    links = ((topology.station, STATION_INTERFACE), (topology.switch, PORT), (topology.switch, guest.tap))
    for namespace, interface in links:
        errors |= {f"{interface} {name}": count for name, count in read_link_errors(namespace, interface).items()}
    for nic in network.nics:
        seen = {name: count for name, count in nic.counters.items() if "error" in name or name == "collisions"}
        seen |= {name: count for name, count in nic.statistics.items() if any(word in name for word in NIC_STATISTICS)}
        errors |= {f"guest's {nic.name} {name}": count for name, count in seen.items()}
    return errors


def _refused(counters: Mapping[str, int]) -> dict[str, int]:
    return {name: count for name, count in counters.items() if name.endswith(REFUSED)}


def error_check(before: Errors, after: Errors, first: Errors | None = None) -> Check:
    """No error counter has risen; inconclusive for those that had risen before.

    Inconclusive, too, where the guest reports no counters of its NIC.

    :param before, after: right before the first update, and at the end.
    :param first: some time before the first update; None when they were not read then.
    """
    name, expected = "no-error-counted", "no error counter of station, switch, tap or guest rises"
    if not any(key.startswith("guest's ") for key in before):
        return Check(name, Outcome.INCONCLUSIVE, expected, "the guest reports no counters of its NIC")
    early, late = _risen(before if first is None else first, before), _risen(before, after)
    if new := late.keys() - early.keys():
        text = _increases({key: late[key] for key in new})
        return Check(name, Outcome.FAIL, expected, text, f"a stack or a NIC refused packets: counters rose: {text}")
    if early:
        text = f"risen before the update already: {_increases(early)}"
        return Check(name, Outcome.INCONCLUSIVE, expected, text)
    return Check(name, Outcome.PASS, expected, "none rose")


def _risen(before: Errors, after: Errors) -> Errors:
    """Counters that have risen, by how much."""
    return {key: count - before.get(key, 0) for key, count in after.items() if count > before.get(key, 0)}


def _increases(risen: Errors) -> str:
    return ", ".join(f"{key} by {count}" for key, count in sorted(risen.items()))


@dataclass(frozen=True, slots=True)
class Notifications:
    """Counters of a NIC of the guest."""

    packets: int
    interrupts: int
    kicks: int


def notifications(nic: NicInfo) -> Notifications:
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
        more = later > LARGEST_RATIO * earlier and later > FEW_PER_PACKET
        yield Check.of(
            f"{name}-per-packet",
            not more,
            f"at most {LARGEST_RATIO:.0f} times as many {name} per packet as before, or {FEW_PER_PACKET}",
            f"{earlier:.2f} before, {later:.2f} after",
            f"{earlier:.2f} {name} per packet before the update, {later:.2f} after it",
        )
