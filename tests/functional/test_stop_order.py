"""The source stops its guest and releases vhost before it sends descriptors: patches 1 and 2 of the series."""

from __future__ import annotations

import time

from cprlib.deadline import Deadline
from cprlib.evidence.records import Role
from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.hand_over import (
    check_order,
    check_source_released,
    check_source_stands_still,
    check_vhost_carries,
    probing,
)
from cprlib.testing.live_update_test import LiveUpdateTest
from cprlib.testing.measured_case import MeasuredCase
from cprlib.traffic.probes import TRAFFIC_ANSWER_S
from cprlib.update.hooks import PauseAtFdsSent
from cprlib.update.live_update import LiveUpdate
from cprlib.update.proxy import ChannelProxy

HELD = 3  # packets per queue pair that arrive while no QEMU may read the tap


class StopOrder(LiveUpdateTest):
    """A proxy on the cpr channel holds the descriptors; source and target are examined meanwhile."""

    def _stop_order(self, case: MeasuredCase) -> None:
        source = case.guest.machine
        with probing(case) as (trace, probes):
            sent = 0

            def at_pause(_update: LiveUpdate, proxy: ChannelProxy) -> None:
                nonlocal sent
                check_source_released(case, proxy, source)
                sent = probes.send(HELD)

            update = case.live_update(hooks=[PauseAtFdsSent(at_pause)], check="update-succeeds")
            missing = probes.count_missing(Deadline(TRAFFIC_ANSWER_S, "the answers to packets that waited in the tap"))
            meaning = f"{sent} packets arrived while neither QEMU ran the guest; taken off the tap and lost"
            case.expect_equal("held-packets-arrive", missing, 0, meaning)
            check_order(case, update, trace.report(), source, case.guest.machine)
            check_source_stands_still(case, update, probes, source)
            if source.settings.netdevs[0].vhost:
                check_vhost_carries(case, "vhost-carries-packets", probes, trace, time.time_ns())

    def test_vhost_is_released_before_fds_are_sent(self) -> None:
        """The guest is stopped and vhost released before the descriptors leave the source; order on one clock.

        Patches 1 (stop the VM earlier) and 2 (PRECOPY_SETUP notifiers run before the CPR state is sent). The source
        must stand still from then on; packets that arrive meanwhile wait in the tap (patch 9).

        :avocado: tags=patch:stop-early,patch:1,patch:setup-notifier,patch:2,patch:vhost-reset,patch:3
        :avocado: tags=mechanism:cpr,vhost:on,queues:4
        """
        with self.given_guest(GuestSpec(queues=4, vhost=True, role=Role.CHECKS, boots=True)) as case:
            self._stop_order(case)

    def test_guest_is_stopped_before_fds_are_sent(self) -> None:
        """Without vhost too, the guest is stopped before the descriptors leave the source.

        Patch 1. Stock QEMU stops the VM when it connects the main channel: both QEMUs use the tap for a while.

        :avocado: tags=patch:stop-early,patch:1,mechanism:cpr,vhost:off,queues:1
        """
        with self.given_guest(GuestSpec(role=Role.CHECKS)) as case:
            self._stop_order(case)
