"""What worked before an update works after it: the same operations in several situations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cprlib.evidence.records import Role
from cprlib.qemu.netdev import TapNetdev
from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.live_update_test import LiveUpdateTest
from cprlib.testing.measured_case import MeasuredCase
from cprlib.testing.parameters import Situation
from cprlib.update.faults import faults_named
from host_operations import ANNOUNCE, LINK, MIGRATION, PLUG, REBOOT, SINGLE_PACKETS, STOP, TAP, TCP
from moment_updater import MomentUpdater
from nic_operations import (
    ADDRESS,
    DRIVER,
    INTERFACE,
    MULTICASTS,
    OFFLOADS,
    QUEUE_PAIRS,
    RECEIVE_MODE,
    RSS,
    VLANS,
)
from operated_guest import operated_guest
from operations import Operation, checked_operations

OPERATIONS: Sequence[Operation] = (
    *(SINGLE_PACKETS, STOP, ADDRESS, VLANS, MULTICASTS, RECEIVE_MODE, QUEUE_PAIRS, OFFLOADS, RSS),
    *(LINK, TAP, INTERFACE, DRIVER, TCP, MIGRATION, ANNOUNCE, PLUG),
)
BRIEF = (SINGLE_PACKETS,)
FAULT = "target-killed-with-devices"  # the target owned vhost, and had opened nothing else
RSS_ON = ("-global", "virtio-net-pci.rss=on")


class Operations(LiveUpdateTest):
    """Mechanisms ``cpr`` and ``local``; machine ``pc``, whose bus takes NICs as it is, and ``q35``."""

    def _operate(self, spec: GuestSpec, used: int, situation: Situation, operations: Sequence[Operation]) -> None:
        """Bring a guest into a situation, run the operations, and update it once more.

        :param used: queue pairs that the guest uses.
        """
        with (
            self.given_guest(spec) as case,
            operated_guest(case.guest, case.ports, used, MomentUpdater(case)) as guest,  # it waits for announcements
            checked_operations(case, guest, (*operations, *BRIEF)) as checked,
        ):
            if situation is Situation.FAILED_UPDATE:
                case.inject_fault(*faults_named(FAULT))
            else:
                _update(case, "first")
            if situation is Situation.CHAIN:
                checked.run("between-updates", BRIEF)
                _update(case, "second")
            if checked.run(f"after-{situation}", operations):
                _update(case, "next")
                case.frames.answered = checked.run("after-next-update", BRIEF)

    def test_operations_keep_working(self) -> None:
        """All operations on guest and NIC that worked before an update work after it.

        Pause, address, filters, queue pairs, offloads, links, driver, reboot, hot-plug, ordinary migration,
        announcement, single packets and TCP; each is undone, and the guest must then answer on every queue pair in use,
        through vhost. What fails is repeated on a guest without an update; if it fails there too, the check is
        inconclusive.
        Parameters ``queues``, ``queues_in_use``, ``vhost``, ``nics``, ``situation``: fixtures/matrix/operations.yaml.

        :avocado: tags=patch:tap-cpr,patch:6,patch:vhost-reset,patch:3
        :avocado: tags=mechanism:cpr,mode:cpr-exec,mechanism:local,vhost:on,queues:4
        """
        run = self.parameters
        queues = run.queues or 4
        used = min(run.queues_in_use or (queues if run.queues else 2), queues)
        spec = _spec(queues=queues, vhost=run.vhost is not False, nics=run.nics or 1)
        self._operate(spec, used, run.situation or Situation.UPDATE, (*OPERATIONS, REBOOT))

    def test_operations_work_after_failed_update(self) -> None:
        """All operations on guest and NICs work in a source whose update failed, and so does the next update.

        :avocado: tags=patch:stop-early,patch:1,patch:vhost-reset,patch:3
        :avocado: tags=mechanism:cpr,mechanism:local,vhost:on,queues:1
        """
        self._operate(_spec(vhost=True, nics=2), 1, Situation.FAILED_UPDATE, OPERATIONS)

    def test_operations_work_without_vhost(self) -> None:
        """All operations on guest and NIC work in the target of an update when vhost is off, with all queues in use.

        The NIC is behind a root port of machine ``q35``, which has other registers for the plugging of NICs;
        a legacy NIC cannot be.

        :avocado: tags=patch:cpr-fixes,patch:8,patch:postload,patch:7
        :avocado: tags=mechanism:cpr,mode:cpr-exec,mechanism:local,vhost:off,queues:4
        """
        spec = _spec(queues=4)
        if not self.parameters.legacy_nics:
            spec = replace(spec, pluggable=False, root_ports=True)
        self._operate(spec, 4, Situation.UPDATE, OPERATIONS)


def _update(case: MeasuredCase, label: str) -> None:
    """Update a guest; with several NICs also check which files were sent."""
    if len(case.guest.machine.settings.netdevs) > 1:
        case.live_update(label=label)
    else:
        case.live_update(check=f"{label}-update")


def _spec(*, queues: int = 1, vhost: bool = False, nics: int = 1) -> GuestSpec:
    """A guest; receive-side scaling needs several queues, and without an eBPF program no vhost."""
    netdevs = [TapNetdev(queues=queues, vhost=vhost)]
    netdevs += [TapNetdev(f"net{number}", f"tap{number}", vhost=vhost) for number in range(1, nics)]
    arguments = RSS_ON if queues > 1 and not vhost else ()
    return GuestSpec(netdevs=tuple(netdevs), pluggable=True, arguments=arguments, role=Role.CHECKS)
