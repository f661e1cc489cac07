"""The words of verdicts and evidence, as they stand in JSON files (docs/run.schema.json)."""

from __future__ import annotations

import enum


class Outcome(enum.StrEnum):
    """What came of one check, one case or a whole run."""

    PASS = "pass"  # noqa: S105 - a verdict, not a password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    SKIP = "skip"


class Mechanism(enum.StrEnum):
    """How the NIC crosses from source to target."""

    CPR = "cpr"
    LINK_SWITCH = "link-switch"
    FD_SHARE = "fd-share"
    LOCAL = "local"
    NONE = "none"  # no update: a control run, or a case that is about something else


class Role(enum.StrEnum):
    """What a case is for, and so what is expected of it."""

    UPDATE = "update"  # a live update that has to satisfy the policy
    NEGATIVE_CONTROL = "negative-control"  # an update that is known to lose packets: the instrument has to see that
    CONTROL_RUN = "control-run"  # no update: a loss is the instrument's or the machine's
    CHECKS = "checks"  # no measured traffic: its checks are all it has


class Cause(enum.StrEnum):
    """Whose fault a missing packet is, as far as place and counters tell. Only ``update`` and ``unknown`` accuse."""

    UPDATE = "update"
    OVERFLOW = "overflow"  # the tap queue was full: judged beside the budget
    GUEST = "guest"  # the guest's own queue or socket
    INSTRUMENT = "instrument"  # the capture's or the reflector's socket
    UNKNOWN = "unknown"


class Who(enum.StrEnum):
    """Whose event it is."""

    SOURCE = "source"
    TARGET = "target"
    HARNESS = "harness"
    GUEST = "guest"


class Direction(enum.StrEnum):
    """Forward is sender to reflector (into the guest), return is back."""

    FORWARD = "forward"
    RETURN = "return"
