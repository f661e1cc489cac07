"""Addresses for guests with several NICs: each further one has a network of its own on the same switch."""

from __future__ import annotations

from cprlib.linux.topology import STATION, STATION_INTERFACE, Address, Topology

NUD_PERMANENT = 0x80  # linux/neighbour.h


def further_guest(number: int) -> Address:
    """The guest's end of further NIC ``number``, from 1 to 99."""
    return Address(f"52:54:00:75:01:{number:02x}", f"10.75.{number}.2", f"fd75:{number}::2")


def further_station(number: int) -> Address:
    """The station's end, on the same interface as the others."""
    return Address(STATION.mac, f"10.75.{number}.1", f"fd75:{number}::1")


def add_further_network(topology: Topology, number: int) -> None:
    """Give the station an address for further NIC ``number``, and the guest's as a permanent neighbour."""
    station, here, there = topology.station, further_station(number), further_guest(number)
    index = station.index(STATION_INTERFACE)
    station.netlink.addr("add", index=index, address=here.ipv4, prefixlen=24)
    station.netlink.neigh("add", dst=there.ipv4, lladdr=there.mac, ifindex=index, state=NUD_PERMANENT)
