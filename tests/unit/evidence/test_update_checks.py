"""What an update showed becomes checks: each of them can fail, and what is not known is inconclusive."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace

import pytest

from cprlib.evidence.records import Check, Outcome
from cprlib.evidence.update_checks import (
    delay_checks,
    descriptor_count,
    descriptor_rows,
    end_checks,
    fault_record_of,
    flags_text,
    hand_over_checks,
    order_checks,
    vhost_checks,
)
from cprlib.linux.descriptors import Descriptor, DescriptorTable, Pairing
from cprlib.qemu.netdev import TapNetdev
from cprlib.update.events import Event, Step, Who
from cprlib.update.faults import faults_named
from cprlib.update.mechanism import Mechanism
from cprlib.update.results import FaultResult, MigrationStatuses, ProcessView, RunStateChange, UpdateResult

pytestmark = pytest.mark.fast

NETDEVS = (TapNetdev(queues=1, vhost=True, cpr=True),)


def row(number: int, link: str, flags: int = os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC) -> Descriptor:
    return Descriptor(number, link, 5, 7, flags, "tap0" if link == "/dev/net/tun" else None)


def view(pid: int, rows: tuple[Descriptor, ...], workers: int) -> ProcessView:
    return ProcessView(DescriptorTable(pid, rows), tuple(100 * pid + index for index in range(workers)))


SOURCE = (row(9, "/dev/net/tun"), row(10, "/dev/vhost-net"))
TARGET = (row(19, "/dev/net/tun"), row(20, "/dev/vhost-net"))
RUN_STATES = (
    RunStateChange(1_000_000, Who.SOURCE, "finish-migrate"),
    RunStateChange(9_000_000, Who.TARGET, "running"),
    RunStateChange(9_500_000, Who.SOURCE, "postmigrate"),
)
GOOD = UpdateResult(
    mechanism=Mechanism.CPR,
    events=(
        Event(Step.STOP, 1_000_000, Who.SOURCE),
        Event(Step.FDS_SENT, 2_000_000, Who.SOURCE),
        Event(Step.RESUME, 9_000_000, Who.TARGET),
        Event(Step.STATE_LOADING, 7_000_000, Who.TARGET),
    ),
    source_before=view(1, SOURCE, 1),
    source_after=view(1, SOURCE, 0),
    target_after=view(2, TARGET, 1),
    pairings=tuple(Pairing(a, b) for a, b in zip(SOURCE, TARGET, strict=True)),
    downtime_ms=5.0,
    source_exit=0,
    source_messages="",
    target_messages="",
    source_retired=None,
    run_states=RUN_STATES,
)


def outcomes(checks: Iterable[Check]) -> dict[str, Outcome]:
    return {check.name: check.outcome for check in checks}


def test_files_of_one_process_are_paired_without_kcmp() -> None:
    executed = replace(GOOD, compared=False)
    rows = descriptor_rows(executed, NETDEVS)
    assert [item.same_file for item in rows] == [None, None]
    assert {item.note for item in rows} == {"one process: by number, inode and interface"}
    checks = {item.name: item for item in hand_over_checks(executed, NETDEVS)}
    assert checks["descriptors-kept"].outcome is Outcome.PASS
    assert "descriptors-same-file" not in checks


def test_good_update_passes_everything() -> None:
    descriptors = (*hand_over_checks(GOOD, NETDEVS), *vhost_checks(GOOD, NETDEVS))
    checks = (*descriptors, *order_checks(GOOD), *delay_checks(GOOD), *end_checks(GOOD))
    assert set(outcomes(checks).values()) == {Outcome.PASS}
    assert (descriptor_count(GOOD).paired, descriptor_count(GOOD).unpaired) == (2, 0)
    assert [item.iff for item in descriptor_rows(GOOD, NETDEVS)] == ["tap0", ""]


def test_reopened_tap_is_not_the_same_file() -> None:
    bad = replace(GOOD, pairings=(Pairing(SOURCE[0], None), Pairing(None, TARGET[0]), GOOD.pairings[1]))
    assert outcomes(hand_over_checks(bad, NETDEVS))["descriptors-same-file"] is Outcome.FAIL


def test_vhost_of_its_own_is_right_where_the_mechanism_keeps_the_tap_only() -> None:
    own = (GOOD.pairings[0], Pairing(SOURCE[1], None), Pairing(None, TARGET[1]))
    local = replace(GOOD, pairings=own, mechanism=Mechanism.LOCAL, source_after=view(1, SOURCE, 1))
    checks = (*hand_over_checks(local, NETDEVS), *vhost_checks(local, NETDEVS))
    assert set(outcomes(checks).values()) == {Outcome.PASS}
    assert (descriptor_count(local).paired, descriptor_count(local).unpaired) == (1, 0)
    assert [item.same_file for item in descriptor_rows(local, NETDEVS)] == [True, None, None]
    other_tap = replace(local, pairings=(Pairing(SOURCE[0], None), Pairing(None, TARGET[0]), *own[1:]))
    assert outcomes(hand_over_checks(other_tap, NETDEVS))["descriptors-same-file"] is Outcome.FAIL
    reopened = replace(GOOD, pairings=own)  # with cpr=on vhost is handed over
    assert outcomes(hand_over_checks(reopened, NETDEVS))["descriptors-same-file"] is Outcome.FAIL


def test_extra_descriptor_in_the_target_is_seen() -> None:
    bad = replace(GOOD, target_after=view(2, (*TARGET, row(21, "/dev/net/tun")), 1))
    assert outcomes(hand_over_checks(bad, NETDEVS))["descriptor-counts"] is Outcome.FAIL


def test_descriptor_turned_blocking_is_seen_although_both_sides_agree() -> None:
    blocking = tuple(replace(item, flags=os.O_RDWR) for item in SOURCE)
    bad = replace(
        GOOD,
        pairings=tuple(Pairing(a, replace(b, flags=os.O_RDWR)) for a, b in zip(blocking, TARGET, strict=True)),
    )
    assert outcomes(hand_over_checks(bad, NETDEVS))["descriptor-flags"] is Outcome.FAIL


def test_descriptors_of_all_netdevs_are_expected_and_named_by_interface() -> None:
    second = replace(row(11, "/dev/net/tun"), interface="tap1"), replace(row(21, "/dev/net/tun"), interface="tap1")
    two = replace(
        GOOD,
        source_before=view(1, (*SOURCE, second[0]), 1),
        target_after=view(2, (*TARGET, second[1]), 1),
        pairings=(*GOOD.pairings, Pairing(*second)),
    )
    netdevs = (*NETDEVS, TapNetdev("net1", "tap1", cpr=True))
    assert set(outcomes(hand_over_checks(two, netdevs)).values()) == {Outcome.PASS}
    assert set(outcomes(vhost_checks(two, netdevs)).values()) == {Outcome.PASS}
    assert [item.name for item in descriptor_rows(two, netdevs)] == ["net0", "", "net1"]
    assert outcomes(hand_over_checks(GOOD, netdevs))["descriptor-counts"] is Outcome.FAIL


def test_descriptors_that_block_from_the_start_are_seen() -> None:
    blocking = [tuple(replace(item, flags=os.O_RDWR | os.O_CLOEXEC) for item in rows) for rows in (SOURCE, TARGET)]
    bad = replace(
        GOOD,
        source_before=view(1, blocking[0], 1),
        pairings=tuple(Pairing(a, b) for a, b in zip(*blocking, strict=True)),
    )
    assert outcomes(hand_over_checks(bad, NETDEVS))["descriptor-flags"] is Outcome.FAIL


def test_a_target_has_its_workers_also_where_the_source_had_lost_vhost() -> None:
    lost = replace(GOOD, source_before=view(1, SOURCE, 0))
    assert outcomes(vhost_checks(lost, NETDEVS))["vhost-worker"] is Outcome.PASS
    assert (
        outcomes(vhost_checks(replace(lost, target_after=view(2, TARGET, 0)), NETDEVS))["vhost-worker"] is Outcome.FAIL
    )


def test_received_descriptor_that_programs_would_inherit_is_seen() -> None:
    kept = tuple(Pairing(a, replace(b, flags=os.O_RDWR | os.O_NONBLOCK)) for a, b in zip(SOURCE, TARGET, strict=True))
    found = outcomes(hand_over_checks(replace(GOOD, pairings=kept), NETDEVS))
    assert found["descriptors-close-on-exec"] is Outcome.FAIL
    assert found["descriptor-flags"] is Outcome.PASS  # the flag is each descriptor's own
    shared = replace(GOOD, pairings=kept, mechanism=Mechanism.FD_SHARE)
    assert "descriptors-close-on-exec" not in outcomes(hand_over_checks(shared, NETDEVS))


def test_silent_downgrade_is_seen_by_the_worker_and_by_the_words() -> None:
    no_worker = replace(GOOD, target_after=view(2, TARGET, 0))
    assert outcomes(vhost_checks(no_worker, NETDEVS))["vhost-worker"] is Outcome.FAIL
    words = replace(GOOD, target_messages="qemu: unable to start vhost net: 16: falling back on userspace virtio")
    assert outcomes(vhost_checks(words, NETDEVS))["no-downgrade"] is Outcome.FAIL


def test_worker_left_in_the_source_is_seen() -> None:
    bad = replace(GOOD, source_after=view(1, SOURCE, 1))
    assert outcomes(vhost_checks(bad, NETDEVS))["vhost-worker"] is Outcome.FAIL


def test_no_vhost_no_vhost_checks() -> None:
    assert vhost_checks(GOOD, [TapNetdev(cpr=True)]) == ()


def test_descriptors_sent_before_the_stop_are_seen() -> None:
    bad = replace(GOOD, events=(Event(Step.FDS_SENT, 1, Who.SOURCE), *GOOD.events[::2]))
    assert outcomes(order_checks(bad))["stop-before-fds-sent"] is Outcome.FAIL


def test_order_of_descriptors_is_none_of_link_switchs_business() -> None:
    stock = replace(
        GOOD, mechanism=Mechanism.LINK_SWITCH, events=(Event(Step.FDS_SENT, 1, Who.SOURCE), *GOOD.events[::2])
    )
    assert outcomes(order_checks(stock)) == {"stop-before-resume": Outcome.PASS}


def test_delay_before_the_descriptors_is_seen() -> None:
    late = replace(GOOD, events=(GOOD.events[0], Event(Step.FDS_SENT, 501_000_000, Who.SOURCE), GOOD.events[2]))
    assert outcomes(tuple(delay_checks(late)))["fds-sent-without-delay"] is Outcome.INCONCLUSIVE  # no control run
    assert outcomes(tuple(delay_checks(late, 100.0)))["fds-sent-without-delay"] is Outcome.FAIL
    assert outcomes(tuple(delay_checks(late, 210.0)))["fds-sent-without-delay"] is Outcome.PASS  # a busy machine


def test_delay_while_the_sender_stood_still_is_the_machines() -> None:
    late = replace(GOOD, events=(GOOD.events[0], Event(Step.FDS_SENT, 501_000_000, Who.SOURCE), GOOD.events[2]))
    for stalled, outcome in ((99.0, Outcome.FAIL), (200.0, Outcome.PASS)):
        found = outcomes(tuple(delay_checks(late, 100.0, lambda *_, stalled=stalled: stalled)))
        assert found["fds-sent-without-delay"] is outcome


def test_target_that_waits_before_it_runs_the_guest_is_seen() -> None:
    late = replace(GOOD, events=(*GOOD.events[:2], Event(Step.RESUME, 507_000_001, Who.TARGET), GOOD.events[3]))
    found = {check.name: check for check in delay_checks(late, 133.0)}
    assert found["resumed-without-delay"].outcome is Outcome.FAIL
    assert found["resumed-without-delay"].expected == "within 400 ms of STATE_LOADING"
    assert found["fds-sent-without-delay"].outcome is Outcome.PASS


@pytest.mark.parametrize(
    ("control_run_ms", "loading_ms", "plugged", "locks_memory", "expected"),
    [
        (100.0, 560, False, False, Outcome.FAIL),
        (100.0, 540, False, False, Outcome.PASS),
        (200.0, 560, False, False, Outcome.PASS),
        (None, 560, False, False, None),
        (100.0, 560, True, False, None),
        (100.0, 560, False, True, None),
    ],
)
def test_delay_while_the_target_creates_its_devices_is_seen(
    control_run_ms: float | None, loading_ms: int, plugged: bool, locks_memory: bool, expected: Outcome | None
) -> None:
    events = [*GOOD.events[:2], Event(Step.FDS_LOADING, 5_000_000, Who.TARGET)]
    events += [Event(Step.STATE_LOADING, (5 + loading_ms) * 1_000_000, Who.TARGET)]
    events += [Event(Step.MAIN_LISTENING, 6_000_000, Who.HARNESS)] * plugged
    update = replace(GOOD, events=tuple(events))
    found = outcomes(delay_checks(update, control_run_ms, locks_memory=locks_memory))
    assert found.get("devices-created-without-delay") is expected


def test_time_that_the_migration_waits_for_management_is_no_delay_of_the_target() -> None:
    """The target loads device state only when the source sends it; without a pause it is the source's time to send."""
    late = replace(GOOD, events=(*GOOD.events[:2], Event(Step.RESUME, 607_000_000, Who.TARGET), GOOD.events[3]))
    for switchover_ms, outcome in ((300, Outcome.PASS), (100, Outcome.FAIL), (1, Outcome.FAIL)):
        continued = Event(Step.SWITCHOVER, switchover_ms * 1_000_000, Who.SOURCE)
        found = outcomes(delay_checks(replace(late, events=(*late.events, continued)), 133.0))
        assert found["resumed-without-delay"] is outcome


def test_a_machine_on_which_the_target_starts_slowly_has_more_time() -> None:
    late = replace(GOOD, events=(*GOOD.events[:2], Event(Step.RESUME, 507_000_001, Who.TARGET), GOOD.events[3]))
    started = Event(Step.TARGET_STARTED, 0, Who.HARNESS)
    for start_ms, outcome in ((189, Outcome.FAIL), (400, Outcome.FAIL), (700, Outcome.PASS)):
        listening = Event(Step.CPR_LISTENING, start_ms * 1_000_000, Who.HARNESS)
        found = outcomes(delay_checks(replace(late, events=(*late.events, started, listening)), 133.0))
        assert found["resumed-without-delay"] is outcome


def test_guest_that_is_resumed_again_is_seen() -> None:
    for who in (Who.SOURCE, Who.TARGET):
        states = (*RUN_STATES, RunStateChange(9_600_000, who, "running"))
        assert outcomes(order_checks(replace(GOOD, run_states=states)))["resumed-once"] is Outcome.FAIL
    assert "resumed-once" not in outcomes(order_checks(replace(GOOD, run_states=None)))


def test_missing_event_is_inconclusive() -> None:
    silent = replace(GOOD, events=GOOD.events[:1], run_states=None)
    assert set(outcomes(order_checks(silent)).values()) == {Outcome.INCONCLUSIVE}


def test_source_that_crashed_at_its_end_is_seen() -> None:
    assert outcomes(end_checks(replace(GOOD, source_exit=-6)))["source-ended"] is Outcome.FAIL
    assert not [*end_checks(replace(GOOD, source_exit=None))]


@pytest.mark.parametrize(
    ("downtime_ms", "outcome"),
    [
        (400, Outcome.PASS),
        (350, Outcome.PASS),
        (20, Outcome.FAIL),
        (7967, Outcome.FAIL),
        (-1, Outcome.FAIL),
        (None, Outcome.FAIL),
    ],
)
def test_the_reported_downtime_is_that_of_the_events(downtime_ms: float | None, outcome: Outcome) -> None:
    times_ms = {Step.STOP: 0, Step.RESUME: 390, Step.COMPLETED: 400, Step.SOURCE_QUIT: 600}
    events = tuple(Event(name, ms * 1_000_000, Who.SOURCE) for name, ms in times_ms.items())
    update = replace(GOOD, events=events, downtime_ms=downtime_ms)
    assert outcomes(end_checks(update))["downtime-reported"] is outcome
    if downtime_ms is None:  # the source is the target now
        assert not [*end_checks(replace(update, source_exit=None))]


def test_a_downtime_of_an_earlier_migration_is_seen() -> None:
    times_ms = {Step.STOP: 0, Step.RESUME: 130, Step.COMPLETED: 134, Step.SOURCE_QUIT: 200}
    events = tuple(Event(name, ms * 1_000_000, Who.SOURCE) for name, ms in times_ms.items())
    for reported_ms, earlier_ms, outcome in ((80, 80, Outcome.FAIL), (80, 81, Outcome.PASS), (130, 130, Outcome.PASS)):
        update = replace(GOOD, events=events, downtime_ms=reported_ms, earlier_downtime_ms=earlier_ms)
        assert outcomes(end_checks(update))["downtime-reported"] is outcome


def test_the_guest_stands_still_from_the_moment_its_clocks_stop() -> None:
    """The devices stop before STOP; without a trace log nothing says how long that took."""
    events = (
        *GOOD.events,
        Event(Step.COMPLETED, 9_500_000, Who.SOURCE),
        Event(Step.SOURCE_QUIT, 9_900_000, Who.SOURCE),
    )
    stop = GOOD.times_ns[Step.STOP]
    for before_ms, outcome in ((400, Outcome.PASS), (1, Outcome.FAIL)):
        states = (RunStateChange(stop - before_ms * 1_000_000, Who.SOURCE, "finish-migrate"), *RUN_STATES[1:])
        update = replace(GOOD, events=events, run_states=states, downtime_ms=450.0)
        assert outcomes(end_checks(update))["downtime-reported"] is outcome
        assert update.clock_pause is not None
        assert update.clock_pause.most_ns - update.clock_pause.least_ns == before_ms * 1_000_000
    unknown = replace(GOOD, events=events, run_states=None, downtime_ms=450.0)
    assert outcomes(end_checks(unknown))["downtime-reported"] is Outcome.PASS


@pytest.mark.parametrize(("completed_ns", "outcome"), [(9_500_000, Outcome.PASS), (8_500_000, Outcome.FAIL)])
def test_the_target_completes_when_the_guest_runs(completed_ns: int, outcome: Outcome) -> None:
    completed = Event(Step.TARGET_COMPLETED, completed_ns, Who.TARGET)
    checks = outcomes(order_checks(replace(GOOD, events=(*GOOD.events, completed))))
    assert checks["resume-before-completed"] is outcome


def test_flags_by_name() -> None:
    assert flags_text(os.O_RDWR | os.O_NONBLOCK) == "O_RDWR|O_NONBLOCK"
    assert flags_text(os.O_RDONLY) == "O_RDONLY"


ACTED_NS = 1_764_028_401_515_000_000


def fault_result(name: str) -> FaultResult:
    (fault,) = faults_named(name)
    return FaultResult(
        fault=fault,
        not_reached="",
        acted_ns=ACTED_NS,
        migration="failed",
        error="Unable to read from socket",
        refused="",
        announced="failed",
        run_events=(),
        settings_changed=(),
        state_before="running",
        state_after="running",
        back_ms=28.752844,
        before=ProcessView(DescriptorTable(1, ()), ()),
        after=None,
        target_exit=1,
        source_state="running",
        target_state="gone",
        target_ran=False,
        source_messages="one\ntwo\nthree\nfour\n",
        target_messages="",
    )


@pytest.mark.parametrize(("name", "died_ns"), [("source-killed-fds-received", ACTED_NS), ("cpr-garbage", None)])
def test_time_of_death_is_known_where_neither_survives(name: str, died_ns: int | None) -> None:
    assert fault_record_of(fault_result(name)).died_ns == died_ns


def test_result_becomes_a_record() -> None:
    seen = fault_record_of(fault_result("cpr-garbage"), 305.783808)
    assert (seen.resumed_after_ms, seen.traffic_after_ms, seen.error) == (28.753, 305.784, "Unable to read from socket")
    assert seen.source_messages == ("two", "three", "four")


@pytest.mark.parametrize(
    ("announced", "outcome"), [(("setup", "active", "completed"), Outcome.PASS), (("setup", "completed"), Outcome.FAIL)]
)
def test_each_status_of_the_migration_is_announced(announced: tuple[str, ...], outcome: Outcome) -> None:
    update = replace(GOOD, statuses=MigrationStatuses(("setup", "active", "completed"), announced))
    assert outcomes(end_checks(update))["migration-events"] is outcome
    assert "migration-events" not in outcomes(end_checks(replace(update, source_exit=None)))


@pytest.mark.parametrize(("others", "outcome"), [((), Outcome.PASS), (("target RESET",), Outcome.FAIL)])
def test_no_event_of_a_guest_that_runs_comes_while_it_stands_still(others: tuple[str, ...], outcome: Outcome) -> None:
    assert outcomes(end_checks(replace(GOOD, other_events=others)))["no-other-events"] is outcome


def test_memory_of_the_target_is_the_source_s() -> None:
    firmware = row(30, "/memfd:pc.bios")
    other = replace(firmware, inode=8)
    same = replace(GOOD, source_after=view(1, (*SOURCE, firmware), 0), target_after=view(2, (*TARGET, firmware), 1))
    fresh = replace(same, target_after=view(2, (*TARGET, other), 1))
    surface = row(31, "/memfd:displaysurface (deleted)")  # QEMU's own, for its display
    drawn = replace(GOOD, source_after=view(1, (*SOURCE, surface), 0), target_after=view(2, TARGET, 1))
    checks = [outcomes(hand_over_checks(update, NETDEVS))["memory-same-file"] for update in (same, fresh, drawn)]
    assert checks == [Outcome.PASS, Outcome.FAIL, Outcome.PASS]
    assert "memory-same-file" not in outcomes(hand_over_checks(replace(same, mechanism=Mechanism.LOCAL), NETDEVS))
