"""A failover pair in an ordinary migration: QEMU, docs/system/virtio-net-failover.rst."""

from __future__ import annotations

import contextlib

from cprlib.deadline import Deadline
from cprlib.errors import Awaited, DeadlineExceeded
from cprlib.qemu.netdev import NIC_DRIVER, TapNetdev
from cprlib.testing.hand_over import failing_migration
from cprlib.testing.measured_case import MeasuredCase

PAIR_MAC, PAIR_S = "52:54:00:75:09:01", 10.0
PAIR_NICS = "NICs of the guest with the address of the failover pair (itself, standby and primary)"
PAIR_PORTS = (
    *("-device", "pcie-root-port,id=standby-port,chassis=20"),
    *("-device", "pcie-root-port,id=primary-port,chassis=21"),
)


def expect_primary_given_back(case: MeasuredCase) -> None:
    """QEMU takes the primary NIC of a failover pair from the guest for a migration, and returns it when that fails.

    The guest has :data:`PAIR_PORTS`.
    """
    machine = case.guest.machine
    case.guest.topology.add_tap("pair0", queues=1)
    machine.plug(TapNetdev("pair", "pair0", cpr=True))
    nic = {"driver": NIC_DRIVER, "mac": PAIR_MAC, "romfile": ""}
    standby = {"id": "standby", "bus": "standby-port", "netdev": "pair", "failover": True}
    primary = {"id": "primary", "bus": "primary-port", "failover_pair_id": "standby"}
    for options in (standby, primary):
        machine.qmp.execute("device_add", nic | options)
    before = wait_nics_of_pair(case, 3)
    if not case.require("failover-pair", before == 3, f"3 {PAIR_NICS}", before):
        return
    with failing_migration(case):
        found = [wait_nics_of_pair(case, 2)]
    found.append(wait_nics_of_pair(case, 3))
    case.expect_equal("primary-is-given-back", found, [2, 3], f"{PAIR_NICS}: while it migrates, and after the failure")


def wait_nics_of_pair(case: MeasuredCase, expected: int) -> int:
    """How many NICs of the guest have the address of the failover pair, when they are as many as expected or late."""

    def count() -> int:
        return sum(nic.mac == PAIR_MAC for nic in case.guest.agent.network().nics)

    with contextlib.suppress(DeadlineExceeded):
        Deadline(PAIR_S, PAIR_NICS, Awaited.GUEST).poll(lambda: count() == expected, 0.1)
    return count()
