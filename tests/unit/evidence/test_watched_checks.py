"""Clocks, notifications and error counters before and after an update: what is found, and what is no finding."""

from __future__ import annotations

import time
from unittest.mock import Mock

import pytest

from cprlib.evidence import clock_checks
from cprlib.evidence.clock_checks import (
    NS,
    PRECISE_NS,
    ClockRates,
    ClockReading,
    DeviceClock,
    device_clock_check,
    host_clock_checks,
    rate_check,
    read_clocks,
    read_host_clock,
    read_hpet,
    read_rtc,
    step_check,
)
from cprlib.evidence.counter_checks import Notifications, error_check, notification_checks, per_packet
from cprlib.evidence.records import Outcome
from cprlib.guest.files import GuestFile
from cprlib.guest.replies import Clocks
from cprlib.update.results import ClockPause

pytestmark = pytest.mark.fast

MS = 1_000_000
PAUSE_MS, STOPPING_MS = 200, 150
PAUSE = ClockPause(PAUSE_MS * MS, (PAUSE_MS + STOPPING_MS) * MS)


def reading(host_ms: float, guest_ms: float, error_ms: float = 5) -> ClockReading:
    guest_ns = round(guest_ms * MS) + 10**12
    return ClockReading(round(host_ms * MS), round(error_ms * MS), Clocks(guest_ns + 10**18, guest_ns, guest_ns))


class SlowAgent:
    """An agent that answers after these times, in ms of the clock :meth:`now_ns`."""

    def __init__(self, delays_ms: list[int]) -> None:
        self.delays_ms = delays_ms
        self.asked = 0

    def now_ns(self) -> int:
        return sum(self.delays_ms[: self.asked]) * MS

    def ping(self) -> Clocks:
        self.asked += 1
        return Clocks(1, 2, 3)


def step(step_ms: float) -> Outcome:
    """The check of a guest whose clock steps at an update."""
    rates = ClockRates(reading(0, 0), reading(1000, 1000))
    return step_check(reading(1000, 1000), reading(2500, 2500 + step_ms), rates, PAUSE).outcome


@pytest.mark.parametrize(
    ("step_ms", "outcome"),
    [(0, Outcome.PASS), (-PAUSE_MS, Outcome.PASS), (1000, Outcome.FAIL), (-1000, Outcome.FAIL)],
)
def test_steps_of_the_guests_clock(step_ms: float, outcome: Outcome) -> None:
    assert step(step_ms) is outcome


def test_readings_are_taken_until_one_is_precise(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest under traffic answers late most of the time; the error of a late answer hides a step of the clock."""
    agent = SlowAgent([40, 30, 2, 40])
    monkeypatch.setattr(time, "monotonic_ns", agent.now_ns)
    assert read_clocks(agent).error_ns <= PRECISE_NS  # type: ignore[arg-type]
    assert agent.asked == 3


def test_a_step_without_a_known_pause_is_inconclusive() -> None:
    rates = ClockRates(reading(0, 0), reading(1000, 1000))
    assert step_check(reading(1000, 1000), reading(2000, 2000), rates, None).outcome is Outcome.INCONCLUSIVE


@pytest.mark.parametrize(
    ("step_s", "outcome"), [(0, [Outcome.PASS]), (1, [Outcome.PASS]), (13, [Outcome.FAIL]), (None, [Outcome.FAIL])]
)
def test_steps_of_the_real_time_clock(step_s: int | None, outcome: list[Outcome]) -> None:
    before = DeviceClock(0, 5 * MS, 1_800_000_000 * NS)
    after = DeviceClock(2_500 * MS, 5 * MS, None if step_s is None else (1_800_000_002 + step_s) * NS)
    checks = device_clock_check("guest-rtc-step", before, after, PAUSE, resolution_ns=NS)
    assert [check.outcome for check in checks] == outcome
    absent = DeviceClock(0, 5, None)
    assert not [*device_clock_check("guest-rtc-step", absent, after, PAUSE)]


@pytest.mark.parametrize(
    ("step_ms", "outcome"),
    [
        (-PAUSE_MS, Outcome.PASS),
        (-PAUSE_MS - STOPPING_MS - 20, Outcome.PASS),
        (-PAUSE_MS - 200, Outcome.FAIL),
        (-PAUSE_MS + 100, Outcome.FAIL),
        (0, Outcome.FAIL),
    ],
)
def test_steps_of_a_clock_that_stops_with_the_vm(step_ms: int, outcome: Outcome) -> None:
    before, after = DeviceClock(0, 5 * MS, 0), DeviceClock(2_500 * MS, 5 * MS, (2_500 + step_ms) * MS)
    (check,) = device_clock_check("hpet-step", before, after, PAUSE, stops=True)
    assert check.outcome is outcome


@pytest.mark.parametrize(
    ("texts", "time_ns", "readings"),
    [
        (["EIO"] * 8 + ["1795725883"], 1795725883 * 1000 * MS, 9),  # a busy machine
        (["EIO"] * 10_000, None, 3),  # never
        ([None], None, 1),  # the guest has no real-time clock
    ],
)
def test_the_real_time_clock_is_read_until_it_answers(
    texts: list[str | None], time_ns: int | None, readings: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock_checks, "RTC_S", 0.1)
    monkeypatch.setattr(clock_checks, "RTC_POLL_S", 0.002)
    answers, asked = iter(texts), list[list[str]]()

    def files(patterns: list[str]) -> dict[str, GuestFile]:
        asked.append(patterns)
        text = next(answers)
        return {} if text is None else {patterns[0]: GuestFile(text.encode())}

    assert read_rtc(Mock(files=files)).time_ns == time_ns
    assert len(asked) >= readings


@pytest.mark.parametrize(
    ("capabilities", "configuration", "counter", "time_ns"),
    [
        ("0x009896808086a201", "0x0000000000000003", "0x0000000000000064", 1000),
        ("0x009896808086a201", "0x0000000000000002", "0x0000000000000064", None),  # the guest has not enabled it
        ("0xffffffffffffffff", "0xffffffffffffffff", "0xffffffffffffffff", None),
        ("Cannot access memory", "", "", None),
    ],
)
def test_hpet_is_read_by_the_monitor(capabilities: str, configuration: str, counter: str, time_ns: int | None) -> None:
    registers = {0xFED00000: capabilities, 0xFED00010: configuration, 0xFED000F0: counter}

    def execute_all(commands: list[tuple[str, dict[str, str]]]) -> list[str]:
        addresses = [int(arguments["command-line"].split()[-1], 16) for _, arguments in commands]
        return [f"{address:016x}: {registers[address]}\r\n" for address in addresses]

    assert read_hpet(Mock(execute_all=execute_all)).time_ns == time_ns


@pytest.mark.parametrize(
    ("rate", "length_ms", "outcome"),
    [
        (0.0, 1000, Outcome.FAIL),
        (2.0, 1000, Outcome.FAIL),
        (1.02, 1000, Outcome.PASS),
        (0.0, 100, Outcome.SKIP),  # too close to each other
    ],
)
def test_rates_of_the_guests_clock(rate: float, length_ms: float, outcome: Outcome) -> None:
    before = ClockRates(reading(0, 0), reading(1000, 1000))
    after = ClockRates(reading(3000, 2800), reading(3000 + length_ms, 2800 + rate * length_ms))
    assert rate_check(before, after).outcome is outcome


def test_a_storm_of_notifications_is_found_and_a_burst_of_packets_is_none() -> None:
    usual = per_packet(Notifications(0, 0, 0), Notifications(1000, 800, 500))
    assert usual == {"interrupts": 0.8, "kicks": 0.5}
    for interrupts, kicks, failed in ((900, 480, []), (5000, 500, ["interrupts"]), (100, 500, [])):
        later = per_packet(Notifications(1000, 800, 500), Notifications(2000, 800 + interrupts, 500 + kicks))
        checks = notification_checks(usual, later)
        assert [check.name.partition("-")[0] for check in checks if check.outcome is Outcome.FAIL] == failed
    for later, failed in ({"interrupts": 0.98, "kicks": 1.2}, []), ({"interrupts": 0.98, "kicks": 1.3}, ["kicks"]):
        checks = notification_checks({"interrupts": 0.2, "kicks": 0.2}, later)  # one for each packet is legal
        assert [check.name.partition("-")[0] for check in checks if check.outcome is Outcome.FAIL] == failed
    assert per_packet(Notifications(0, 0, 0), Notifications(10, 10, 10)) is None
    assert not list(notification_checks(None, usual))


def test_a_risen_error_counter_is_named() -> None:
    before = {"guest's eth0 rx_errors": 0, "station Udp.InCsumErrors": 2}
    assert error_check(before, before).outcome is Outcome.PASS
    found = error_check(before, before | {"station Udp.InCsumErrors": 5, "guest Ip.InHdrErrors": 1})
    assert found.outcome is Outcome.FAIL
    assert found.observed == "guest Ip.InHdrErrors by 1, station Udp.InCsumErrors by 3"
    assert error_check({}, {}).outcome is Outcome.INCONCLUSIVE


def test_an_error_counter_that_rose_before_the_update_accuses_no_qemu() -> None:
    """A host's stray traffic, for example, which may continue."""
    first = {"guest's eth0 rx_drops": 0, "station Udp.InCsumErrors": 2}
    before = first | {"guest's eth0 rx_drops": 3}
    for after in (before, before | {"guest's eth0 rx_drops": 9}):
        found = error_check(before, after, first)
        assert found.outcome is Outcome.INCONCLUSIVE
        assert "guest's eth0 rx_drops by 3" in found.text
    other = error_check(before, before | {"station Udp.InCsumErrors": 5}, first)
    assert (other.outcome, other.observed) == (Outcome.FAIL, "station Udp.InCsumErrors by 3")


@pytest.mark.parametrize(("set_by_ms", "stepped"), [(0, False), (4, False), (-8, True), (3_600_000, True)])
def test_a_host_whose_clock_is_set_measures_no_times(
    monkeypatch: pytest.MonkeyPatch, set_by_ms: int, stepped: bool
) -> None:
    before = read_host_clock()
    monkeypatch.setattr(time, "time_ns", lambda now=time.time_ns: now() + set_by_ms * MS)
    found = [(check.name, check.outcome) for check in host_clock_checks(before, read_host_clock())]
    assert found == ([("host-clock-not-set", Outcome.INCONCLUSIVE)] if stepped else [])
