"""Clocks of guest and machine at an update: they may stand still while the guest does, and do not jump; rates are kept.

A guest's clock stops or runs on while its virtual CPUs are stopped, which depends on accelerator and clock source
(hw/i386/kvm/clock.c, system/cpu-timers.c). So its step, guest against host, lies between minus the pause and zero.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

from cprlib.deadline import Deadline
from cprlib.errors import Awaited
from cprlib.evidence.records import Check, Outcome
from cprlib.guest.agent import AgentConnection
from cprlib.guest.replies import Clocks
from cprlib.qemu.qmp import QmpConnection
from cprlib.update.results import ClockPause

NS = 1_000_000_000
RTC = "/sys/class/rtc/rtc0/since_epoch"
RTC_S, RTC_POLL_S = 10.0, 0.02
HPET_REGISTERS = (0xFED00000, 0xFED00010, 0xFED000F0)  # capabilities, configuration, main counter
HPET_VENDOR, HPET_ENABLED = 0x8086, 1
FS_PER_NS = 1_000_000
READINGS = 20  # at most
PRECISE_NS = 10_000_000  # an error that no further reading is taken for
SLACK_NS = 100_000_000  # of a step of the guest's own clocks, beyond the errors of the readings
DEVICE_SLACK_NS = 20_000_000  # the same for a clock of the machine
LARGEST_CHANGE = 0.1  # of the rate
SHORTEST_NS = 300_000_000  # between two readings that a rate is computed from
LARGEST_SETTING_NS = 5_000_000  # of the host's clock, beyond the errors of the readings
CLOCKS = {"monotonic_ns": "CLOCK_MONOTONIC", "boottime_ns": "CLOCK_BOOTTIME", "realtime_ns": "CLOCK_REALTIME"}


@dataclass(frozen=True, slots=True)
class ClockReading:
    """The guest's clocks at a moment of the host's CLOCK_MONOTONIC.

    :param host_ns: the middle of request and answer; :param error_ns: half of the time between them.
    """

    host_ns: int
    error_ns: int
    guest: Clocks

    def of(self, clock: str) -> int:
        return int(getattr(self.guest, clock))


def _bracket(asked_ns: int) -> tuple[int, int]:
    """``host_ns`` and ``error_ns`` of a reading that was asked for at this time and has just been answered."""
    answered_ns = time.monotonic_ns()
    return (asked_ns + answered_ns) // 2, (answered_ns - asked_ns) // 2 + 1


def read_clocks(agent: AgentConnection) -> ClockReading:
    """The first precise reading, or the best of ``READINGS``: a guest under traffic may answer late.

    :raises GuestFailed, DeadlineExceeded: no answer.
    """

    def one() -> ClockReading:
        asked_ns = time.monotonic_ns()
        clocks = agent.ping()
        return ClockReading(*_bracket(asked_ns), clocks)

    best = one()
    for _ in range(READINGS - 1):
        if best.error_ns <= PRECISE_NS:
            break
        best = min(best, one(), key=lambda reading: reading.error_ns)
    return best


@dataclass(frozen=True, slots=True)
class DeviceClock:
    """A clock of the machine, read at a moment of the host's CLOCK_MONOTONIC.

    :param host_ns, error_ns: as for :class:`ClockReading`.
    :param time_ns: since 1970, or since the counter began; None on a machine without this clock, or when it is off.
    """

    host_ns: int
    error_ns: int
    time_ns: int | None


def read_rtc(agent: AgentConnection) -> DeviceClock:
    """Read the real-time clock through the guest, again while it is being updated, which takes long on a busy machine.

    :raises GuestFailed, DeadlineExceeded: no answer.
    """
    deadline = Deadline(RTC_S, "the guest's real-time clock", Awaited.GUEST)
    while True:
        asked_ns = time.monotonic_ns()
        file = agent.files([RTC]).get(RTC)
        when = _bracket(asked_ns)
        if file and file.text.strip().isdecimal():
            return DeviceClock(*when, int(file.text) * NS)
        if not file or deadline.expired:
            return DeviceClock(*when, None)
        time.sleep(RTC_POLL_S)


def read_hpet(qmp: QmpConnection) -> DeviceClock:
    """Read the main counter of the HPET by HMP's ``xp``, which reads devices too; it stands still until enabled.

    Registers: IA-PC HPET specification 1.0a, section 2.3; include/hw/timer/hpet.h in QEMU.

    :raises QemuFailed, DeadlineExceeded: no answer.
    """
    asked_ns = time.monotonic_ns()
    answers = qmp.execute_all(
        [("human-monitor-command", {"command-line": f"xp /1gx {at:#x}"}) for at in HPET_REGISTERS]
    )
    when = _bracket(asked_ns)
    words = [re.findall(r": 0x([0-9a-f]{16})$", str(answer).strip()) for answer in answers]
    capabilities, configuration, counter = (int(found[0], 16) if found else 0 for found in words)
    if capabilities >> 16 & 0xFFFF != HPET_VENDOR or not configuration & HPET_ENABLED:
        return DeviceClock(*when, None)
    return DeviceClock(*when, counter * (capabilities >> 32) // FS_PER_NS)


@dataclass(frozen=True, slots=True)
class HostClock:
    """The host's CLOCK_REALTIME minus its CLOCK_MONOTONIC, which changes only when the first is set, or in a suspend.

    Both are slewed alike (clock_gettime(2)).

    :param error_ns: of the reading, at most.
    """

    offset_ns: int
    error_ns: int


def read_host_clock() -> HostClock:
    """The best of ``READINGS``: on a busy machine this process may be interrupted between the two clocks."""

    def one() -> HostClock:
        asked_ns, real_ns = time.monotonic_ns(), time.time_ns()
        middle_ns, error_ns = _bracket(asked_ns)
        return HostClock(real_ns - middle_ns, error_ns)

    return min((one() for _ in range(READINGS)), key=lambda reading: reading.error_ns)


def host_clock_checks(before: HostClock, after: HostClock) -> Iterator[Check]:
    """An inconclusive check when the host's clock was set: durations between the events of QEMUs are by this clock."""
    moved_ns = after.offset_ns - before.offset_ns
    if abs(moved_ns) > LARGEST_SETTING_NS + before.error_ns + after.error_ns:
        observed = f"it was set by {moved_ns / 1e6:+.0f} ms, or the host was suspended"
        yield Check("host-clock-not-set", Outcome.INCONCLUSIVE, "the host's clock is not set during the case", observed)


@dataclass(frozen=True, slots=True)
class ClockRates:
    """The rates of the guest's clocks between two readings, while it was not stopped."""

    first: ClockReading
    last: ClockReading

    @property
    def error(self) -> float:
        """The largest error of a rate, as a share of it."""
        return (self.first.error_ns + self.last.error_ns) / (self.last.host_ns - self.first.host_ns)

    @property
    def exact(self) -> bool:
        """The readings are far enough apart for their errors."""
        return self.last.host_ns - self.first.host_ns >= SHORTEST_NS and self.error <= LARGEST_CHANGE / 4

    def of(self, clock: str) -> float:
        """Guest ns per host ns."""
        return (self.last.of(clock) - self.first.of(clock)) / (self.last.host_ns - self.first.host_ns)


def step_check(before: ClockReading, after: ClockReading, rates: ClockRates, pause: ClockPause | None) -> Check:
    """The step of each clock at an update.

    :param before, after: readings around it.
    :param rates: rates of the clocks before it.
    :param pause: None when unknown.
    """
    name, expected = "guest-clock-step", "between minus the pause and zero"
    if pause is None:
        return Check(name, Outcome.INCONCLUSIVE, expected, "no STOP or RESUME event")
    elapsed = after.host_ns - before.host_ns
    rate_error = rates.error if rates.exact else LARGEST_CHANGE / 4
    slack = SLACK_NS + before.error_ns + after.error_ns + rate_error * elapsed
    seen, wrong = [], []
    for clock, title in CLOCKS.items():
        rate = rates.of(clock) if rates.exact else 1.0
        step = after.of(clock) - before.of(clock) - rate * elapsed
        seen.append(f"{title} {step / 1e6:+.0f} ms")
        if not -pause.most_ns - slack <= step <= slack:
            wrong.append(f"{title} jumped by {step / 1e6:+.0f} ms")
    limits = f"pause up to {pause.most_ns / 1e6:.0f} ms, error up to {slack / 1e6:.0f} ms"
    return Check.of(name, not wrong, expected, f"{', '.join(seen)} ({limits})", f"{'; '.join(wrong)} ({limits})")


def device_clock_check(
    name: str,
    before: DeviceClock,
    after: DeviceClock,
    pause: ClockPause | None,
    *,
    resolution_ns: int = 0,
    stops: bool = False,
) -> Iterator[Check]:
    """The step of a clock of the machine at an update; no check on a machine without it.

    :param name: of the check.
    :param before, after: readings around the update.
    :param pause: None when unknown.
    :param stops: the clock always stops with the VM; else it may (option ``-rtc clock=``).
    """
    if before.time_ns is None or pause is None:
        return
    expected = "minus the pause" if stops else "between minus the pause and zero"
    if after.time_ns is None:
        yield Check(name, Outcome.FAIL, expected, "the clock cannot be read after the update")
        return
    step = after.time_ns - before.time_ns - (after.host_ns - before.host_ns)
    slack = DEVICE_SLACK_NS + resolution_ns + before.error_ns + after.error_ns
    least, most = -pause.most_ns - slack, (-pause.least_ns if stops else 0) + slack
    allowed = f"{least / 1e6:+.0f} to {most / 1e6:+.0f} ms allowed"
    seen = f"{step / 1e6:+.0f} ms (pause {pause.least_ns / 1e6:.0f} to {pause.most_ns / 1e6:.0f} ms, {allowed})"
    yield Check.of(name, least <= step <= most, expected, seen, f"the clock jumped by {seen}")


def rate_check(before: ClockRates, after: ClockRates) -> Check:
    """The rate of each clock after an update is that before it; skipped when the readings do not show it."""
    name, expected = "guest-clock-rate", f"the rate of each clock changes by at most {LARGEST_CHANGE:.0%}"
    if not before.exact or not after.exact:
        return Check(name, Outcome.SKIP, expected, "not measured: the readings were too close or too inexact")
    rates = {title: (before.of(clock), after.of(clock)) for clock, title in CLOCKS.items()}
    seen = {title: f"{title} {first:.4f}, then {last:.4f}" for title, (first, last) in rates.items()}
    wrong = [seen[title] for title, (first, last) in rates.items() if abs(last - first) > LARGEST_CHANGE * abs(first)]
    meaning = f"a clock of the guest runs at another rate: {'; '.join(wrong)}"
    return Check.of(name, not wrong, expected, "; ".join(seen.values()), meaning)
