"""Updates of a guest in the middle of an operation, each of which is checked."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from cprlib.errors import QemuFailed, QmpRefused, UpdateFailed
from cprlib.evidence.records import StatePair
from cprlib.linux.descriptors import read_table
from cprlib.qemu.nic_state import ANNOUNCE_FEATURES, has_ring
from cprlib.testing.equivalence import FROZEN_SIDES, read_state
from cprlib.testing.measured_case import MeasuredCase
from cprlib.update.faults import PLAIN, Phase, faults_named
from cprlib.update.live_update import LiveUpdate, UpdateHook
from operated_guest import Updater

FAULT = "cancel-fds-received"


class ActBeforeMigrate(UpdateHook):
    """Act right before ``migrate``, and note in which state the driver is when the guest stops.

    ``had_driver`` is whether the guest's driver had set up the NIC's first ring; None when that is not known.
    """

    def __init__(self, action: Callable[[], None]) -> None:
        self._action = action
        self.had_driver: bool | None = None

    def at_phase(self, phase: Phase, update: LiveUpdate) -> None:  # noqa: ARG002
        """Act when the target is ready and the mode is set."""
        if phase is Phase.MODE_SET:
            self._action()

    def after_stop(self, update: LiveUpdate) -> None:
        """Look at the NIC of the stopped guest."""
        with contextlib.suppress(QmpRefused):
            self.had_driver = has_ring(update.source.qmp)


class MomentUpdater(Updater):
    """Updates a case's guest, running or paused, and checks each update.

    ``had_driver`` has, for each update of a running guest, whether the NIC had a driver then.
    """

    def __init__(self, case: MeasuredCase) -> None:
        self._case = case
        self.had_driver: dict[str, bool | None] = {}

    def live_update(self, label: str, before_migrate: Callable[[], None] = lambda: None) -> None:
        """Update the guest, and check that it is in the target with as many descriptors.

        When QEMU fails the update, that is in the evidence, and the guest still in the source.

        :param label: begins the names of the checks.
        """
        state = self._case.guest.machine.status()
        if state != "running":
            before_migrate()
            self._update_in(label, state)
            return
        hook = ActBeforeMigrate(before_migrate)
        with contextlib.suppress(UpdateFailed, QemuFailed):
            self._case.live_update(label=label, hooks=[hook])
        self.had_driver[label] = hook.had_driver

    def wait_announced(self) -> None:
        """Wait until the guest has announced itself in all rounds; QEMU begins the next one when the guest has done so.

        Source: virtio_net_handle_announce(), hw/net/virtio-net.c. A guest without the feature (guest_announce=off) does
        not announce itself.
        """
        if self._case.guest.agent.network().nic().agreed_on(*ANNOUNCE_FEATURES):
            self._case.frames.wait_guest_announced()

    def fail_update(self, label: str) -> None:
        """Cancel an update of the guest, and check that the source has its run state.

        :param label: begins the name of the check.
        """
        self._case.inject_fault(*faults_named(FAULT), name=label)

    def _update_in(self, label: str, state: str) -> None:
        """Update a guest that is not running.

        :param state: run state of its QEMU, which it keeps.
        """
        case, before = self._case, read_table(self._case.guest.machine.pid).device_counts
        frozen = read_state(case.guest, FROZEN_SIDES)
        result = case.inject_fault(PLAIN, name=label)
        meaning = f"{result.error or 'no error'}: the migration, and the run state of the QEMU that has the guest"
        observed = (result.migration, result.state_after)
        with case.after_fault(label):
            case.expect_equal(f"stays-{state}", observed, ("completed", state), meaning)
            counts = read_table(case.guest.machine.pid).device_counts
            case.expect_same_state(frozen, StatePair.PAUSED, "memory-and-registers-kept", label)
            case.expect_equal("descriptor-counts", counts, before, "tap and vhost descriptors in the target")
