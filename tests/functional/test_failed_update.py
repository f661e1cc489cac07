"""Updates that fail: the source keeps running with all its state, and the next update succeeds. Patches 1 to 3."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from cprlib.errors import QmpRefused
from cprlib.evidence.records import Role
from cprlib.qemu.command_line import MigrationChannels
from cprlib.qemu.netdev import TapNetdev
from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.hand_over import failing_migration
from cprlib.testing.live_update_test import LiveUpdateTest
from cprlib.testing.measured_case import MeasuredCase
from cprlib.testing.nic_frames import use_queue_pairs
from cprlib.testing.nic_view import set_link
from cprlib.update.faults import (
    CANCELS,
    CPR_CHANNEL,
    DEATHS,
    LATE_CANCELS,
    LATE_COMMANDS,
    MAIN_CHANNEL,
    MISSING_RESOURCES,
    PAUSES,
    UNFIT_TARGETS,
    UNNOTICED,
    Fault,
    faults_named,
    make_rom,
    with_rom,
)
from cprlib.update.outcome import wait_migration
from failed_update import fail_then_update, failed_updates

IN_SIX_PHASES = (
    *("no-listener", "cpr-closed-with-fds", "target-killed-with-fds", "target-killed-with-devices"),
    *("main-closed-loading", "cancel-before-switchover"),  # a late failure first: nothing of it may be left
)
CONTROL_RUN_S, BETWEEN_S = 6.0, 0.2  # of traffic: the control run, and between two updates
FOUR_VHOST_QUEUES = GuestSpec(netdevs=(TapNetdev(queues=4, vhost=True),), role=Role.CHECKS)


class FailedUpdate(LiveUpdateTest):
    """Each fault is injected into an update of its own, at a phase that a proxy or an event marks, on one guest."""

    def _fail(
        self,
        faults: Iterable[Fault],
        spec: GuestSpec = FOUR_VHOST_QUEUES,
        afterwards: Callable[[MeasuredCase], None] = lambda _case: None,
    ) -> None:
        with self.given_guest(spec) as case:
            fail_then_update(case, faults, afterwards)

    def test_source_keeps_running_when_sending_fails(self) -> None:
        """The cpr channel closed, cut, corrupt or without a listener: the source keeps running with vhost.

        Patches 1 to 3: on failure the PRECOPY_FAILED notifiers run, and then the VM returns to its run state.

        :avocado: tags=patch:stop-early,patch:1,patch:setup-notifier,patch:2,patch:vhost-reset,patch:3
        :avocado: tags=mechanism:cpr,vhost:on,queues:4
        """
        self._fail(CPR_CHANNEL)

    def test_source_keeps_running_when_target_dies(self) -> None:
        """The target is killed in each phase, also as the owner of vhost: the source keeps running with vhost.

        Patches 1 to 3; the source has to reopen a vhost device whose owner died.

        :avocado: tags=patch:stop-early,patch:1,patch:vhost-reset,patch:3,mechanism:cpr,vhost:on,queues:4
        """
        self._fail(DEATHS)

    def test_source_keeps_running_when_cancelled(self) -> None:
        """migrate_cancel in each phase: the source keeps running with vhost.

        QEMU does not report the reason of the update before, which failed.
        Patches 1 to 3, and patch 8: after an early cancel the target creates its netdevs while the source runs.

        :avocado: tags=patch:stop-early,patch:1,patch:vhost-reset,patch:3,patch:cpr-fixes,patch:8
        :avocado: tags=mechanism:cpr,mechanism:local,vhost:on,queues:4
        """
        without_effect, *cancels = CANCELS  # the first one moves the guest to another QEMU, which has not failed yet
        self._fail((without_effect, *faults_named("target-killed-with-devices"), *cancels))

    def test_late_cancel_leaves_one_owner(self) -> None:
        """migrate_cancel or yank when the target has all state: the source or the target runs the guest, not both.

        Patch 10. The device state waits in the channel: the target reads it to its end whatever the source does.

        :avocado: tags=patch:late-cancel,patch:10,patch:stop-early,patch:1,mechanism:cpr,vhost:on,queues:4
        """
        self._fail(LATE_CANCELS)

    def test_source_keeps_running_when_target_does_not_fit(self) -> None:
        """A target with other queues, memory, features, options or ROM refuses: the source keeps running with vhost.

        Reviewers' case: source and target disagree on the number of queues. Operators' cases: the target has fewer
        features than the guest uses (USO and others), an option ROM of another size, or not the source's machine type,
        which is a distribution's own.

        :avocado: tags=patch:stop-early,patch:1,patch:vhost-reset,patch:3,patch:tap-cpr,patch:6
        :avocado: tags=mechanism:cpr,vhost:on,queues:4
        """
        rom = with_rom(make_rom(Path(self.outputdir)))
        self._fail(UNFIT_TARGETS, replace(FOUR_VHOST_QUEUES, arguments=rom))

    def test_source_keeps_running_when_stream_breaks(self) -> None:
        """The main channel cut or corrupt, or a target that cannot load: the source keeps running with vhost.

        Patches 1 to 3. By now the target owns vhost; only a return path notifies the source that loading has failed.
        Then an ordinary migration begins, which a late failure must not have left anything for.

        :avocado: tags=patch:stop-early,patch:1,patch:vhost-reset,patch:3,mechanism:cpr,vhost:on,queues:4
        """
        self._fail(MAIN_CHANNEL, afterwards=begin_ordinary_migration)

    def test_source_can_resume_after_unnoticed_failure(self) -> None:
        """Without a return path the source treats the update as complete; after ``cont`` it runs with vhost.

        Patch 11. Management does this when the target has died (``cont`` in postmigrate). vhost has been released; a
        NIC that does not use it then, because its link is down, has it back for the next update. The guest uses 2 of 4
        queue pairs; vhost starts all of them.
        Patch 8: the target has not changed the tap.

        :avocado: tags=patch:unnoticed-failure,patch:11,patch:vhost-reset,patch:3,patch:cpr-fixes,patch:8
        :avocado: tags=mechanism:cpr,mechanism:local,vhost:on,queues:4
        """
        with self.given_guest(FOUR_VHOST_QUEUES) as case:
            use_queue_pairs(case, 2, "before-update")
            if not fail_then_update(case, UNNOTICED, expect_stays_paused):
                return
            set_link(case.guest, up=False)
            case.inject_fault(*faults_named("unnoticed-death"), name="unnoticed-death-link-down")
            case.compares_states = False  # until now vhost, which is not used, has no owner
            case.live_update(label="link-down")
            set_link(case.guest, up=True)
            case.expect_answers("link-up")

    def test_update_succeeds_despite_pauses_and_late_commands(self) -> None:
        """An update succeeds despite pauses, a second migrate, a source that dies at its end, or a missing resource.

        Patch 1: the source stands still meanwhile and refuses a second migrate, ``cont``, ``device_del`` and
        ``device_add``. A target that management has stopped does not run the guest.

        :avocado: tags=patch:stop-early,patch:1,mechanism:cpr,vhost:on,queues:1
        """
        spec = GuestSpec(vhost=True, root_ports=True, role=Role.CHECKS)  # a NIC that could be unplugged
        self._fail((*PAUSES, *LATE_COMMANDS, *MISSING_RESOURCES), spec)

    def test_source_keeps_running_without_vhost(self) -> None:
        """Without vhost too the source keeps running after a failed update, with the descriptors it had.

        Patch 1, and patch 8: a target must not change the tap of a source that may have to keep running.

        :avocado: tags=patch:stop-early,patch:1,patch:cpr-fixes,patch:8,mechanism:cpr,vhost:off,queues:1
        """
        faults = faults_named(
            *("no-listener", "cpr-closed-before-fds", "target-killed-with-fds", "target-killed-with-devices"),
            *("target-killed-at-main", "target-killed-loading", "cancel-creating-devices", "main-garbage"),
        )
        self._fail(faults, GuestSpec(role=Role.CHECKS))

    def test_paused_guest_stays_paused(self) -> None:
        """A guest that was paused before is paused after failed updates and in the target; then it runs.

        Patch 1: a VM returns to the run state that it had, which need not be running.

        :avocado: tags=patch:stop-early,patch:1,patch:vhost-reset,patch:3
        :avocado: tags=mechanism:cpr,mechanism:local,vhost:on,queues:1
        """
        with (
            self.given_guest(GuestSpec(vhost=True, role=Role.CHECKS)) as case,
            failed_updates(case) as updates,
        ):
            case.guest.machine.qmp.execute("stop")
            faults = ("no-listener", "cancel-fds-received", "target-killed-with-devices", "main-closed-loading")
            updates.inject(faults_named(*faults, "no-fault"))

    def test_failed_updates_lose_nothing(self) -> None:
        """Under traffic, updates that fail in one phase after the other, and the next update, lose no packet.

        Patches 1, 3 and 9: packets wait in the tap until the source, or the target, reads it again.

        :avocado: tags=patch:stop-early,patch:1,patch:vhost-reset,patch:3,patch:no-loss,patch:9
        :avocado: tags=mechanism:cpr,mechanism:local,vhost:on,queues:1
        """
        with self.given_guest(GuestSpec(vhost=True)) as case:
            case.run_control(at_least_s=CONTROL_RUN_S)
            with case.under_traffic():
                for fault in faults_named(*IN_SIX_PHASES):
                    case.inject_fault(fault)
                    case.let_traffic_flow(BETWEEN_S)
                case.live_update()


def begin_ordinary_migration(case: MeasuredCase) -> None:
    """Begin an ordinary migration, which fails while RAM is copied."""
    case.guest.machine.qmp.execute("migrate-set-parameters", {"mode": "normal"})
    with failing_migration(case):
        pass


def expect_stays_paused(case: MeasuredCase) -> None:
    """Pause the guest and migrate it to where nothing listens; it must not have the run state of an earlier update."""
    machine = case.guest.machine
    machine.qmp.execute("stop")
    machine.qmp.execute("migrate-set-parameters", {"mode": "normal"})
    with contextlib.suppress(QmpRefused):  # or the migration fails
        machine.qmp.execute("migrate", {"channels": MigrationChannels.fresh().descriptions()[:1]})
    wait_migration(machine, "failed")
    meaning = "run state of a paused guest whose ordinary migration found no listener"
    case.expect_equal("stays-paused", machine.status(), "paused", meaning)
    machine.qmp.execute("cont")


class LostGuest(LiveUpdateTest):
    """Faults that end the guest: no other QEMU may run what is left of it."""

    def _lose(self, fault: str) -> None:
        with self.given_guest(GuestSpec(vhost=True, role=Role.CHECKS)) as case, failed_updates(case) as updates:
            updates.inject(faults_named(fault))

    def test_target_does_not_run_without_state(self) -> None:
        """The source dies before it has sent the device state: the target must not run the guest.

        :avocado: tags=patch:stop-early,patch:1,mechanism:cpr,mechanism:local,vhost:on,queues:1
        """
        self._lose("source-killed-fds-received")

    def test_source_does_not_run_again_when_target_dies(self) -> None:
        """The target dies after the guest has run in it: the source must not run it again by itself.

        :avocado: tags=patch:stop-early,patch:1,mechanism:cpr,mechanism:local,vhost:on,queues:1
        """
        self._lose("target-killed-after-resume")
