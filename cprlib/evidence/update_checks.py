"""A live update in the evidence: its events, its descriptors, its faults, and the checks of every update."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

from cprlib.deadline import timeout_scale
from cprlib.evidence.records import Check, DescriptorCount, DescriptorRow, FaultRecord, Outcome
from cprlib.linux.descriptors import Descriptor, Pairing
from cprlib.qemu.netdev import TapNetdev, device_counts
from cprlib.update.events import Step, Who
from cprlib.update.faults import Survivor
from cprlib.update.results import FaultResult, UpdateResult

DOWNGRADE_MESSAGES = (
    "could not be initialized",  # net/tap.c: "vhost-net requested but could not be initialized"
    "falling back",  # hw/net/virtio-net.c: "unable to start vhost net: ...: falling back on userspace virtio"
)
WITHOUT_DELAY_MS = 400.0  # to RESUME: median 18 ms, maximum 185 ms of 504 updates on two busy cores
DELAY_BASE_MS, DELAY_SHARE = 200.0, 1.5  # with a control run: this plus the share of its longest interruption
START_SHARE = 0.5  # of the time that the target takes to start (median 180 ms on the same machine), where it is more
# in which the target creates its devices, 185 to 322 ms; 0.8 to 1.3 of the time that it took to start before
DEVICES_BASE_MS, DEVICES_SHARE = 400.0, 2.0
DOWNTIME_BEGINS_MS = 100.0  # on a busy machine, before the guest stops (migration_stop_vm(), migration/migration.c)
DOWNTIME_SLACK_MS = 20.0  # QEMU takes its own times a moment before the events of stop and end
ACCESS_MODES = {os.O_RDONLY: "O_RDONLY", os.O_WRONLY: "O_WRONLY", os.O_RDWR: "O_RDWR"}
FLAG_NAMES = ("O_NONBLOCK", "O_CLOEXEC", "O_APPEND", "O_DIRECT")
BY_POSITION = "one process: by number, inode and interface"
LINES_KEPT = 3  # of the messages of each QEMU


def flags_text(flags: int) -> str:
    """Open file status flags by name: ``O_RDWR|O_NONBLOCK``."""
    access = ACCESS_MODES.get(flags & os.O_ACCMODE, "no access mode")
    return "|".join([access, *(name for name in FLAG_NAMES if flags & getattr(os, name))])


def descriptor_rows(update: UpdateResult, netdevs: Sequence[TapNetdev]) -> tuple[DescriptorRow, ...]:
    """The tap and vhost descriptors of both QEMUs, paired.

    :param netdevs: that the mechanism moves. Of several, a tap's is known by its interface, and that of vhost is not.

    Those that each QEMU opens itself, although the mechanism keeps others, have no result of kcmp(2); nor have those of
    one process that were not copied before (mode cpr-exec).
    """
    identity = update.mechanism.handling.same_files
    names = {item.interface: item.identifier for item in netdevs}
    only = netdevs[0].identifier if len(netdevs) == 1 else ""

    def row(pairing: Pairing) -> DescriptorRow:
        source, target = pairing.source, pairing.target
        known = source or target
        interface = (known.interface if known else None) or ""
        own = identity and not update.mechanism.handling.is_same_file(pairing.kind)
        return DescriptorRow(
            kind=pairing.kind,
            name=names.get(interface, only),
            source_fd=source.number if source else None,
            target_fd=target.number if target else None,
            same_file=None if (own and not pairing.paired) or not update.compared else pairing.paired,
            iff=interface,
            source_flags=flags_text(source.flags) if source else "",
            target_flags=flags_text(target.flags) if target else "",
            inode=known.inode if known else None,
            note="each QEMU has its own" if own else "" if update.compared else BY_POSITION,
        )

    return tuple(row(pairing) for pairing in update.pairings)


def descriptor_count(update: UpdateResult) -> DescriptorCount:
    """Number of tap and vhost descriptors that are one open file in both QEMUs, and of those that are not.

    Where the mechanism keeps some kinds of descriptors (its identity), only these are counted.
    """
    handling = update.mechanism.handling
    counted = [item.paired for item in update.pairings if handling.is_same_file(item.kind) or not handling.same_files]
    return DescriptorCount(sum(counted), len(counted) - sum(counted))


def _file_flags(row: Descriptor) -> int:
    """Flags of the open file; fdinfo adds O_CLOEXEC, which belongs to the descriptor (fs/proc/fd.c)."""
    return row.flags & ~os.O_CLOEXEC


def hand_over_checks(update: UpdateResult, netdevs: Sequence[TapNetdev]) -> Iterator[Check]:
    """Each descriptor that the mechanism keeps is the same open file in the target; none is extra, none is missing.

    :param netdevs: that the mechanism moves.
    """
    expected = device_counts(netdevs)
    total = sum(number for kind, number in expected.items() if update.mechanism.handling.is_same_file(kind))
    count = descriptor_count(update)
    pairs = [(item.source, item.target) for item in update.pairings if item.source and item.target]
    changed = [(a.number, b.number) for a, b in pairs if _file_flags(a) != _file_flags(b)]
    before = {row.number: _file_flags(row) for row in update.source_before.table.rows}
    altered = [a.number for a, _ in pairs if before.get(a.number) != _file_flags(a)]
    blocking = [b.number for _, b in pairs if not b.nonblocking]
    inheritable = [b.number for _, b in pairs if not b.flags & os.O_CLOEXEC]
    renamed = [(a.interface, b.interface) for a, b in pairs if a.interface != b.interface]
    name, meaning = "descriptors-same-file", "by kcmp(2) the target has another open file than the source"
    if not update.compared:
        name, meaning = "descriptors-kept", "the process has other files behind these numbers than before"
    yield Check.of(
        name,
        count.paired == total and count.unpaired == 0,
        f"{total} paired, 0 unpaired",
        f"{count.paired} paired, {count.unpaired} unpaired",
        meaning,
    )
    source, target = update.source_before.table.device_counts, update.target_after.table.device_counts
    yield Check.of(
        "descriptor-counts",
        target == expected == source,
        expected,
        f"source {source}, target {target}",
        "a descriptor was opened again, leaked or not sent",
    )
    yield Check.of(
        "descriptor-flags",
        not changed and not altered and not blocking,
        "O_NONBLOCK on all, and flags equal on both sides and as before the update",
        f"{len(changed)} differ between the sides, {len(altered)} changed on the source, {len(blocking)} block",
    )
    if not update.mechanism.handling.shares_fds:  # those QEMU inherits
        yield Check.of(
            "descriptors-close-on-exec",
            not inheritable,
            "O_CLOEXEC on each descriptor that the target received",
            f"{len(inheritable)} without it",
            f"the target's descriptors {inheritable} are without O_CLOEXEC: programs that it starts keep them",
        )
    if update.mechanism.handling.sends_descriptors:
        yield _memory_check(update)
    yield Check.of("tap-interface", not renamed, "the same interface (fdinfo iff)", f"{len(renamed)} differ")


def _memory_check(update: UpdateResult) -> Check:
    """The target maps the source's memory: that of the guest, of firmware and of ROMs; each part is a memfd."""
    source, target = (
        {row.inode for row in item.table.guest_memory} for item in (update.source_after, update.target_after)
    )
    return Check.of(
        "memory-same-file",
        source == target,
        f"{len(source)} files of memory, which are the source's (inode of each memfd)",
        f"{len(source & target)} of the source's, {len(target - source)} others",
        "the target has other memory: what guest, firmware or ROMs had written there is gone",
    )


def vhost_checks(update: UpdateResult, netdevs: Sequence[TapNetdev]) -> tuple[Check, ...]:
    """vhost-net carries the packets in the target, with one worker per queue pair; no checks without vhost.

    :param netdevs: that the mechanism moves. A source may have lost vhost before, in an update that failed.
    """
    expected = device_counts(netdevs)["vhost"]
    if not expected:
        return ()
    after = len(update.target_after.workers)
    releases = update.mechanism.handling.releases_vhost  # with others the source releases vhost when it ends
    left = len(update.source_after.workers) if releases else 0
    waited = f", {update.source_after.waited_ms:.0f} ms of waiting for them to end" if releases else ""
    messages = f"{update.source_messages}\n{update.target_messages}".splitlines()
    found = [line.strip() for line in messages if any(text in line for text in DOWNGRADE_MESSAGES)]
    return (
        Check.of(
            "vhost-worker",
            after == expected and left == 0,
            f"{expected} workers in the target, 0 left in the source",
            f"{after} in the target, {left} in the source{waited}",
            "the kernel's vhost worker did not move with the guest",
        ),
        Check.of("no-downgrade", not found, "no message about a fallback to userspace", found[0] if found else "none"),
    )


def order_checks(update: UpdateResult) -> Iterator[Check]:
    """STOP, FDS_SENT and RESUME come in this order, on one clock; inconclusive when an event is missing.

    When the source sends descriptors, also: it sends them while the guest stands still, which resumes only once (a
    further STOP and RESUME would stop and start every device again). Stock QEMU sends its CPR state while the guest
    still runs, which is correct as long as no NIC is handed over. The target reports completion when the guest runs, or
    waits for ``cont``: management may use it from then on (process_incoming_migration_bh(), migration/migration.c).
    """
    first = update.times_ns

    def before(name: str, earlier: Step, later: Step) -> Check:
        expected = f"{earlier} before {later}"
        if earlier not in first or later not in first:
            missing = ", ".join(item for item in (earlier, later) if item not in first)
            return Check(name, Outcome.INCONCLUSIVE, expected, f"no {missing} event")
        distance = (first[later] - first[earlier]) / 1e6
        return Check.of(name, distance >= 0, expected, f"{distance:.2f} ms between them")

    sends = update.mechanism.handling.sends_descriptors
    if sends:
        yield before("stop-before-fds-sent", Step.STOP, Step.FDS_SENT)
    yield before("stop-before-resume", Step.STOP, Step.RESUME)
    if sends and not update.waited_for_cont and Step.TARGET_COMPLETED in first:
        yield before("resume-before-completed", Step.RESUME, Step.TARGET_COMPLETED)
    if sends and update.run_states is not None:
        ran = [item.who for item in update.run_states if item.state == "running"]
        yield Check.of(
            "resumed-once",
            ran == [Who.TARGET],
            "one change to running, the target's",
            ", ".join(map(str, update.run_states)),
            f"the guest was resumed {len(ran)} times, by: {', '.join(ran)}",
        )


def delay_checks(
    update: UpdateResult,
    control_run_ms: float | None = None,
    stalled_ms: Callable[[int, int], float] = lambda *_: 0.0,
    *,
    locks_memory: bool = False,
) -> Iterator[Check]:
    """The parts of the time from STOP to RESUME are short for every guest; no check where an event is missing.

    Before the descriptors are sent, only devices are stopped. Then the target creates its devices, which is looked at
    when a control run shows how busy the machine was, and not where the harness plugs them. It loads only device state
    (qemu_loadvm_state(), migration/savevm.c), since the memory is shared. It gets that after ``migrate-continue`` where
    the source waits for it. Only a source that sends descriptors must stand still for this.

    :param control_run_ms: the longest interruption in a control run, which shows how busy the machine is; without one a
        longer time is inconclusive.
    :param stalled_ms: for how long the sender of the test packets stood still between two times, which shows that the
        machine was busier during the update.
    :param locks_memory: the target first locks all of the guest's memory, however long that takes.
    """
    if not update.mechanism.handling.sends_descriptors:
        return
    first, within_ms, devices = update.times_ns, WITHOUT_DELAY_MS, list[tuple[str, Step, Step, str, float]]()
    if control_run_ms is not None:
        start_ms = (first.get(Step.CPR_LISTENING, 0) - first.get(Step.TARGET_STARTED, 0)) / 1e6
        within_ms = max(DELAY_BASE_MS, START_SHARE * start_ms) + DELAY_SHARE * control_run_ms
        if Step.MAIN_LISTENING not in first and not locks_memory:
            created = "from the arrival of the descriptors until the target loaded the state of its devices"
            devices_ms = max(DEVICES_BASE_MS, DEVICES_SHARE * start_ms) + DELAY_SHARE * control_run_ms
            devices = [("devices-created-without-delay", Step.FDS_LOADING, Step.STATE_LOADING, created, devices_ms)]
    loading = max(Step.STATE_LOADING, Step.SWITCHOVER, key=lambda step: first.get(step, 0))
    sent = "from the guest's stop until its descriptors were sent"
    resumed = "from the start of loading in the target until the guest ran"
    for name, earlier, later, period, most_ms in (
        ("fds-sent-without-delay", Step.STOP, Step.FDS_SENT, sent, within_ms),
        *devices,
        ("resumed-without-delay", loading, Step.RESUME, resumed, within_ms),
    ):
        if earlier in first and later in first:
            distance_ms = (first[later] - first[earlier]) / 1e6
            limit_ms = most_ms * timeout_scale() + stalled_ms(first[earlier], first[later])
            expected, observed = f"within {limit_ms:.0f} ms of {earlier}", f"{distance_ms:.2f} ms"
            if distance_ms > limit_ms and control_run_ms is None:
                reason = f"{observed}; no control run shows how busy the machine was"
                yield Check(name, Outcome.INCONCLUSIVE, expected, reason)
            else:
                yield Check.of(name, distance_ms <= limit_ms, expected, observed, f"{distance_ms:.0f} ms {period}")


def end_checks(update: UpdateResult) -> Iterator[Check]:
    """The source ended by itself, without a signal or an error; no check when it has become the target.

    Before, it announced each status of its migration (migrate_generate_event(), migration/migration.c), neither QEMU
    sent an event of a guest that runs, and the source reported a downtime (query-migrate), which is about as long as
    the guest stood still: not less than half of the time from STOP to RESUME or COMPLETED, nor more than that until
    COMPLETED, before which QEMU takes it (migration_completion_end(), migration/migration.c). It is not that of the
    source's migration before.
    """
    first = update.times_ns
    if update.downtime_ms is None and update.source_exit is not None and Step.COMPLETED in first:
        # a migration that has completed has one (populate_time_info(), migration/migration.c)
        expected, meaning = "a downtime of the completed migration (query-migrate)", "query-migrate has no downtime"
        yield Check.of("downtime-reported", False, expected, "none", meaning)
    if update.downtime_ms is not None and {Step.STOP, Step.RESUME, Step.COMPLETED} <= first.keys():
        stop, reported = first[Step.STOP], update.downtime_ms
        still_ms = (min(first[Step.RESUME], first[Step.COMPLETED]) - stop) / 1e6
        least_ms = max(0, still_ms / 2 - DOWNTIME_SLACK_MS)
        most_ms = (first[Step.COMPLETED] - update.earliest_stop_ns) / 1e6 + DOWNTIME_BEGINS_MS
        is_near = abs(reported - (first[Step.COMPLETED] - stop) / 1e6) <= DOWNTIME_SLACK_MS
        is_earlier = reported == update.earlier_downtime_ms and not is_near
        yield Check.of(
            "downtime-reported",
            least_ms <= reported <= most_ms and not is_earlier,
            f"from {least_ms:.0f} to {most_ms:.0f} ms, by the events",
            f"{reported:.0f} ms{', as for the migration before' if is_earlier else ''}",
            f"query-migrate has a downtime of {reported:.0f} ms, the guest stood still for {still_ms:.0f} ms or more",
        )
    if update.source_exit is not None and update.statuses:
        had, announced = (", ".join(statuses) for statuses in update.statuses)
        yield Check.of("migration-events", announced == had, had, announced, f"events MIGRATION have {announced}")
    if update.source_exit is not None:
        others = ", ".join(update.other_events)
        expected = "while no QEMU runs the guest, no event but MIGRATION and MIGRATION_PASS"
        yield Check.of("no-other-events", not others, expected, others or "none", f"QMP events: {others}")
        yield Check.of("source-ended", update.source_exit == 0, "exit status 0", f"exit status {update.source_exit}")


def fault_record_of(result: FaultResult, traffic_after_ms: float | None = None) -> FaultRecord:
    """A fault with the result of its update.

    :param traffic_after_ms: from the fault until the guest answered again; None when it was not measured.
    """
    return FaultRecord(
        result.fault,
        reached=result.reached,
        state=result.state_after,
        source_state=result.source_state,
        target_state=result.target_state,
        resumed_after_ms=_rounded(result.back_ms),
        traffic_after_ms=_rounded(traffic_after_ms),
        died_ns=result.acted_ns if result.reached and result.fault.survivor is Survivor.NEITHER else None,
        target_exit=result.target_exit,
        migration=result.migration,
        error=result.error,
        refused=result.refused,
        source_messages=tuple(result.source_messages.strip().splitlines()[-LINES_KEPT:]),
        target_messages=tuple(result.target_messages.strip().splitlines()[-LINES_KEPT:]),
    )


def _rounded(duration_ms: float | None) -> float | None:
    return None if duration_ms is None else round(duration_ms, 3)
