"""The figures of measured traffic are in the evidence, also when the guest dies or hangs during or after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cprlib.errors import Awaited, DeadlineExceeded, GuestFailed, InstrumentError, UpdateFailed, UsageError
from cprlib.evidence.case import CaseEvidence, Packets
from cprlib.evidence.records import Check, InstrumentHealth, Outcome, Role
from cprlib.guest.agent import AgentConnection
from cprlib.guest.packet_log import PacketLog
from cprlib.testing import measured_case as module
from cprlib.testing.measured_case import MeasuredCase, reflector_log
from cprlib.testing.parameters import SuiteParameters
from cprlib.traffic.flow import StreamSettings
from cprlib.traffic.kernel_drops import DropReport
from cprlib.traffic.packet_records import Reflection
from cprlib.traffic.result import TrafficResult
from cprlib.traffic.session import TrafficSession
from cprlib.update.mechanism import Mechanism
from cprlib.update.results import UpdateResult
from cprlib.update.running_guest import RunningGuest
from tests.unit.qemu.samples import machine_settings
from tests.unit.traffic.test_result import PERIOD, result_of, simulate

pytestmark = pytest.mark.fast

WORLD = simulate([([PERIOD], [PERIOD], [])] * 19 + [([], [], [])])


def raising(error: Exception) -> Callable[..., object]:
    def fail(*_: object) -> object:
        raise error

    return fail


HANGS = DeadlineExceeded("wait for the agent", "nothing after 10 s", awaited=Awaited.GUEST)


class FakeSession(nullcontext[None]):
    """A session whose last packet of 20 is lost."""

    sent, frames = WORLD.sent, ()

    def progress(self) -> SimpleNamespace:
        return SimpleNamespace(answers=19, finished=False)

    def wait_for_answers(self, *_: object) -> None:
        pass

    def finish(self) -> None:
        pass

    def result(self, log: list[Reflection] | None, **_: object) -> TrafficResult:
        return result_of(WORLD, log)


@pytest.fixture
def watch() -> SimpleNamespace:
    return SimpleNamespace(updates=[], sample_end=lambda: None, end=lambda _: iter([Check("a", Outcome.PASS)]))


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watch: SimpleNamespace) -> MeasuredCase:
    """A case whose guest is not asked for anything."""
    case = MeasuredCase(SuiteParameters(), tmp_path, CaseEvidence("x", Mechanism.CPR, Role.UPDATE, updates=1))
    guest = SimpleNamespace(
        machine=SimpleNamespace(),
        machines=(),
        updates=[],
        latest_update=None,
        agent=None,
        topology=SimpleNamespace(station=None),
    )
    case._guest = cast("RunningGuest", guest)
    nic = SimpleNamespace(channels=1, queue_packets={})
    trace = SimpleNamespace(report=lambda: DropReport("not used"))
    for name, value in {
        "TrafficWatch": SimpleNamespace(begin=lambda *_, **_2: watch),
        "TrafficSession": lambda *_: FakeSession(),
        "warm_up": lambda *_: None,
        "DropTrace": lambda: nullcontext(trace),
        "view_guest": lambda _: SimpleNamespace(nic=nic),
        "guest_view": lambda *_: (),
        "read_hop_counters": lambda _: {},
        "wait_filters_settled": lambda _: None,
        "reflector_log": lambda _: (WORLD.log, 0),
    }.items():
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(MeasuredCase, "_warm_flows", lambda _: ())
    case.compares_states = False
    return case


def expect_figures(case: MeasuredCase) -> None:
    assert (case.evidence.sent, case.evidence.loss.total) == (20, 1)
    packets = Packets.read(case.folder)
    assert packets is not None
    assert len(packets.sent_us) == 20
    assert (case.folder / "station.pcap").exists()


def test_a_good_run_has_a_ledger_and_the_checks_of_the_watch(case: MeasuredCase) -> None:
    with case.under_traffic():
        pass
    expect_figures(case)
    assert case.evidence.ledger
    assert "a" in {check.name for check in case.evidence.checks}


def test_a_second_measurement_does_not_replace_the_loss_of_the_first(case: MeasuredCase) -> None:
    with case.under_traffic():
        pass
    with pytest.raises(UsageError, match="has measured traffic already"), case.under_traffic():
        pass
    expect_figures(case)


def test_traffic_that_ends_before_the_last_update_proves_nothing(
    case: MeasuredCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeSession, "progress", lambda _: SimpleNamespace(answers=19, finished=True))
    with case.under_traffic():
        pass
    outcomes = {check.name: check.outcome for check in case.evidence.checks}
    assert outcomes["traffic-covers-all-updates"] is Outcome.INCONCLUSIVE


def test_traffic_is_long_enough_for_its_parameters(case: MeasuredCase, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[StreamSettings] = []

    def session(_station: object, _flows: object, settings: StreamSettings) -> FakeSession:
        given.append(settings)
        return FakeSession()

    monkeypatch.setattr(module, "TrafficSession", session)
    case.parameters = SuiteParameters(before=119, after=200)
    with case.under_traffic():
        pass
    assert (given[0].duration_s or 0) > 119 + 200 + 300  # and 5 minutes for updates


@pytest.mark.parametrize(
    "error",
    [
        UpdateFailed("update", "it failed"),
        GuestFailed("use the guest", "it died"),
        InstrumentError("read the descriptors", "the process ended"),
        HANGS,
        ProcessLookupError(3, "No such process"),
    ],
)
def test_figures_are_kept_when_the_body_fails(case: MeasuredCase, error: Exception) -> None:
    with pytest.raises(type(error)), case.under_traffic():
        raise error
    expect_figures(case)
    assert not case.evidence.ledger


def test_an_instrument_that_dies_as_well_does_not_hide_what_qemu_did(
    case: MeasuredCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    died = InstrumentError("talk to the traffic instrument", "its process is gone")
    monkeypatch.setattr(FakeSession, "finish", raising(died))
    unmeasured = case.evidence
    with pytest.raises(UpdateFailed), case.under_traffic():
        raise UpdateFailed("update", "it failed")
    case.evidence = unmeasured
    with pytest.raises(InstrumentError), case.under_traffic():
        pass


@pytest.mark.parametrize("hangs", ["read_hop_counters", "view_guest"])
def test_figures_are_kept_when_the_guest_hangs_after_the_traffic(
    case: MeasuredCase, monkeypatch: pytest.MonkeyPatch, hangs: str
) -> None:
    with pytest.raises(DeadlineExceeded), case.under_traffic():
        monkeypatch.setattr(module, hangs, raising(HANGS))
    expect_figures(case)


def test_loss_in_a_control_run_after_the_update_is_not_the_machines(
    case: MeasuredCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MeasuredCase, "_send_for", lambda *_: FakeSession())  # loses one packet
    short = FakeSession()
    short.sent = 5
    case._control_runs.append(cast("TrafficSession", short))
    with case.under_traffic():
        pass
    afterwards = next(check for check in case.evidence.checks if check.name == "traffic-intact-afterwards")
    assert afterwards.outcome is Outcome.FAIL
    assert "1 lost of 20 packets after the update" in afterwards.message
    assert case.evidence.instrument.control_run_sent == 20  # the further one does not count


def test_figures_are_kept_when_a_further_control_run_fails(case: MeasuredCase, monkeypatch: pytest.MonkeyPatch) -> None:
    """So are the checks of the quiet NIC, which name the flow on which the guest is silent."""
    monkeypatch.setattr(MeasuredCase, "_send_for", raising(HANGS))
    short = FakeSession()
    short.sent = 5
    case._control_runs.append(cast("TrafficSession", short))
    with pytest.raises(DeadlineExceeded), case.under_traffic():
        pass
    expect_figures(case)
    assert case.evidence.ledger
    assert "a" in {check.name for check in case.evidence.checks}


@pytest.mark.parametrize("error", [GuestFailed("use the guest", "it died"), InstrumentError("read the log", "damaged")])
def test_figures_need_no_log_of_the_reflector(
    case: MeasuredCase, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    log: Callable[..., tuple[list[Reflection], int]] = raising(error)  # type: ignore[assignment]
    monkeypatch.setattr(module, "reflector_log", log)
    with case.under_traffic():
        pass
    assert (case.evidence.sent, case.evidence.instrument.reflector_alive) == (20, False)
    assert Packets.read(case.folder) is not None
    assert case.evidence.interruption.return_.low_ms is not None
    assert case.evidence.warnings


@pytest.mark.parametrize(
    ("drops", "stack", "dropped"),
    [
        (0, {}, 0),
        (7, {}, 7),
        (7, {"Udp.InCsumErrors": 3, "Udp6InCsumErrors": 4}, 0),  # wrong checksums are no room that was missing
        (7, {"Udp.InCsumErrors": 9}, 0),  # of short packets and other sockets too
        (-1, {}, None),
    ],
)
def test_drops_of_the_reflectors_socket_are_those_of_a_full_one(
    drops: int, stack: dict[str, int], dropped: int | None
) -> None:
    agent = SimpleNamespace(
        reflector=lambda: SimpleNamespace(log_overflow=0, socket_drops=drops, peers=()),
        network=lambda: SimpleNamespace(stack=stack),
        reflector_log=lambda: PacketLog(b"", 0),
    )
    assert reflector_log(cast("AgentConnection", agent)) == ([], dropped)


def test_a_log_that_had_no_room_for_each_packet_proves_nothing() -> None:
    agent = SimpleNamespace(reflector=lambda: SimpleNamespace(log_overflow=3))
    with pytest.raises(InstrumentError, match="no room for 3 packets"):
        reflector_log(cast("AgentConnection", agent))


@pytest.mark.parametrize("sound", [True, False])
def test_no_delay_is_measured_on_a_machine_that_is_too_busy(
    case: MeasuredCase, monkeypatch: pytest.MonkeyPatch, sound: bool
) -> None:
    given = list[tuple[float | None, bool]]()
    cast("Any", case.guest.machine).settings = machine_settings(extra=("-overcommit", "cpu-pm=off,mem-lock=on"))

    def delay_checks(
        _update: object, control_run_ms: float | None, _stalled: object, *, locks_memory: bool
    ) -> list[Check]:
        given.append((control_run_ms, locks_memory))
        return []

    monkeypatch.setattr(module, "delay_checks", delay_checks)
    health, outcome = (
        InstrumentHealth(control_run_interruption_ms=237.0),
        Outcome.PASS if sound else Outcome.INCONCLUSIVE,
    )
    case.evidence = replace(case.evidence, instrument=health).with_checks(Check("instrument", outcome))
    update = cast("UpdateResult", SimpleNamespace())
    case.guest.updates.append(update)
    case._check_delays([update], result_of(WORLD, None))
    assert given == [(237.0 if sound else None, True)]


def test_checks_of_the_watch_are_kept_when_the_guest_hangs_later(case: MeasuredCase, watch: SimpleNamespace) -> None:
    def end(_: object) -> Iterator[Check]:
        yield Check("a", Outcome.FAIL)
        raise HANGS

    watch.end = end
    with pytest.raises(DeadlineExceeded), case.under_traffic():
        pass
    expect_figures(case)
    assert "a" in {check.name for check in case.evidence.checks}
