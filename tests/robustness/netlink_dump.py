"""The network configuration of the host, by netlink and procfs; equal dumps mean that nothing was changed."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute

# Counters, ages and headers, which change by themselves.
VOLATILE = {
    *("header", "event", "IFLA_STATS", "IFLA_STATS64", "IFLA_LINK_STATS", "IFLA_CARRIER_CHANGES"),
    *("IFLA_CARRIER_UP_COUNT", "IFLA_CARRIER_DOWN_COUNT", "IFLA_INET6_CACHEINFO", "IFLA_INET6_STATS"),
    *("IFLA_INET6_ICMP6STATS", "IFA_CACHEINFO", "RTA_CACHEINFO", "NDA_CACHEINFO", "NDA_PROBES"),
    *("TCA_STATS", "TCA_STATS2", "TCA_XSTATS", "UNKNOWN"),
}
NUD_PERMANENT = 0x80  # linux/neighbour.h; the kernel learns and forgets the others
VOLATILE_SYSCTLS = ("nf_conntrack_count", "flow_limit_table_len")


def dump() -> dict[str, list[str]]:
    """Links, addresses, routes of all tables, rules, neighbours, qdiscs, bridge VLANs and FDB; sysctls; nftables.

    Each is a sorted list of texts.
    """
    with IPRoute() as netlink:
        families = (socket.AF_INET, socket.AF_INET6)
        found = {
            "links": _texts(netlink.get_links),
            "addresses": _texts(netlink.get_addr),
            "routes": [
                text for family in families for text in _texts(functools.partial(netlink.get_routes, family=family))
            ],
            "rules": [
                text for family in families for text in _texts(functools.partial(netlink.get_rules, family=family))
            ],
            "neighbours": [
                text
                for family in families
                for text in _texts(_permanent(functools.partial(netlink.get_neighbours, family=family)))
            ],
            "qdiscs": _texts(netlink.get_qdiscs),
            "bridge fdb": _texts(functools.partial(netlink.fdb, "dump")),
            "bridge vlans": _texts(netlink.get_vlans),
        }
    return found | {"sysctls": sysctls(), "nftables": nftables()}


def _texts(get: Callable[[], Iterable[Any]]) -> list[str]:
    with contextlib.suppress(Exception):  # pyroute2's various errors for what this kernel lacks
        return sorted(json.dumps(_plain(message), sort_keys=True) for message in get())
    return ["not available"]


def _permanent(get: Callable[[], Iterable[Any]]) -> Callable[[], Iterable[Any]]:
    """Neighbours that are configured, not learned."""
    return lambda: (message for message in get() if message["state"] & NUD_PERMANENT)


def _plain(value: Any) -> Any:
    """A message as lists and dicts, without volatile attributes."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if key not in VOLATILE}
    if isinstance(value, list):
        return [_plain(item) for item in value if not (hasattr(item, "name") and item.name in VOLATILE)]
    if hasattr(value, "name") and hasattr(value, "value"):  # an attribute
        return [value.name, _plain(value.value)]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def sysctls() -> list[str]:
    """Every readable value below net.*."""
    found = []
    for folder, _, names in os.walk("/proc/sys/net"):
        for name in names:
            path = Path(folder, name)
            if name in VOLATILE_SYSCTLS:
                continue
            with contextlib.suppress(OSError, UnicodeDecodeError):
                found.append(f"{path}: {path.read_text().strip()}")
    return sorted(found)


def nftables() -> list[str]:
    """The rule set, if nft is installed."""
    program = shutil.which("nft", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if program is None:
        return ["nft is not installed"]
    done = subprocess.run([program, "--stateless", "list", "ruleset"], capture_output=True, text=True, check=False)
    return done.stdout.splitlines() or [done.stderr.strip()]


def difference(before: dict[str, list[str]], after: dict[str, list[str]]) -> list[str]:
    """Lines of one dump that the other lacks, with kind and sign."""
    return [
        f"{kind} {sign}{text}"
        for kind in before
        for sign, more, less in (("-", before, after), ("+", after, before))
        for text in more[kind]
        if text not in set(less[kind])
    ]


def listening() -> set[str]:
    """Listening sockets of this network namespace: protocol, address in hex, inode; and unix sockets by inode."""
    found: set[str] = set()
    for table, state in (("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07"), ("raw", "07"), ("raw6", "07")):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                words = line.split()
                if words[3] == state:
                    found.add(f"{table} {words[1]} socket:[{words[9]}]")
    with contextlib.suppress(OSError):
        for line in Path("/proc/net/unix").read_text(errors="replace").splitlines()[1:]:
            words = line.split(maxsplit=7)
            if int(words[3], 16) & 0x10000:  # __SO_ACCEPTCON
                found.add(f"unix {words[7] if len(words) > 7 else 'without a name'} socket:[{words[6]}]")
    return found
