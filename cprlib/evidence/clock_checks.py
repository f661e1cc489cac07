"""The guest's clocks at an update: they may stand still while the guest does, and not jump otherwise; rates are kept.

A guest's clock stops or runs on while its virtual CPUs are stopped, which depends on accelerator and clock source
(hw/i386/kvm/clock.c, system/cpu-timers.c). So its step, guest against host, lies between minus the pause and zero.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from cprlib.evidence.records import Check, Outcome
from cprlib.guest.agent import AgentConnection
from cprlib.guest.replies import Clocks

READINGS = 3
SLACK_NS = 100_000_000  # the clocks stop before STOP is reported: first all devices are stopped
RATE_ERROR = 0.02  # of a rate measured over a second on a busy machine
LARGEST_CHANGE = 0.1  # of the rate
SHORTEST_NS = 300_000_000  # between two readings that a rate is computed from
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


def read_clocks(agent: AgentConnection) -> ClockReading:
    """The best of a few readings.

    :raises GuestFailed, DeadlineExceeded: no answer.
    """

    def one() -> ClockReading:
        asked = time.monotonic_ns()
        clocks = agent.ping()
        answered = time.monotonic_ns()
        return ClockReading((asked + answered) // 2, (answered - asked) // 2 + 1, clocks)

    return min((one() for _ in range(READINGS)), key=lambda reading: reading.error_ns)


@dataclass(frozen=True, slots=True)
class ClockRates:
    """The rates of the guest's clocks between two readings, while it was not stopped."""

    first: ClockReading
    last: ClockReading

    @property
    def exact(self) -> bool:
        """The readings are far enough apart for their errors."""
        elapsed = self.last.host_ns - self.first.host_ns
        return elapsed >= SHORTEST_NS and (self.first.error_ns + self.last.error_ns) / elapsed <= LARGEST_CHANGE / 4

    def of(self, clock: str) -> float:
        """Guest ns per host ns."""
        return (self.last.of(clock) - self.first.of(clock)) / (self.last.host_ns - self.first.host_ns)


def step_check(before: ClockReading, after: ClockReading, rates: ClockRates, pause_ns: int | None) -> Check:
    """The step of each clock at an update.

    :param before, after: readings around it.
    :param rates: of the clocks before it.
    :param pause_ns: from STOP to RESUME; None when unknown.
    """
    name, expected = "guest-clock-step", "between minus the pause (STOP to RESUME) and zero"
    if pause_ns is None:
        return Check(name, Outcome.INCONCLUSIVE, expected, "no STOP or RESUME event")
    elapsed = after.host_ns - before.host_ns
    slack = SLACK_NS + before.error_ns + after.error_ns + RATE_ERROR * elapsed
    seen, wrong = [], []
    for clock, title in CLOCKS.items():
        rate = rates.of(clock) if rates.exact else 1.0
        step = after.of(clock) - before.of(clock) - rate * elapsed
        seen.append(f"{title} {step / 1e6:+.0f} ms")
        if not -pause_ns - slack <= step <= slack:
            wrong.append(f"{title} jumped by {step / 1e6:+.0f} ms")
    limits = f"pause {pause_ns / 1e6:.0f} ms, error up to {slack / 1e6:.0f} ms"
    return Check.of(name, not wrong, expected, f"{', '.join(seen)} ({limits})", f"{'; '.join(wrong)} ({limits})")


def rate_check(before: ClockRates, after: ClockRates) -> Check:
    """The rate of each clock after an update is that before it; passes when the readings do not show it."""
    name, expected = "guest-clock-rate", f"the rate of each clock changes by at most {LARGEST_CHANGE:.0%}"
    if not before.exact or not after.exact:
        return Check(name, Outcome.PASS, expected, "not measured: the readings were too close or too inexact")
    rates = {title: (before.of(clock), after.of(clock)) for clock, title in CLOCKS.items()}
    seen = {title: f"{title} {first:.4f}, then {last:.4f}" for title, (first, last) in rates.items()}
    wrong = [seen[title] for title, (first, last) in rates.items() if abs(last - first) > LARGEST_CHANGE * abs(first)]
    meaning = f"a clock of the guest runs at another rate: {'; '.join(wrong)}"
    return Check.of(name, not wrong, expected, "; ".join(seen.values()), meaning)
