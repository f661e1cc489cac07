"""Queue pairs that the guest does not use, or starts to use: before, after and during an update.

A tap queue that the guest does not use is detached in the kernel. That belongs to the open file, so the target
inherits it detached, and has to know it.
"""

from __future__ import annotations

import contextlib

from cprlib.deadline import Deadline
from cprlib.errors import Awaited, DeadlineExceeded
from cprlib.evidence.records import Role
from cprlib.linux.topology import GUEST
from cprlib.qemu.netdev import TapNetdev
from cprlib.testing.equivalence import wait_groups_joined
from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.live_update_test import LiveUpdateTest
from cprlib.testing.measured_case import MeasuredCase
from cprlib.testing.nic_frames import (
    exchange_packets,
    expect_same_queues_of_flows,
    queues_of_flows,
    use_queue_pairs,
)
from cprlib.testing.nic_view import (
    expect_same_nic,
    expect_same_tap,
    handed_over_queues,
    read_nic_view,
    read_tap_view,
)
from cprlib.update.faults import faults_named
from host_operations import REBOOTS, wait_booted
from moment_updater import MomentUpdater
from operated_guest import operated_guest

CONFIGURED, IN_USE = 4, 2
TOGGLE_MS = 30
TOGGLED_S = 5.0


class QueuePairsInUse(LiveUpdateTest):
    """Mechanism ``cpr``, a tap with four queues of which the guest uses some."""

    def _update_with_unused_queues(self, *, vhost: bool) -> None:
        with self.given_guest(GuestSpec(netdevs=(TapNetdev(queues=CONFIGURED, vhost=vhost),))) as case:
            use_queue_pairs(case, IN_USE, "before-update")
            wait_groups_joined(case.guest, GUEST.mac)
            before, mapped = read_nic_view(case.guest), queues_of_flows(case.guest)
            case.run_control()
            with case.under_traffic():
                update = case.live_update()
            after = read_nic_view(case.guest)
            expect_same_queues_of_flows(case, mapped, "queue-order", "queues were swapped or are dead")
            expect_same_tap(case, before.tap, after.tap, handed_over_queues(update.pairings), "after-update")
            expect_same_nic(case, before, after, "after-update")
            use_queue_pairs(case, CONFIGURED, "after-update")
            exchange_packets(case, CONFIGURED, "after-more-queue-pairs")
            tap = read_tap_view(case.guest.topology, case.guest.machine)
            update = case.live_update()
            later = read_tap_view(case.guest.topology, case.guest.machine)
            expect_same_tap(case, tap, later, handed_over_queues(update.pairings), "after-second-update")
            use_queue_pairs(case, 1, "after-second-update")
            exchange_packets(case, 1, "after-fewer-queue-pairs")

    def test_unused_queues_stay_detached(self) -> None:
        """Queue pairs that a guest does not use stay detached, and carry packets when it begins to use them.

        The guest uses 2 of 4 queue pairs, all 4 after an update, and 1 after another update.

        Checked: nothing is lost; each tap queue is attached or detached as before; a flow stays in its queue;
        ``ethtool -L`` works after the update, and the queues that the guest starts to use carry packets without loss.
        A second update with all queues in use finds them attached, as before.
        Origin: patches 7 and 8 of the series. Without them the target dies of an assertion in
        virtio_net_set_queue_pairs(), "could not disable queue", when it loads its state or at the first
        ``ethtool -L``. Reviewers saw it with 4 queues and vhost off.

        :avocado: tags=patch:postload,patch:7,patch:cpr-fixes,patch:8
        :avocado: tags=mechanism:cpr,mode:cpr-exec,mechanism:local,vhost:off,queues:4
        """
        self._update_with_unused_queues(vhost=False)

    def test_unused_vhost_queues_stay_detached(self) -> None:
        """With vhost-net, unused queue pairs stay detached, and carry packets when the guest begins to use them.

        Checked: as with vhost off, and vhost's workers for all four.
        Origin: patches 7 and 8 of the series.

        :avocado: tags=patch:postload,patch:7,patch:cpr-fixes,patch:8
        :avocado: tags=mechanism:cpr,mode:cpr-exec,mechanism:local,vhost:on,queues:4
        """
        self._update_with_unused_queues(vhost=True)

    def test_source_reset_during_update(self) -> None:
        """The guest boots in the target when the source is reset before it sends the device state, and uses all queues.

        The reset of the NIC detaches all queues but the first in the kernel. The target has created its netdev by then,
        and has to find it out before it runs the guest. Patch 7 (tap: postload fix for cpr).

        :avocado: tags=patch:postload,patch:7,mechanism:cpr,mechanism:local,vhost:off,queues:4
        """
        spec = GuestSpec(netdevs=(TapNetdev(queues=CONFIGURED),), arguments=REBOOTS, role=Role.CHECKS)
        with (
            self.given_guest(spec) as case,
            operated_guest(case.guest, case.ports, CONFIGURED, MomentUpdater(case)) as guest,
        ):
            boot = guest.agent.identity().boot_id
            case.inject_fault(*faults_named("reset-before-switchover"))
            wait_booted(guest, boot)
            exchange_packets(case, CONFIGURED, "after-boot")

    def test_queue_pairs_toggled_during_updates(self) -> None:
        """Two updates succeed while the guest switches between 1 and 4 queue pairs every 30 ms.

        Checked: no QEMU dies or complains; no change that the guest requested was refused; the guest ends with the
        number that it set last; all its queues carry packets without loss then. Packets that are lost while it toggles
        are not counted: the kernel drops what waits in a queue that is detached (docs/findings.md).
        Origin: reviewers' question to patches 7 and 8, whether the guest may change its queue pairs while the update
        runs.

        :avocado: tags=patch:postload,patch:7,patch:cpr-fixes,patch:8,mechanism:cpr,mechanism:local,vhost:on,queues:4
        """
        netdev = TapNetdev(queues=CONFIGURED, vhost=True)
        with self.given_guest(GuestSpec(netdevs=(netdev,), role=Role.CHECKS)) as case:
            exchange_packets(case, CONFIGURED, "before-update")
            agent = case.guest.agent
            case.compares_states = False  # the number of queue pairs in use changes
            agent.start_toggling(1, CONFIGURED, TOGGLE_MS)
            for number in ("first", "second"):
                case.live_update()
                expect_toggling(case, f"toggled-after-{number}-update")
            toggled = agent.stop_toggling()
            meaning = f"the device refused numbers of queue pairs that it has (errno {toggled.last_errno}); refusals"
            case.expect_equal("no-change-refused", toggled.failures, 0, meaning)
            use_queue_pairs(case, 3, "after-updates")
            exchange_packets(case, 3, "after-updates")
            use_queue_pairs(case, CONFIGURED, "after-updates")
            exchange_packets(case, CONFIGURED, "with-all-queue-pairs")


def expect_toggling(case: MeasuredCase, name: str) -> None:
    """Check that the guest still changes its queue pairs.

    :param name: of the check.
    """
    agent = case.guest.agent
    earlier = agent.toggling().changes
    with contextlib.suppress(DeadlineExceeded):  # counted below
        deadline = Deadline(TOGGLED_S, "a change of the queue pairs", Awaited.GUEST)
        deadline.poll(lambda: agent.toggling().changes > earlier, TOGGLE_MS / 1000)
    changes = agent.toggling().changes - earlier
    meaning = "the guest no longer changes its queue pairs: its control queue is dead"
    case.expect(name, changes > 0, "the guest changes its queue pairs", f"{changes} changes", meaning)
