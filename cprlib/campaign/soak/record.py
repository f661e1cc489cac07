"""What a soak keeps of itself: what was asked for, its sessions, a row for each case, samples of the harness."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cprlib.campaign.mutation.outcome import CellOutcome
from cprlib.campaign.soak.draw import Choices
from cprlib.codec import BadValue, decode
from cprlib.errors import UsageError

WISH_FILE = "wanted.json"
SOAK_FILE = "soak.json"
SOAK_SCHEMA = 1
WISH_VERSION = 1


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for when the soak was begun; it stays so when the soak is resumed.

    :param hours: of the first session.
    :param tests: ids, in the order that draws refer to.
    :param engine: of the lab; None to run natively.
    :param qemu, firmware: the user's; empty for the project's own on :attr:`base`.
    :param keep, keep_mib: how many folders of cases are kept, and how much they may hold together.
    """

    seed: int
    hours: float
    tests: tuple[str, ...]
    choices: Choices = field(default_factory=Choices)
    engine: str | None = None
    base: str = ""
    qemu: str = ""
    firmware: str = ""
    policy: str = "default"
    tags: tuple[str, ...] = ()
    keep: int = 20
    keep_mib: int = 1024
    command: str = ""
    started_ns: int = 0
    version: int = WISH_VERSION


@dataclass(frozen=True, slots=True)
class Session:
    """One process's part of the soak; a resumed soak has several.

    :param seconds: that it has worked.
    """

    started_ns: int
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class CaseRow:
    """What is kept of a case.

    :param number: of its draw. :param session: in which it ran, from 0.
    :param messages: why it did not pass, cut to a few lines.
    :param seconds: from the start of Avocado to its end.
    :param lab_lost: labs that died under it and were replaced.
    :param left: processes of the case that were there after it had ended.
    """

    number: int
    session: int
    test: str
    parameters: Mapping[str, str]
    outcome: CellOutcome
    messages: tuple[str, ...] = ()
    started_ns: int = 0
    seconds: float = 0.0
    lab_lost: int = 0
    left: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """Of its evidence below the soak's folder, where that is kept."""
        return f"kept/{self.number:06d}-{self.test}"


@dataclass(frozen=True, slots=True)
class Sample:
    """The harness at rest: no case runs.

    :param at_s: seconds of work, those of earlier sessions included.
    :param cases: that had ended by then.
    :param values: of each resource (:mod:`cprlib.campaign.soak.resources`), in its unit; None where it could not be
        read.
    """

    session: int
    at_s: float
    cases: int
    values: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Past:
    """What earlier sessions left."""

    sessions: tuple[Session, ...] = ()
    cases: tuple[CaseRow, ...] = ()
    samples: tuple[Sample, ...] = ()

    @property
    def seconds(self) -> float:
        """That they have worked."""
        return sum(session.seconds for session in self.sessions)


def read_past(folder: Path) -> Past:
    """What the sessions so far have left in soak.json; nothing where no case was ever begun.

    :raises UsageError: the file is broken.
    """
    path = folder / SOAK_FILE
    if not path.exists():
        return Past()
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if value["schema"] != SOAK_SCHEMA:
            raise BadValue(f"schema {value['schema']}, this program reads {SOAK_SCHEMA}")
        return decode(Past, value)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"read {path}", str(error), "start a soak without --resume") from error
