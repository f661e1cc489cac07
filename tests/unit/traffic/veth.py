"""Two private network namespaces joined by a veth pair, with the addresses of station and guest."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from cprlib.errors import EnvironmentFailure
from cprlib.linux.namespace import NetworkNamespace
from cprlib.linux.topology import GUEST, NUD_PERMANENT, STATION, Address, disable_ipv6

INTERFACE = "eth0"
IPV6_MIN_MTU = 1280  # bytes, linux/ipv6.h


@dataclass(frozen=True, slots=True)
class Pair:
    """The end of the station, and the end that stands for a guest."""

    station: NetworkNamespace
    guest: NetworkNamespace


def configure(namespace: NetworkNamespace, own: Address, peer: Address) -> None:
    """Set addresses and neighbour of one end's interface."""
    netlink, index = namespace.netlink, namespace.index(INTERFACE)
    disable_ipv6(namespace, INTERFACE)
    netlink.link("set", index=index, address=own.mac)
    netlink.link("set", index=index, state="up")
    netlink.addr("add", index=index, address=own.ipv4, prefixlen=24)
    netlink.addr("add", index=index, address=own.ipv6, prefixlen=64, flags=0x02)  # IFA_F_NODAD
    for address in (peer.ipv4, peer.ipv6):
        netlink.neigh("add", dst=address, lladdr=peer.mac, ifindex=index, state=NUD_PERMANENT)


def silence(namespace: NetworkNamespace, interface: str = INTERFACE) -> None:
    """Take IPv6 away from a link, whose reports would mix in.

    A link with an MTU below 1280 bytes has no IPv6 (RFC 8200 section 5; Linux net/ipv6/addrconf.c). The setting
    ``disable_ipv6`` does the same, but /proc/sys is read-only in many containers.
    """
    namespace.netlink.link("set", index=namespace.index(interface), mtu=IPV6_MIN_MTU - 1)


@contextlib.contextmanager
def veth_pair() -> Iterator[Pair]:
    """Make both ends.

    :raises EnvironmentFailure: rights or veth are missing.
    """
    with NetworkNamespace("station") as station, NetworkNamespace("guest") as guest:
        try:
            station.netlink.link(
                "add", ifname=INTERFACE, kind="veth", peer={"ifname": INTERFACE, "net_ns_fd": guest.descriptor}
            )
            configure(station, STATION, GUEST)
            configure(guest, GUEST, STATION)
        except OSError as error:
            raise EnvironmentFailure("join two namespaces by veth", str(error), "run as root or in the lab") from error
        yield Pair(station, guest)


def require_root() -> None:
    """Skip the test where rights are missing."""
    if os.geteuid() != 0:
        pytest.skip("needs root for namespaces and packet sockets: run it as root or in the lab")


@contextlib.contextmanager
def veth_pair_or_skip() -> Iterator[Pair]:
    """As :func:`veth_pair`; the test is skipped where that is impossible."""
    require_root()
    with contextlib.ExitStack() as stack:
        try:
            pair = stack.enter_context(veth_pair())
        except EnvironmentFailure as error:
            pytest.skip(error.one_line())
        yield pair
