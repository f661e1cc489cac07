"""Updates at moments when the NIC is not simply in use: down, without a driver, paused, being unplugged, booting."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from cprlib.errors import NotSupported, QemuFailed, QmpRefused, SkipWord, UpdateFailed
from cprlib.evidence.records import Role
from cprlib.evidence.update_checks import fault_record_of
from cprlib.linux.descriptors import DEVICE_KINDS, read_table
from cprlib.qemu.machine import Machine
from cprlib.qemu.netdev import TapNetdev
from cprlib.qemu.nic_state import has_ring
from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.live_update_test import LiveUpdateTest
from cprlib.testing.measured_case import MeasuredCase
from cprlib.update.fault_injection import inject_fault
from cprlib.update.faults import PLAIN, Phase, faults_named
from cprlib.update.live_update import LiveUpdate, UpdateHook
from host_operations import SINGLE_PACKETS
from moments import MOMENTS, SUSPENDED
from operated_guest import operated_guest
from operations import Battery, Operation

QUEUES = 2
FAULT = "cancel-fds-received"
REBOOTS = ("-action", "reboot=reset")  # the suite's QEMUs have -no-reboot


class ActBeforeMigrate(UpdateHook):
    """Act right before ``migrate``, and note in which state the driver is when the guest stops.

    ``has_driver`` is whether the guest's driver had set up the NIC's first ring; None when that is not known.
    """

    def __init__(self, action: Callable[[], None]) -> None:
        self._action = action
        self.has_driver: bool | None = None

    def at_phase(self, phase: Phase, update: LiveUpdate) -> None:  # noqa: ARG002
        """Act when the target is ready and the mode is set."""
        if phase is Phase.MODE_SET:
            self._action()

    def after_stop(self, update: LiveUpdate) -> None:
        """Look at the NIC of the stopped guest."""
        try:
            self.has_driver = has_ring(update.source.qmp)
        except QmpRefused:
            self.has_driver = None


class UpdatesAtMoments:
    """Updates a case's guest, running or paused.

    ``drivers`` has, for each update of a running guest, whether the NIC had a driver then.
    """

    def __init__(self, case: MeasuredCase) -> None:
        self._case = case
        self.drivers: dict[str, bool | None] = {}

    def update(self, label: str, before_migrate: Callable[[], None]) -> None:
        """Update the guest, and check that it is in the target with the same files.

        :param label: begins the names of the checks.
        """
        state = self._case.guest.machine.status()
        if state != "running":
            before_migrate()
            self._update_in(label, state)
            return
        hook = ActBeforeMigrate(before_migrate)
        with contextlib.suppress(UpdateFailed, QemuFailed):  # it is in the evidence, and the guest still in the source
            self._case.live_update(label=label, hooks=[hook])
        self.drivers[label] = hook.has_driver

    def fail(self, label: str) -> None:
        """Cancel an update of the guest, and check that the source has its run state.

        :param label: begins the name of the check.
        """
        case = self._case
        result = inject_fault(case.guest, replace(*faults_named(FAULT), name=label))
        case.add_fault(fault_record_of(result))
        with case.after_fault(label):
            case.expect_equal("state", result.state_after, result.state_before, "the source's run state")

    def _update_in(self, label: str, state: str) -> None:
        """Update a guest that is not running.

        :param state: run state of its QEMU, which it keeps.
        """
        case, before = self._case, device_files(self._case.guest.machine)
        result = inject_fault(case.guest, replace(PLAIN, name=label))
        case.add_fault(fault_record_of(result))
        meaning = f"{result.error or 'no error'}: the migration, and the run state of the QEMU that has the guest"
        observed = (result.migration, result.state_after)
        with case.after_fault(label):
            case.expect_equal(f"stays-{state}", observed, ("completed", state), meaning)
            files = device_files(case.guest.machine)
            case.expect_equal("files", files, before, "tap and vhost descriptors in the target")


def device_files(machine: Machine) -> dict[str, int]:
    """Numbers of tap and vhost descriptors of a QEMU."""
    table = read_table(machine.pid)
    return {kind: len(table.of_kind(kind)) for kind in DEVICE_KINDS}


class Moments(LiveUpdateTest):
    """Mechanism ``cpr``; machine ``pc``, whose bus takes NICs as it is."""

    def test_update_works_at_any_moment(self) -> None:
        """An update works, and the NIC after it, whatever guest and management are doing with the NIC.

        The guest's interface is down, or has no driver; link or tap are down; the guest is paused and updated twice;
        it has not released a NIC that is unplugged; it is not started; it reboots, and is updated five times until it
        has booted. What fails is repeated without updates, and accuses no update if it fails there. Parameters
        ``queues``, ``vhost``: fixtures/matrix/moments.yaml.

        :avocado: tags=patch:tap-cpr,patch:6,patch:vhost-reset,patch:3,patch:postload,patch:7,patch:no-loss,patch:9
        :avocado: tags=mechanism:cpr,vhost:on,queues:2
        """
        run = self.parameters
        with self._updated_at(MOMENTS, run.queues or QUEUES, vhost=run.vhost is not False) as (case, updates):
            self._expect_no_driver(case, updates)

    def test_suspended_guest_is_updated_without_vhost(self) -> None:
        """A guest that is suspended to RAM is updated without vhost, and receives packets when it is woken.

        For QEMU's devices a suspended guest is stopped, and they get no event when it runs again. Patch 9.

        :avocado: tags=patch:tap-cpr,patch:6,patch:no-loss,patch:9,mechanism:cpr,vhost:off,queues:1
        """
        with self._updated_at((SUSPENDED,), 1, vhost=False):
            pass

    @contextlib.contextmanager
    def _updated_at(
        self, moments: Sequence[Operation], queues: int, *, vhost: bool
    ) -> Iterator[tuple[MeasuredCase, UpdatesAtMoments]]:
        """Update a guest, then at each of the moments, and once more; the body can add checks."""
        netdev = TapNetdev(queues=queues, vhost=vhost)
        spec = GuestSpec(netdevs=(netdev,), pluggable=True, suspends=True, arguments=REBOOTS, role=Role.CHECKS)
        with self.given_guest(spec) as case, operated_guest(case.guest, case.ports, queues) as subject:
            if not any(moment.applies(subject) for moment in moments):
                happened = "the guest has no suspend to RAM, or its kernel is no bzImage"
                raise NotSupported("suspend the guest", happened, "use another machine type", word=SkipWord.NO_SUSPEND)
            updates, battery = UpdatesAtMoments(case), Battery(case, subject)
            subject.updates, subject.fails = updates.update, updates.fail
            try:
                subject.update("first")  # the target has other descriptors than a QEMU that booted
                if battery.run("at-update", moments):
                    subject.update("last")
                    battery.run("after-last-update", (SINGLE_PACKETS,))
            finally:
                battery.conclude()
            yield case, updates
            case.expect_no_nic_error()

    @staticmethod
    def _expect_no_driver(case: MeasuredCase, updates: UpdatesAtMoments) -> None:
        """Say whether the NIC had no driver when the guest was updated without one, and when it began to boot."""
        states = {None: "unknown", True: "driver", False: "no driver"}
        for label in ("driver-unbound", "rebooting-1"):
            state = states[updates.drivers.get(label)]
            name, expected = f"{label}-without-driver", "the NIC has no driver when the guest stops"
            if state == "no driver":
                case.expect(name, True, expected, state)
            else:
                case.inconclusive(name, expected, f"{state}: the update did not come at this moment")
        seen = [state for label, state in updates.drivers.items() if label.startswith("rebooting")]
        case.note("driver in the updates of one boot", ", ".join(states[item] for item in seen))
