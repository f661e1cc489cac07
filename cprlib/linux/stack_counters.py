"""Counters of the IP stack of a network namespace: /proc/net/snmp (RFC 4293 and others) and snmp6."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cprlib.linux.namespace import NetworkNamespace

FOLDER = Path("/proc/thread-self/net")  # /proc/net is the namespace of the process's first thread


def parse_snmp(text: str) -> dict[str, int]:
    """The counters of /proc/net/snmp, which has a line of names and a line of values for each protocol.

    :returns: by protocol and name: ``Ip.InHdrErrors``.
    """
    counters = {}
    lines = iter(text.splitlines())
    for names, values in zip(lines, lines, strict=False):
        protocol, *fields = names.split()
        for name, value in zip(fields, values.split()[1:], strict=False):
            counters[f"{protocol.rstrip(':')}.{name}"] = int(value)
    return counters


def parse_snmp6(text: str) -> dict[str, int]:
    """The counters of /proc/net/snmp6: ``Ip6InHdrErrors``."""
    return {name: int(value) for name, value, *_ in (line.split() for line in text.splitlines())}


def read_stack_counters(namespace: NetworkNamespace) -> Mapping[str, int]:
    """The counters of a namespace, with the names that the guest's agent uses."""
    with namespace.entered():
        version4, version6 = (FOLDER / "snmp").read_text(), (FOLDER / "snmp6").read_text()
    return parse_snmp(version4) | parse_snmp6(version6)
