"""Events of a live update: its steps, with the time and the origin of each."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Step(enum.StrEnum):
    """A step of an update; a test may add names of its own."""

    TARGET_STARTED = "TARGET_STARTED"
    CPR_LISTENING = "CPR_LISTENING"
    MAIN_LISTENING = "MAIN_LISTENING"
    MIGRATE = "MIGRATE"
    STOP = "STOP"
    FDS_SENT = "FDS_SENT"
    FDS_HELD = "FDS_HELD"
    """A proxy holds the CPR state."""
    FDS_LOADING = "FDS_LOADING"
    STATE_LOADING = "STATE_LOADING"
    SWITCHOVER = "SWITCHOVER"
    """Management has continued a migration that waited for it (capability pause-before-switchover)."""
    RESUME = "RESUME"
    TARGET_COMPLETED = "TARGET_COMPLETED"
    LINK_SWITCHED = "LINK_SWITCHED"
    """To taps of the target's own."""
    COMPLETED = "COMPLETED"
    SOURCE_QUIT = "SOURCE_QUIT"
    SOURCE_GONE = "SOURCE_GONE"


class Who(enum.StrEnum):
    """The origin of an event."""

    SOURCE = "source"
    TARGET = "target"
    HARNESS = "harness"


@dataclass(frozen=True, slots=True)
class Event:
    """A step at its time.

    :param name: a :class:`Step`, or the name of a test's own.
    :param time_ns: CLOCK_REALTIME.
    :param note: source of the time.
    """

    name: str
    time_ns: int
    who: Who
    note: str = ""
