"""A watch over measured traffic: clocks are checked only when nothing but its updates paused the guest."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from cprlib.deadline import Deadline
from cprlib.errors import UpdateFailed
from cprlib.evidence.case import CaseEvidence
from cprlib.evidence.clock_checks import DeviceClock
from cprlib.evidence.counter_checks import Errors, Notifications
from cprlib.evidence.frame_checks import GUEST_ANNOUNCES_MS, LATE_MS, Watched
from cprlib.evidence.records import Check, FaultRecord, GuestFact, Outcome
from cprlib.qemu.nic_state import ANNOUNCE_FEATURES
from cprlib.testing import watch as module
from cprlib.testing.guest_case import GuestCase
from cprlib.testing.measured_case import MeasuredCase
from cprlib.testing.watch import FrameWatch, GuestSample, TrafficWatch
from cprlib.traffic.other_frames import OtherFrames
from cprlib.update.events import Event, Step, Who
from cprlib.update.faults import faults_named
from cprlib.update.mechanism import Mechanism
from cprlib.update.results import ANNOUNCEMENTS_MS, FaultResult
from cprlib.update.running_guest import RunningGuest
from moment_updater import MomentUpdater
from test_cpr_exec import expect_exec_refused
from tests.unit.evidence.test_update_checks import GOOD, fault_result
from tests.unit.evidence.test_watched_checks import reading
from tests.unit.testing.test_guest_case import guest_case

pytestmark = pytest.mark.fast

NO_CLOCK = DeviceClock(0, 1, None)


def sample(host_ms: float) -> GuestSample:
    return GuestSample(Notifications(0, 0, 0), reading(host_ms, host_ms, 1), NO_CLOCK, NO_CLOCK, None)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> TrafficWatch:
    """One that has seen an update, from 1,000 to 2,000 ms."""
    guest = SimpleNamespace(
        planned=3,
        machine=SimpleNamespace(pid=1),
        topology=SimpleNamespace(station=None),
        agent=SimpleNamespace(network=lambda: None),
    )
    monkeypatch.setattr(module, "time_single_packets", lambda *_: {"a": 1.0})
    monkeypatch.setattr(module, "read_errors", lambda *_: {"guest's eth0 rx_errors": 0})
    monkeypatch.setattr(module, "read_clocks", lambda _: reading(2400, 2400, 1))
    monkeypatch.setattr(module, "POLL_S", 0.001)
    errors: Errors = {"guest's eth0 rx_errors": 0}
    watch = TrafficWatch(cast("RunningGuest", guest), (), (), {"a": 1.0}, errors, sample(0), None, planned=2)
    watch.before.append(sample(1000))
    watch.updates.append(GOOD)
    return watch


def outcomes(watch: TrafficWatch) -> dict[str, Outcome]:
    return {check.name: check.outcome for check in watch.end(sample(2000))}


def test_everything_is_checked_after_an_update(watch: TrafficWatch) -> None:
    names = ("single-packets-arrive", "no-error-counted", "guest-clock-step", "guest-clock-rate")
    assert outcomes(watch) == dict.fromkeys(names, Outcome.PASS)


@pytest.mark.parametrize(
    ("before", "after", "outcome"),
    [(True, True, Outcome.PASS), (True, False, Outcome.FAIL), (False, False, None), (None, None, None)],
    ids=["as before", "an interrupt for each packet", "no event index, or vhost", "not reported"],
)
def test_qemu_leaves_out_interrupts_after_an_update_as_before(
    watch: TrafficWatch, before: bool | None, after: bool | None, outcome: Outcome | None
) -> None:
    watch.before[-1] = replace(sample(1000), leaves_out_interrupts=before)
    checks = {check.name: check.outcome for check in watch.end(replace(sample(2000), leaves_out_interrupts=after))}
    assert checks.get("interrupts-left-out") is outcome


def test_a_pause_by_another_update_says_nothing_about_the_guests_clocks(watch: TrafficWatch) -> None:
    watch.planned -= 1  # one that failed, or that the watch does not have
    assert outcomes(watch).keys() == {"single-packets-arrive", "no-error-counted"}


@pytest.mark.parametrize(("later", "outcome"), [([2100, 2200, 2310], Outcome.PASS), ([2100] * 999, Outcome.SKIP)])
def test_the_rate_is_measured_when_the_readings_are_far_enough_apart(
    watch: TrafficWatch, monkeypatch: pytest.MonkeyPatch, later: list[int], outcome: Outcome
) -> None:
    readings = iter(later)
    monkeypatch.setattr(module, "read_clocks", lambda _: reading(at := next(readings), at, 1))
    assert outcomes(watch)["guest-clock-rate"] is outcome


def test_checks_are_not_lost_when_the_guest_hangs_later(watch: TrafficWatch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "read_errors", lambda *_: 1 / 0)
    checks = watch.end(sample(2000))
    assert next(checks).name == "single-packets-arrive"
    with pytest.raises(ZeroDivisionError):
        next(checks)


@pytest.mark.parametrize("inject", [True, False])
def test_errors_of_failed_updates_are_no_errors_of_before(
    watch: TrafficWatch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, inject: bool
) -> None:
    """They count against the series, whether a fault is injected or exec is refused."""
    errors = {"guest's eth0 rx_errors": 0}

    def fail(*_: object, **_2: object) -> FaultResult:
        errors["guest's eth0 rx_errors"] += 5
        if inject:
            return fault_result("cpr-garbage")
        raise UpdateFailed("live-update the guest", "No such file or directory")

    monkeypatch.setattr(module, "read_errors", lambda *_: dict(errors))
    monkeypatch.setattr(module, "sample_guest", lambda *_: sample(1000))
    monkeypatch.setattr("cprlib.testing.guest_case.inject_fault", fail)
    monkeypatch.setattr(GuestCase, "resumed_state", lambda _: "running")
    watch.before.clear()
    case = guest_case(tmp_path, fail)
    case._watch = watch
    if inject:
        case.inject_fault(*faults_named("cpr-garbage"))
    else:
        expect_exec_refused(cast("MeasuredCase", case), "missing", "No such file or directory", "/nowhere")
    watch.before_update()
    assert outcomes(watch)["no-error-counted"] is Outcome.FAIL


@pytest.mark.parametrize(
    ("state", "transcript", "on_request"),
    [
        ("paused", "", True),
        ("running", "", False),
        ("running", '{"execute": "announce-self"}', True),
        ("running", '{"cut": "too long"}', True),  # what came later is not known
    ],
)
def test_frames_are_judged_by_the_evidence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, state: str, transcript: str, on_request: bool
) -> None:
    """A guest that moves while it is paused is announced when it runs, as one that management announces."""
    (tmp_path / "qmp-source.log").write_text(transcript, encoding="utf-8")
    nics = [SimpleNamespace(mac="a")]
    guest = SimpleNamespace(machine=SimpleNamespace(settings=SimpleNamespace(nics=nics)), updates=[], folder=tmp_path)
    frames = SimpleNamespace(read=lambda: (), read_dropped=lambda: 0)
    seen: list[Watched] = []

    def checks(watched: Watched, *_: object, **_2: object) -> tuple[Check, ...]:
        seen.append(watched)
        return ()

    monkeypatch.setattr(FrameWatch, "wait_guest_announced", lambda _: None)
    monkeypatch.setattr(module, "frame_checks", checks)
    (fault,) = faults_named("no-fault")
    evidence = CaseEvidence(
        "x",
        Mechanism.CPR,
        guest_view=(GuestFact("virtio features", "16 17 21", "16 17 21"),),
        faults=(FaultRecord(fault, state=state),),
    )
    watch = FrameWatch(cast("RunningGuest", guest), cast("OtherFrames", frames))
    assert list(watch.checks(evidence)) == []
    (watched,) = seen
    assert (watched.macs, watched.answered, watched.guest_announces) == (("a",), True, True)
    assert (watched.other_moves, watched.on_request) == (1, on_request)


@pytest.mark.parametrize("scale", ["1", "3"])
def test_a_guest_has_its_whole_time_to_announce_itself(monkeypatch: pytest.MonkeyPatch, scale: str) -> None:
    """A wait that ends earlier leaves the missing announcement inconclusive, and may let the guest's kernel block."""
    monkeypatch.setenv("CPRLIB_TIMEOUT_SCALE", scale)
    resumed = Event(Step.RESUME, time.time_ns() - 4_000_000_000, Who.TARGET)
    guest = SimpleNamespace(
        machine=SimpleNamespace(settings=SimpleNamespace(nics=[SimpleNamespace(mac="a")])),
        updates=[replace(GOOD, events=(resumed,))],
    )
    waits: list[Deadline] = []
    watch = FrameWatch(cast("RunningGuest", guest), cast("OtherFrames", None))
    monkeypatch.setattr(FrameWatch, "wait_announced", lambda *given: waits.append(given[4]))
    watch.wait_guest_announced()
    for agreed in (False, True):  # a guest without the feature does not announce itself
        nic = SimpleNamespace(agreed_on=lambda *features, agreed=agreed: agreed and features == ANNOUNCE_FEATURES)
        agent = SimpleNamespace(network=lambda nic=nic: SimpleNamespace(nic=lambda: nic))
        case = SimpleNamespace(frames=watch, guest=SimpleNamespace(agent=agent))
        MomentUpdater(cast("MeasuredCase", case)).wait_announced()
    left_s = GUEST_ANNOUNCES_MS / 1e3 * float(scale) - 4
    assert [wait.seconds for wait in waits] == pytest.approx([left_s, left_s], abs=0.5)
    watch.wait_qemu_announced()
    left_s = (ANNOUNCEMENTS_MS[-1] + LATE_MS) / 1e3 * float(scale) - 4
    assert waits[-1].seconds == pytest.approx(max(left_s, 0.0), abs=0.5)
