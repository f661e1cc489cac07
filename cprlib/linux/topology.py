"""The two namespaces of a test: a switch with the guest's taps, and a station that measures.

::

    station: eth0 10.75.0.1/24, fd75::1/64
       |  veth
    switch:  port0 -- br0 -- tap0 ( -- tap1 ) -- QEMU -- guest 10.75.0.2/24, fd75::2/64

Addresses are fixed and neighbours permanent, so that no ARP or neighbour discovery mixes with the measured traffic.
Each further NIC of a guest has an IPv4 network of its own on the same switch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from cprlib.linux.namespace import NetworkNamespace, netlink_errors

NUD_PERMANENT = 0x80  # linux/neighbour.h
STATION_INTERFACE = "eth0"
BRIDGE = "br0"
PORT = "port0"
TAP_QUEUE_LENGTH = 5000  # packets: the longest pause of policy default at 1,000 packets/s; the kernel's is 1,000
MTU = 1500  # bytes; the kernel's own default for Ethernet


@dataclass(frozen=True, slots=True)
class Address:
    """Addresses of one end of the measurement."""

    mac: str
    ipv4: str
    ipv6: str


STATION = Address("52:54:00:75:00:01", "10.75.0.1", "fd75::1")
GUEST = Address("52:54:00:75:00:02", "10.75.0.2", "fd75::2")


def guest_end(number: int) -> Address:
    """The guest's addresses on NIC ``number``, from 0 to 99."""
    return Address(f"52:54:00:75:01:{number:02x}", f"10.75.{number}.2", f"fd75:{number}::2") if number else GUEST


def station_end(number: int) -> Address:
    """The station's addresses for NIC ``number`` of the guest, on one interface; it has only IPv4 for further NICs."""
    return Address(STATION.mac, f"10.75.{number}.1", f"fd75:{number}::1") if number else STATION


@dataclass(frozen=True, slots=True)
class Topology:
    """The namespaces of a running test; created by :func:`build_topology`.

    :param mtu: MTU of every link, in bytes.
    """

    switch: NetworkNamespace
    station: NetworkNamespace
    mtu: int = MTU

    def add_tap(
        self, interface: str, *, queues: int, queue_length: int = TAP_QUEUE_LENGTH, attached: bool = True
    ) -> None:
        """Create a persistent tap in the switch.

        :param queues: 1 for an ordinary tap, more for a multi-queue one (IFF_MULTI_QUEUE).
        :param queue_length: packets that an unread queue holds (txqueuelen); the kernel drops and counts the rest.
        :param attached: whether the tap is a port of the bridge and up.
        :raises EnvironmentFailure: the kernel has no tun or the rights are missing.
        """
        multi_queue = int(queues > 1)
        with netlink_errors(f"make tap {interface}"), self.switch.entered():  # TUNSETIFF uses the caller's namespace
            self.switch.netlink.link(
                "add",
                ifname=interface,
                kind="tuntap",
                mode="tap",
                ifr={"no_pi": 1, "one_queue": 0, "vnet_hdr": 1, "multi_queue": multi_queue},
            )
        self.set_tap_queue_length(interface, queue_length)
        self.switch.netlink.link("set", index=self.switch.index(interface), mtu=self.mtu)
        disable_ipv6(self.switch, interface)
        if attached:
            self.attach(interface)

    def add_macvtap(self, interface: str, mac: str, *, queue_length: int = TAP_QUEUE_LENGTH) -> None:
        """Create a macvtap in the switch, on a link of its own to the bridge.

        In mode passthru it gets every packet of this link, whatever address the guest gives its NIC.

        :param mac: address of the guest's NIC.
        :param queue_length: packets that an unread queue holds.
        :raises EnvironmentFailure: the kernel has no macvtap or the rights are missing.
        """
        netlink, port, lower = self.switch.netlink, f"{interface}-port", f"{interface}-lower"
        with netlink_errors(f"make macvtap {interface}"):
            netlink.link("add", ifname=port, kind="veth", peer={"ifname": lower})
            index = self.switch.index(lower)
            netlink.link("add", ifname=interface, kind="macvtap", link=index, macvtap_mode="passthru")
        netlink.link("set", index=self.switch.index(interface), address=mac, txqlen=queue_length)
        for name in (port, lower, interface):
            disable_ipv6(self.switch, name)
            netlink.link("set", index=self.switch.index(name), mtu=self.mtu)
        self.attach(port)
        for name in (lower, interface):
            netlink.link("set", index=self.switch.index(name), state="up")

    def set_tap_queue_length(self, interface: str, packets: int) -> None:
        """Set the capacity of each queue of a tap; shrinking it under traffic loses packets without counting them."""
        self.switch.netlink.link("set", index=self.switch.index(interface), txqlen=packets)

    def attach(self, interface: str) -> None:
        """Add a tap to the bridge and set it up, as management activates a new interface."""
        index = self.switch.index(interface)
        self.switch.netlink.link("set", index=index, master=self.switch.index(BRIDGE))
        self.switch.netlink.link("set", index=index, state="up")

    def detach(self, interface: str) -> None:
        """Set a tap down and remove it from the bridge, as management deactivates an old interface."""
        index = self.switch.index(interface)
        self.switch.netlink.link("set", index=index, state="down")
        self.switch.netlink.link("set", index=index, master=0)

    def remove_tap(self, interface: str) -> None:
        self.switch.netlink.link("del", index=self.switch.index(interface))

    def add_further_network(self, number: int) -> None:
        """Give the station an address for further NIC ``number``, and the guest's as a permanent neighbour."""
        here, there = station_end(number), guest_end(number)
        index = self.station.index(STATION_INTERFACE)
        self.station.netlink.addr("add", index=index, address=here.ipv4, prefixlen=24)
        self.station.netlink.neigh("add", dst=there.ipv4, lladdr=there.mac, ifindex=index, state=NUD_PERMANENT)


def disable_ipv6(namespace: NetworkNamespace, interface: str) -> None:
    """Stop a link from sending router solicitations and MLD reports of its own."""
    addr_gen_mode_none = 1  # IN6_ADDR_GEN_MODE_NONE, linux/if_link.h
    namespace.netlink.link(
        "set",
        index=namespace.index(interface),
        IFLA_AF_SPEC={"attrs": [("AF_INET6", {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", addr_gen_mode_none)]})]},
    )


def _build_switch(switch: NetworkNamespace, station: NetworkNamespace, mtu: int) -> None:
    netlink = switch.netlink
    netlink.link("add", ifname=BRIDGE, kind="bridge", br_stp_state=0, br_mcast_snooping=0, br_forward_delay=0)
    netlink.link(
        "add",
        ifname=PORT,
        kind="veth",
        peer={"ifname": STATION_INTERFACE, "net_ns_fd": station.descriptor, "address": STATION.mac},
    )
    for interface in (BRIDGE, PORT):
        disable_ipv6(switch, interface)
    netlink.link("set", index=switch.index(PORT), mtu=mtu)  # the bridge takes the lowest MTU of its ports
    netlink.link("set", index=switch.index(PORT), master=switch.index(BRIDGE))
    for interface in (BRIDGE, PORT):
        netlink.link("set", index=switch.index(interface), state="up")


def _build_station(station: NetworkNamespace, mtu: int) -> None:
    netlink = station.netlink
    index = station.index(STATION_INTERFACE)
    disable_ipv6(station, STATION_INTERFACE)
    netlink.link("set", index=index, mtu=mtu, state="up")
    netlink.addr("add", index=index, address=STATION.ipv4, prefixlen=24)
    netlink.addr("add", index=index, address=STATION.ipv6, prefixlen=64, flags=0x02)  # IFA_F_NODAD
    for address in (GUEST.ipv4, GUEST.ipv6):
        netlink.neigh("add", dst=address, lladdr=GUEST.mac, ifindex=index, state=NUD_PERMANENT)


@contextlib.contextmanager
def build_topology(mtu: int = MTU) -> Iterator[Topology]:
    """Create the switch and the station in two new namespaces; both are deleted when the body ends.

    :param mtu: MTU of every link, in bytes.
    :raises EnvironmentFailure: a right or a kernel feature is missing.
    """
    with NetworkNamespace("switch") as switch, NetworkNamespace("station") as station:
        with netlink_errors("build the switch and the station"):
            _build_switch(switch, station, mtu)
            _build_station(station, mtu)
        yield Topology(switch, station, mtu)
