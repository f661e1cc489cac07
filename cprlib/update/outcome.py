"""State of source and target after an update: read their state, and wait for the survivor of an update with a fault."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import NamedTuple

from cprlib.deadline import Deadline
from cprlib.errors import Awaited, CprlibError, DeadlineExceeded, QemuFailed, UpdateFailed
from cprlib.linux.descriptors import read_table
from cprlib.linux.procfs import anonymous_memory, vhost_workers, wait_workers_ended
from cprlib.process import kill_group
from cprlib.qemu.machine import Machine
from cprlib.qemu.state import flatten
from cprlib.update.faults import Fault, Survivor
from cprlib.update.results import ProcessView

FAILED_STATES = ("failed", "cancelled")  # QAPI MigrationStatus
ENDED_STATES = (*FAILED_STATES, "completed")
FINISHING = "finish-migrate"  # QAPI RunState
# Run states of a target that has the guest.
RESTING_STATES = ("running", "paused", "suspended", "prelaunch", "shutdown", "watchdog")
END_S, RESUME_S, EVENT_S, STATE_S = 30.0, 10.0, 8.0, 10.0
LOST_S = 2.0  # for a QEMU to run what is left of a lost guest


def view(machine: Machine) -> ProcessView:
    """Read a QEMU's descriptors, vhost workers and private memory."""
    return ProcessView(read_table(machine.pid), vhost_workers(machine.pid), anonymous_memory(machine.pid))


def view_after_release(machine: Machine, kept: int = 0) -> ProcessView:
    """As :func:`view`, for a QEMU that has released vhost devices: their workers get time to end.

    :param kept: workers of devices that it still owns.
    """
    waited_ms = wait_workers_ended(machine.pid, kept)
    return replace(view(machine), waited_ms=waited_ms)


class Migration(NamedTuple):
    """A migration by query-migrate.

    :param status: QAPI MigrationStatus; ``none`` before the first one.
    :param error: QEMU's message; empty when it gave none.
    """

    status: str
    error: str

    @property
    def failed(self) -> bool:
        return self.status in FAILED_STATES

    @property
    def reason(self) -> str:
        """Why it failed."""
        return self.error or f"status {self.status}"


def query_migration(machine: Machine) -> Migration:
    """The migration of a source or a target."""
    answer = machine.qmp.execute("query-migrate")
    return Migration(str(answer.get("status", "none")), str(answer.get("error-desc", "")))


def has_yank_instance(machine: Machine) -> bool:
    """Whether a migration has its yank instance: from the connection of its main channel to the end of its cleanup.

    migration_cleanup() (migration/migration.c) removes it last, after query-migrate has the status of the end.
    """
    return any(instance["type"] == "migration" for instance in machine.qmp.execute("query-yank"))


def announced_statuses(machine: Machine, since_ns: int) -> list[str]:
    """Statuses of the migration that a QEMU has announced (QMP event MIGRATION), in order.

    :param since_ns: time of arrival of the first one.
    """
    return [
        str(item.data.get("status"))
        for item in machine.qmp.events
        if item.name == "MIGRATION" and item.received_ns >= since_ns
    ]


def wait_migration(machine: Machine, *statuses: str, seconds: float = END_S) -> Migration:
    """Wait until the migration of a source or a target has one of these statuses (QAPI MigrationStatus).

    :raises QemuFailed: it has ended with another one, or QEMU has ended.
    :raises DeadlineExceeded: it has another one.
    """
    wanted = f"the migration of the {machine.name} to be {' or '.join(statuses)}"

    def reached() -> Migration | None:
        found = query_migration(machine)
        if found.status in ENDED_STATES and found.status not in statuses:
            happened = f"it is {found.status}" + (f": {found.error}" if found.error else "")
            raise QemuFailed(f"wait for {wanted}", happened, details=machine.messages)
        return found if found.status in statuses else None

    deadline = Deadline(seconds, wanted, Awaited.QEMU)
    return deadline.poll(reached, 0.02, lambda: f"it is {query_migration(machine).status}")


@dataclass(slots=True)
class FaultOutcome:
    """Waits for the end of an update with a fault, and finds out which QEMU has the guest.

    :param state: run state of the guest before the update.
    :param acted_ns: time of the fault (CLOCK_REALTIME).
    :param reached: the update has reached the fault's phase.
    :param source_state, target_state: as in :class:`FaultResult`.
    :param target_has_guest: the target runs the guest and the source has been ended.
    :param target_ran: it ran the guest and has been ended.
    """

    fault: Fault
    source: Machine
    target: Machine
    state: str
    acted_ns: int
    reached: bool
    source_state: str = "gone"
    target_state: str = "gone"
    target_has_guest: bool = False
    target_ran: bool = False

    def wait_migration(self, refused: str, since_ns: int) -> Migration:
        """Wait until the source reports the end of the migration, or has ended.

        :param refused: QEMU's message when it refused ``migrate``; empty when it did not.
        :param since_ns: start of the update.
        :returns: the migration, with status ``gone`` when the source has ended, ``none`` when it refused to begin one.
        :raises DeadlineExceeded: neither happened.
        :raises UpdateFailed: the migration failed although the target had to get the guest.
        """

        def ended() -> Migration | None:
            if self.source.process.poll() is not None:
                return Migration("gone", refused)
            try:
                found = query_migration(self.source)
            except QemuFailed:
                return None
            if refused and not announced_statuses(self.source, since_ns):
                # query-migrate has the migration before: qmp_migrate()
                return Migration("none", refused)
            return found._replace(error=found.error or refused) if found.status in ENDED_STATES else None

        deadline = Deadline(END_S, f"the end of an update with {self.fault.name}", Awaited.QEMU)
        migration = deadline.poll(ended, 0.02)
        if migration.status == "failed" and self.fault.survivor is Survivor.TARGET:
            tried = f"update the guest with fault {self.fault.name}"
            raise UpdateFailed(tried, migration.reason, details=self.source.messages)
        return migration

    def wait_announced(self, status: str, since_ns: int) -> str:
        """Status in the source's last event MIGRATION; waits until a failure or cancellation has been announced.

        :param status: by query-migrate.
        :param since_ns: start of the update.
        """

        def last() -> str:
            return next(reversed(announced_statuses(self.source, since_ns)), "")

        if status in FAILED_STATES:  # the event follows the change of the state (migrate_set_state())
            with contextlib.suppress(DeadlineExceeded):
                Deadline(EVENT_S, "the event", Awaited.QEMU).poll(lambda: last() == status, 0.01)
        return last()

    def wait_survivor(self, status: str) -> tuple[float | None, int | None]:
        """Wait until the QEMU that has to survive has the guest; the target when the update had no fault.

        :param status: of the migration, by query-migrate.
        :returns: ``back_ms`` and ``target_exit`` of :class:`FaultResult`.
        """
        fault = self.fault
        if fault.survivor is Survivor.TARGET or (status == "completed" and not self.reached):
            self._leave_guest_to_target()
            return None, None
        if fault.survivor is Survivor.EITHER:
            return self._wait_either()
        if fault.survivor is Survivor.NEITHER:
            return self._wait_lost(), self._end_target()
        if not fault.unnoticed:
            return self._wait_back(), self._end_target()
        ended = self._end_target()
        if self.state == "running":
            # its run state follows the migration's status a moment later; until then it refuses ``cont``: "Migration
            # is not finalized yet", qmp_cont(), monitor/qmp-cmds.c
            deadline = Deadline(RESUME_S, "the source's migration to be finalized", Awaited.QEMU)
            deadline.poll(lambda: self.source.status() != FINISHING, 0.02)
            self.source.qmp.execute("cont")
        return self._wait_back(), ended

    def _wait_either(self) -> tuple[float | None, int | None]:
        """Wait until the target has the guest or has ended, then read the source's state.

        When both run the guest it is corrupt, and the target is killed.
        """
        target = self.target

        def settled() -> bool:
            self.target_state = _run_state(target) if target.process.poll() is None else "gone"
            return self.target_state in (self.state, "gone")

        with contextlib.suppress(DeadlineExceeded):
            Deadline(RESUME_S, "source or target to have the guest", Awaited.QEMU).poll(settled, 0.02)
        back_ms = self._wait_back() if self.target_state == "gone" else None
        self.source_state = _run_state(self.source)
        if self.target_state == self.state and self.source_state != self.state:
            self._leave_guest_to_target()
            return None, None
        ended = target.exit_status()
        kill_group(target.process)
        return back_ms, ended

    def _wait_back(self) -> float | None:
        """Wait until the source has its run state of before; returns ``back_ms`` of :class:`FaultResult`."""
        with contextlib.suppress(DeadlineExceeded):
            self.source.wait_status(self.state, seconds=RESUME_S)
        self.source_state = _run_state(self.source)
        return self._back_ms()

    def _back_ms(self) -> float | None:
        events = [item for item in self.source.qmp.events if item.name == "RESUME"]
        after = [item.time_ns for item in events if item.time_ns >= self.acted_ns]
        return (after[0] - self.acted_ns) / 1e6 if after else None

    def _wait_lost(self) -> float | None:
        """Wait until the QEMU that remains runs the lost guest, or ends; returns ``back_ms`` of :class:`FaultResult`.

        A good one may do neither: a target waits for its main channel for good, a source is in postmigrate. So the wait
        is short once the target serves QMP, or the source's migration is finalized.
        """
        left = self.source if self.source.process.poll() is None else self.target
        with contextlib.suppress(QemuFailed, DeadlineExceeded):
            left.wait_ready(RESUME_S)
            if left is self.source:
                left.wait_status("postmigrate", self.state, seconds=RESUME_S)
            deadline = Deadline(LOST_S, f"the {left.name} to run a lost guest", Awaited.QEMU)
            left.qmp.wait_event("RESUME", deadline=deadline, accept=lambda event: event.time_ns >= self.acted_ns)
        if self.source.process.poll() is None:
            self.source_state = _run_state(self.source)
        return self._back_ms()

    def _end_target(self) -> int | None:
        """Read how the target ends, and kill it."""
        target, fault = self.target, self.fault
        if fault.survivor is Survivor.NEITHER and target.process.poll() is None:
            self.target_state = _run_state(target)
        ended = None
        if fault.exits:
            with contextlib.suppress(DeadlineExceeded):
                ended = target.wait_exit(Deadline(RESUME_S, "the target to end by itself", Awaited.QEMU))
        else:
            ended = target.exit_status()
        kill_group(target.process)
        resumed = any(event.name == "RESUME" for event in target.qmp.events)  # it may write no trace
        self.target_ran = resumed or target.trace.run_state("running") is not None
        return ended

    def _leave_guest_to_target(self) -> None:
        target = self.target
        target.wait_ready()
        target.wait_status(*RESTING_STATES, seconds=END_S)
        target.incoming = False
        own = self.source.settings  # without the arguments of the start-up barrier
        target.settings = replace(target.settings, extra=own.extra, prefix=own.prefix)
        if self.source.process.poll() is None:
            with contextlib.suppress(CprlibError):  # its run state follows the migration's status a moment later
                self.source.wait_status("postmigrate", seconds=STATE_S)
            self.source_state = _run_state(self.source)
            with contextlib.suppress(CprlibError):
                self.source.quit()
        self.target_has_guest = True


def migration_settings(machine: Machine) -> dict[str, str]:
    """Mode, parameters and capabilities of a QEMU's next migration (query-migrate-parameters, -capabilities)."""
    parameters, capabilities = machine.qmp.execute_all(
        [("query-migrate-parameters", None), ("query-migrate-capabilities", None)]
    )
    return dict(flatten({"parameters": parameters, "capabilities": capabilities}))


def _run_state(machine: Machine) -> str:
    """The run state; ``none`` when the machine serves no QMP."""
    try:
        machine.wait_ready(1)
        return machine.status()
    except CprlibError:
        return "none"
