"""The counters of the IP stack have the names that the guest's agent uses."""

from __future__ import annotations

import pytest

from cprlib.linux.counters import parse_snmp, parse_snmp6

pytestmark = pytest.mark.fast

SNMP = """\
Ip: Forwarding DefaultTTL InReceives InHdrErrors
Ip: 2 64 17 1
Udp: InDatagrams NoPorts InErrors InCsumErrors
Udp: 5 0 3 2
"""


def test_lines_of_names_and_values_are_paired() -> None:
    seen = parse_snmp(SNMP)
    assert (seen["Ip.InHdrErrors"], seen["Udp.InCsumErrors"], len(seen)) == (1, 2, 8)
    assert parse_snmp6("Ip6InReceives \t4\nUdp6InCsumErrors 0\n") == {"Ip6InReceives": 4, "Udp6InCsumErrors": 0}
