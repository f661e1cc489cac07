"""Error counters of both ends and of everything between them, which must not rise: stacks, NICs, tap and bridge port.

The capture and the reflector's log show what arrived. These counters show what a stack or a NIC refused: a checksum
that is wrong because the tap's vnet header was lost, a frame of the wrong length, a bad IP header.
"""

from __future__ import annotations

from collections.abc import Mapping

from cprlib.evidence.records import Check, Outcome
from cprlib.guest.replies import NetInfo
from cprlib.linux.counters import read_link_errors, read_stack_counters
from cprlib.linux.topology import PORT, STATION_INTERFACE
from cprlib.update.running_guest import RunningGuest

Errors = Mapping[str, int]
"""Counts by place and counter: ``guest Udp.InCsumErrors``, ``tap0 rx_frame_errors``."""

#: Ends of names in /proc/net/snmp and snmp6. Not in the list: ICMP's InErrors, which counts errors about closed ports.
REFUSED = ("InHdrErrors", "InCsumErrors", "InTruncatedPkts", "InUnknownProtos", "InTooBigErrors", "Tcp.InErrs")
UDP_ERRORS, FULL_SOCKET = ("Udp.InErrors", "Udp6InErrors"), ("RcvbufErrors", "MemErrors")
NIC_STATISTICS = ("drop", "err", "timeout")  # in names of ethtool -S


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


def error_check(before: Errors, after: Errors) -> Check:
    """No error counter has risen; inconclusive where the guest reports no counters of its stack."""
    name, expected = "no-error-counted", "no error counter of station, switch, tap or guest rises"
    if not any(key.startswith("guest's ") for key in before):
        return Check(name, Outcome.INCONCLUSIVE, expected, "the guest reports no counters of its NIC")
    risen = {key: count - before.get(key, 0) for key, count in after.items() if count > before.get(key, 0)}
    text = ", ".join(f"{key} by {count}" for key, count in sorted(risen.items()))
    return Check.of(name, not risen, expected, text or "none rose", f"a stack or a NIC refused packets: {text} more")
