"""Times of the steps of a live update, on one clock.

QEMU's trace records come first: they carry QEMU's own time. QMP events serve where a QEMU has no trace log; the
harness's own steps are stamped as they happen.
"""

from __future__ import annotations

from cprlib.qemu.machine import Machine
from cprlib.qemu.trace_log import TraceRecord
from cprlib.update.results import Moment

SOURCE, TARGET, HARNESS = "source", "target", "harness"


def _from_trace(name: str, who: str, record: TraceRecord | None) -> list[Moment]:
    return [Moment(name, record.time_ns, who, f"trace {record.name}")] if record else []


def _from_event(name: str, who: str, machine: Machine, event_name: str, since_ns: int) -> list[Moment]:
    for event in machine.qmp.events:
        if event.name == event_name and event.time_ns >= since_ns:
            return [Moment(name, event.time_ns, who, f"QMP event {event_name}")]
    return []


def moments_of(source: Machine, target: Machine, since_ns: int) -> tuple[Moment, ...]:
    """The steps that the two QEMUs report.

    :param since_ns: start of the update; earlier records of the same source are ignored.
    """
    log, other = source.trace, target.trace
    recent = [item for item in log.records if item.time_ns >= since_ns]
    sent = next((item for item in recent if item.name in ("cpr_transfer_output", "cpr_state_save")), None)
    stop = _from_event("STOP", SOURCE, source, "STOP", since_ns)
    resume = _from_trace("RESUME", TARGET, other.run_state(("running",))) or _from_event(
        "RESUME", TARGET, target, "RESUME", since_ns
    )
    return (
        *stop,
        *_from_trace("FDS_SENT", SOURCE, sent),
        *_from_trace("FDS_LOADING", TARGET, other.first("cpr_state_load")),
        *_from_trace("STATE_LOADING", TARGET, other.first("migrate_set_state", "new state active")),
        *resume,
    )


def run_states_of(source: Machine, target: Machine, since_ns: int) -> tuple[str, ...] | None:
    """Each change of the run state since the start of an update, in order: ``source finish-migrate``.

    :returns: None when the target's trace log has none.
    """
    theirs = [(time_ns, f"{TARGET} {state}") for time_ns, state in target.trace.run_states()]
    ours = [(time_ns, f"{SOURCE} {state}") for time_ns, state in source.trace.run_states() if time_ns >= since_ns]
    return tuple(text for _, text in sorted([*ours, *theirs])) if theirs else None
