"""All state of the host's side of a NIC that an update must not change, as a flat mapping from path to value.

Links with all their attributes, queueing disciplines and forwarding entries by netlink; offloads and tap queues by
ioctl; errors that the network stacks count. Counters of packets are left out: they change with traffic.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from cprlib.linux.counters import read_stack_counters
from cprlib.linux.namespace import NetworkNamespace
from cprlib.linux.tap import TapQueue, offload_bits

Values = dict[str, str]

TIMES_AND_COUNTERS = re.compile(r"STATS|CACHEINFO|_TIMER$|_AGE$")  # of attributes; errors are read apart
LINK_ERRORS = re.compile(r"errors$")
STACK_ERRORS = re.compile(r"CsumErrors$|InHdrErrors$|InTruncatedPkts$|InErrs$")  # a packet that arrived damaged
HEADER_MEMBERS = ("family", "ifi_type", "flags", "handle", "parent", "state", "prefixlen", "scope")


def read_network_state(switch: NetworkNamespace, station: NetworkNamespace, taps: Iterable[str]) -> Values:
    """State of a switch's links, and the errors that switch and station have counted.

    :param taps: interfaces whose offloads are read.
    :raises InstrumentError, OSError: the kernel does not report it.
    """
    netlink = switch.netlink
    names: dict[int, str] = {}
    values: Values = {}
    for message in netlink.get_links():
        name = names[int(message["index"])] = str(message.get_attr("IFLA_IFNAME"))
        values |= {f"link/{name}/{path}": value for path, value in _message(message)}
        errors = message.get_attr("IFLA_STATS64") or {}
        values |= {f"errors/{name}/{item}": str(errors[item]) for item in errors if LINK_ERRORS.search(item)}
    for message in netlink.get_qdiscs():
        prefix = f"qdisc/{names.get(message['index'])}/{message['parent']:x}"
        values |= {f"{prefix}/{path}": value for path, value in _message(message)}
    for message in netlink.fdb("dump"):
        entry = f"fdb/{names.get(message['ifindex'])}/{message.get_attr('NDA_LLADDR')}"
        values[f"{entry}/{message.get_attr('NDA_VLAN') or 0}"] = (
            f"state {message['state']:#x} flags {message['flags']:#x}"
        )
    for message in netlink.get_addr():
        values[f"address/{names.get(message['index'])}/{message.get_attr('IFA_ADDRESS')}"] = str(message["prefixlen"])
    for tap in taps:
        values[f"offloads/{tap}"] = offload_bits(switch, tap)
    return values | _stack_errors(switch) | _stack_errors(station)


def tap_queue_values(queues: Iterable[TapQueue]) -> Values:
    """The kernel's state of the tap queues that a process has open, with the number of queues in each state.

    The order of their descriptors does not matter: a guest cannot see it.
    """
    counted = Counter(
        f"queues/{queue.interface}/{name}: {value}" for queue in queues for name, value in queue.facts().items()
    )
    return {path: str(count) for path, count in counted.items()}


def _message(message: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The members of a netlink message that are neither counters nor times."""
    for member in HEADER_MEMBERS:
        if isinstance(message.get(member), int):
            yield member, str(message[member])
    yield from _attributes(message, "")


def _attributes(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and "attrs" in value:
        for name, item in value["attrs"]:
            if name != "UNKNOWN" and not TIMES_AND_COUNTERS.search(name):
                yield from _attributes(item, f"{path}/{name}" if path else name)
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _attributes(item, f"{path}/{name}")
    else:
        yield path, str(value)


def _stack_errors(namespace: NetworkNamespace) -> Values:
    """Damaged packets that the IP stack of a namespace has counted (/proc/net/snmp, snmp6)."""
    return {
        f"errors/{namespace.name}/{name.replace('.', '')}": str(count)
        for name, count in read_stack_counters(namespace).items()
        if STACK_ERRORS.search(name)
    }
