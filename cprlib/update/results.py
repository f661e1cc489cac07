"""Records of an update: its events, the state of both QEMUs, and the results with and without a fault.

Times of the events come from QEMU's trace records, which carry QEMU's own time. QMP events serve where a QEMU has no
trace log; the harness's own steps are stamped as they happen.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from cprlib.linux.counters import LinkCounters
from cprlib.linux.descriptors import DescriptorTable, Pairing
from cprlib.update.events import Event, Step, Who
from cprlib.update.faults import Fault
from cprlib.update.mechanism import Mechanism

if TYPE_CHECKING:  # a report needs the records only
    from cprlib.qemu.machine import Machine

SENDING = ("cpr_transfer_output", "cpr_state_save")  # trace events of a source that sends its CPR state
EVENTS_OF_UPDATE = ("MIGRATION", "MIGRATION_PASS")  # QMP events while no QEMU runs the guest
LONGEST_STOPPING_NS = 500_000_000  # for the devices to stop, where the trace log does not say when that began
ANNOUNCEMENTS_MS = (0, 50, 200, 450, 800)  # with the default parameters (QAPI MigrationParameters)


@dataclass(frozen=True, slots=True)
class ProcessView:
    """One QEMU in /proc at one moment.

    :param anonymous_kib: private memory, without guest RAM, which is a memfd; None when it was not read.
    :param waited_ms: time for the workers of released vhost devices to end.
    """

    table: DescriptorTable
    workers: tuple[int, ...]
    anonymous_kib: int | None = None
    waited_ms: float = 0.0


class RunStateChange(NamedTuple):
    """A change of a QEMU's run state.

    :param time_ns: CLOCK_REALTIME; :param state: QAPI RunState.
    """

    time_ns: int
    who: Who
    state: str

    def __str__(self) -> str:
        return f"{self.who} {self.state}"


class MigrationStatuses(NamedTuple):
    """The statuses of one migration in a QEMU, in order (QAPI MigrationStatus).

    :param had: by its trace log; :param announced: by its events MIGRATION.
    """

    had: tuple[str, ...]
    announced: tuple[str, ...]


class ClockPause(NamedTuple):
    """Bounds of the time for which the clocks of a machine stood still at an update."""

    least_ns: int
    most_ns: int


@dataclass(frozen=True, slots=True)
class UpdateResult:
    """Result of a live update that succeeded.

    :param source_before: the source before the target was started.
    :param source_after, target_after: both QEMUs side by side, the guest running in the target.
    :param pairings: tap and vhost descriptors of both, paired by open file.
    :param downtime_ms: QEMU's own figure (query-migrate on the source), None when it gave none.
    :param earlier_downtime_ms: the same of the source's migration before this one; None when it had none.
    :param source_exit: exit status of the source, negative for a signal; None when it has become the target (cpr-exec).
    :param run_states: each change of a QEMU's run state during the update, in order; None when the target has no trace
        log.
    :param statuses: of the source's migration.
    :param other_events: QEMU and name (``target RESET``) of each event but :data:`EVENTS_OF_UPDATE` while none ran the
        guest.
    :param compared: the pairings are by kcmp(2); else by number, inode and interface in one process.
    :param waited_for_cont: the target had the guest, and waited for ``cont`` to run it.
    :param announcements_ms: when the target announces the guest, in ms after it runs it.
    :param source_retired: counters of the first tap of the source at its end, None when the target uses it too.
    """

    mechanism: Mechanism
    events: tuple[Event, ...]
    source_before: ProcessView
    source_after: ProcessView
    target_after: ProcessView
    pairings: tuple[Pairing, ...]
    downtime_ms: float | None
    source_exit: int | None
    source_messages: str
    target_messages: str
    source_retired: LinkCounters | None
    run_states: tuple[RunStateChange, ...] | None = None
    statuses: MigrationStatuses | None = None
    other_events: tuple[str, ...] = ()
    compared: bool = True
    announcements_ms: tuple[int, ...] = ANNOUNCEMENTS_MS
    waited_for_cont: bool = False
    earlier_downtime_ms: float | None = None

    @property
    def times_ns(self) -> dict[str, int]:
        """Time of the first event of each name."""
        return {event.name: event.time_ns for event in reversed(self.events)}

    @property
    def pause_ns(self) -> int | None:
        """Time from STOP to RESUME; None when one of them is not known."""
        times = self.times_ns
        return times[Step.RESUME] - times[Step.STOP] if {Step.STOP, Step.RESUME} <= times.keys() else None

    @property
    def clock_pause(self) -> ClockPause | None:
        """How long the machine's clocks stood still; None when STOP or RESUME is not known."""
        if self.pause_ns is None:
            return None
        return ClockPause(self.pause_ns, self.times_ns[Step.RESUME] - self.earliest_stop_ns)

    @property
    def earliest_stop_ns(self) -> int:
        """The earliest time at which the guest may have stopped: QEMU stops its clocks, its devices, and sends STOP.

        Source: do_vm_stop(), system/cpus.c.

        :raises KeyError: there is no STOP.
        """
        changes = (item.time_ns for item in self.run_states or () if item.who is Who.SOURCE)
        return next(changes, self.times_ns[Step.STOP] - LONGEST_STOPPING_NS)

    def without_taps(self, interfaces: Collection[str]) -> UpdateResult:
        """The same without the tap descriptors of these interfaces, which the mechanism does not keep."""

        def left(view: ProcessView) -> ProcessView:
            rows = tuple(row for row in view.table.rows if row.interface not in interfaces)
            return replace(view, table=replace(view.table, rows=rows))

        def of_others(pairing: Pairing) -> bool:
            row = pairing.source or pairing.target
            return row is not None and row.interface in interfaces

        return replace(
            self,
            source_before=left(self.source_before),
            source_after=left(self.source_after),
            target_after=left(self.target_after),
            pairings=tuple(item for item in self.pairings if not of_others(item)),
        )


def announcements_of(parameters: Mapping[str, int]) -> tuple[int, ...]:
    """When a QEMU announces a guest that it runs after an update (qemu_announce_self(), net/announce.c).

    :param parameters: the target's, by query-migrate-parameters.
    :returns: times in ms, from the first round on.
    """
    initial, longest, rounds, step = (parameters[f"announce-{name}"] for name in ("initial", "max", "rounds", "step"))
    delays = (min(initial + number * step, longest) for number in range(rounds - 1))
    return tuple(itertools.accumulate(delays, initial=0)) if rounds else ()


@dataclass(frozen=True, slots=True)
class FaultResult:
    """Result of an update with a fault.

    :param not_reached: how the update ended before the fault's phase; empty when it has reached it.
    :param acted_ns: time of the fault (CLOCK_REALTIME).
    :param migration: status by query-migrate at the end; ``gone`` when the source has ended.
    :param error: QEMU's message for the failure.
    :param refused: QEMU's message when it refused management's command; empty when it did not.
    :param announced: status in the source's last event MIGRATION; empty when it sent none.
    :param run_events: the source's events STOP and RESUME, in order.
    :param settings_changed: mode, parameters and capabilities of the source's migration that the failed update changed.
    :param back_ms: from the fault to the source's RESUME; None when it did not resume, or had not been running.
    :param target_exit: exit status of a target that ended by itself; None when it was killed, or lives.
    :param source_state: the source's run state at the end of the update, before ``quit``; ``gone``.
    :param target_state: the target's; ``gone``, or ``none`` while it serves no QMP.
    :param target_ran: a target that has ended, or was killed, had run the guest.
    """

    fault: Fault
    not_reached: str
    acted_ns: int
    migration: str
    error: str
    refused: str
    announced: str
    run_events: tuple[str, ...]
    settings_changed: tuple[str, ...]
    state_before: str
    state_after: str
    back_ms: float | None
    before: ProcessView
    after: ProcessView | None
    target_exit: int | None
    source_state: str
    target_state: str
    target_ran: bool
    source_messages: str
    target_messages: str

    @property
    def reached(self) -> bool:
        return not self.not_reached

    @property
    def completed_without_fault(self) -> bool:
        """Whether the fault's phase was not seen and the update completed: the guest is in the target."""
        return not self.reached and self.migration == "completed"


def events_of(source: Machine, target: Machine, since_ns: int) -> tuple[Event, ...]:
    """The steps that the two QEMUs report.

    :param since_ns: start of the update; earlier records of the same source are ignored.
    """
    log, other = source.trace, target.trace
    recent = [item for item in log.records if item.time_ns >= since_ns]
    waited = itertools.dropwhile(lambda item: item.text != "new state pre-switchover", recent)
    records = {
        (Step.FDS_SENT, Who.SOURCE): next((item for item in recent if item.name in SENDING), None),
        (Step.FDS_LOADING, Who.TARGET): other.first("cpr_state_load"),
        (Step.STATE_LOADING, Who.TARGET): other.first("migrate_set_state", "new state active"),
        (Step.SWITCHOVER, Who.SOURCE): next((item for item in waited if item.text == "new state device"), None),
        (Step.RESUME, Who.TARGET): other.run_state("running"),
        (Step.COMPLETED, Who.SOURCE): next((item for item in recent if item.text == "new state completed"), None),
        (Step.TARGET_COMPLETED, Who.TARGET): other.first("migrate_set_state", "new state completed"),
    }
    found = [Event(name, item.time_ns, who, f"trace {item.name}") for (name, who), item in records.items() if item]
    known = [item.name for item in found]
    for step, machine, name in (
        (Step.STOP, source, "STOP"),
        (Step.RESUME, target, "RESUME"),
        (Step.COMPLETED, source, "MIGRATION"),
    ):
        events = (item for item in machine.qmp.events if item.name == name and item.time_ns >= since_ns)
        event = next((item for item in events if item.data.get("status") in (None, "completed")), None)
        if event and step not in known:
            who = Who.TARGET if machine is target else Who.SOURCE
            found.append(Event(step, event.time_ns, who, f"QMP event {name}"))
    return tuple(found)


def run_states_of(source: Machine, target: Machine, since_ns: int) -> tuple[RunStateChange, ...] | None:
    """Each change of the run state since the start of an update, in order.

    :returns: None when the target's trace log has none.
    """
    theirs = [RunStateChange(time_ns, Who.TARGET, state) for time_ns, state in target.trace.run_states()]
    ours = [RunStateChange(time_ns, Who.SOURCE, state) for time_ns, state in source.trace.run_states()]
    return tuple(sorted(item for item in (*ours, *theirs) if item.time_ns >= since_ns)) if theirs else None


def statuses_of(machine: Machine, since_ns: int) -> MigrationStatuses | None:
    """The statuses of a QEMU's migration since the start of an update; None when its trace log has none."""
    had = tuple(status for time_ns, status in machine.trace.migration_statuses() if time_ns >= since_ns)
    events = (item for item in machine.qmp.events if item.name == "MIGRATION" and item.time_ns >= since_ns)
    return MigrationStatuses(had, tuple(str(item.data["status"]) for item in events)) if had else None


def other_events_of(source: Machine, target: Machine, since_ns: int) -> tuple[str, ...]:
    """QMP events that no update sends: of a source whose guest has stopped, and of a target before it runs the guest.

    A reset that the guest asked for is its own: the main loop may carry it out after the guest has stopped
    (main_loop_should_exit(), system/runstate.c).

    :param since_ns: start of the update.
    """
    stops = (item.time_ns for item in source.qmp.events if item.name == "STOP" and item.time_ns >= since_ns)
    runs = (item.time_ns for item in target.qmp.events if item.name == "RESUME")
    if source.qmp is target.qmp or (stop_ns := next(stops, None)) is None or (run_ns := next(runs, None)) is None:
        return ()
    ours = (item for item in source.qmp.events if item.time_ns > stop_ns)
    found = [(source, item.name) for item in ours if not item.data.get("guest")]
    found += [(target, item.name) for item in target.qmp.events if item.time_ns < run_ns]
    return tuple(f"{machine.name} {name}" for machine, name in found if name not in EVENTS_OF_UPDATE)
