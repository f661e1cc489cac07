"""QEMU's log with trace events: what QEMU did and when, on the harness's clock.

With the ``log`` trace backend, ``-D FILE -trace PATTERN -msg timestamp=on`` writes lines
``PID@SECONDS.MICROSECONDS:NAME arguments`` (QEMU 10.0), or the time in ISO 8601 and ``NAME arguments`` (QEMU 10.2;
scripts/tracetool/backend/log.py of each). The time is CLOCK_REALTIME. Any other line is a message.
"""

from __future__ import annotations

import datetime
import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

RECORD = re.compile(r"^(?:\S+ )?(?P<pid>\d+)@(?P<seconds>\d+)\.(?P<microseconds>\d+):(?P<name>\w+) ?(?P<text>.*)$")
ISO_RECORD = re.compile(
    r"^(?P<second>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.(?P<microseconds>\d{6})Z (?P<name>[a-z0-9]+_\w+) ?(?P<text>.*)$"
)
RUN_STATE = re.compile(r"new_state \d+ \((?P<state>[\w-]+)\)")

UPDATE_EVENTS = (
    "runstate_set*",
    "vm_state_notify*",
    "cpr_*",
    "migrate_set_state*",
    "migration_completion*",
    "vhost_dev_start*",
    "vhost_dev_stop*",
    "vhost_reset*",
    "vhost_set_owner*",
)
"""Trace patterns for the order of an update; none of them matches an event per packet."""


@dataclass(frozen=True, slots=True)
class TraceRecord:
    """One trace event.

    :param time_ns: CLOCK_REALTIME, with a resolution of 1 µs.
    """

    time_ns: int
    name: str
    text: str


@dataclass(frozen=True, slots=True)
class TraceLog:
    """The trace events and the other lines of a log."""

    records: tuple[TraceRecord, ...]
    messages: tuple[str, ...]

    def first(self, name: str, containing: str = "") -> TraceRecord | None:
        return next((item for item in self.records if item.name == name and containing in item.text), None)

    def all_of(self, name: str) -> tuple[TraceRecord, ...]:
        """All records with this name, in the order written."""
        return tuple(item for item in self.records if item.name == name)

    def run_state(self, state: str) -> TraceRecord | None:
        """The first change of the run state to this one (QAPI RunState)."""
        changes = ((item, RUN_STATE.search(item.text)) for item in self.all_of("runstate_set"))
        return next((item for item, found in changes if found and found["state"] == state), None)

    def run_states(self) -> tuple[tuple[int, str], ...]:
        """Changes of the run state: time in ns and new state."""
        changes = ((item.time_ns, RUN_STATE.search(item.text)) for item in self.all_of("runstate_set"))
        return tuple((time_ns, found["state"]) for time_ns, found in changes if found)

    def migration_statuses(self) -> tuple[tuple[int, str], ...]:
        """Changes of the migration's status (``migrate_set_state new state active``): time in ns and new status."""
        return tuple((item.time_ns, item.text.split()[-1]) for item in self.all_of("migrate_set_state"))


def _record(line: str) -> TraceRecord | None:
    found = RECORD.match(line)
    if found:
        return TraceRecord(_time_ns(int(found["seconds"]), found), found["name"], found["text"])
    found = ISO_RECORD.match(line)
    if found:
        second = datetime.datetime.fromisoformat(f"{found['second']}+00:00")
        return TraceRecord(_time_ns(int(second.timestamp()), found), found["name"], found["text"])
    return None


def _time_ns(seconds: int, found: re.Match[str]) -> int:
    return seconds * 10**9 + int(found["microseconds"]) * 1000


def parse_trace(lines: Iterable[str]) -> TraceLog:
    records, messages = [], []
    for line in (item.rstrip("\n") for item in lines):
        record = _record(line)
        if record:
            records.append(record)
        elif line.strip():
            messages.append(line)
    return TraceLog(tuple(records), tuple(messages))


def count_lines(path: Path) -> int:
    """The complete lines of a log file so far."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def read_trace(path: Path, *, skipped: int = 0) -> TraceLog:
    """Parse a log file; the log of a QEMU that ended too early may not exist and is empty.

    :param skipped: lines at its beginning that are left out.
    """
    if not path.exists():
        return TraceLog((), ())
    with path.open(encoding="utf-8", errors="replace", newline="\n") as stream:  # as count_lines()
        return parse_trace(itertools.islice(stream, skipped, None))
