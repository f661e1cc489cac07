"""Equivalence of two states: everything that can be read of QEMU, its process, the kernel and the guest is unchanged.

A state is a flat mapping from path to value, ``process/threads/CPU 0/TCG`` to ``1``. Its readers know nothing of what
may change; fixtures/equivalence.toml does. So a defect of a kind that no check looks for is seen.

The file has one table for each difference that is allowed::

    [[allowed]]
    path = "qmp/query-migrate/status"
    reason = "the source has migrated, the target has received"
    comparisons = ["update", "chain"]

In a path, ``*`` stands for any text without ``/``, and ``**`` for any text. ``comparisons`` and ``mechanisms`` restrict
an entry to some, ``accelerator`` to guests that have it; an entry without them is for all. With ``bits``, only these
bits of a hexadecimal value may differ; with ``most``, at most this number of values.
"""

from __future__ import annotations

import errno
import functools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import msgspec

from cprlib import files
from cprlib.codec import load_toml
from cprlib.errors import InstrumentError, QmpRefused
from cprlib.evidence.records import Check, Difference, EquivalenceRecord, Outcome, StatePair
from cprlib.update.mechanism import Mechanism
from cprlib.words import listed

Values = Mapping[str, str]
ABSENT = "absent"
SHOWN = 4  # differences in the text of a check
MAX_DIFFERENCES = 500  # in the evidence: the guest has a say in some of the values
EXPECTED = {
    StatePair.DEVICE_STATE: "each device sends the state that it received in the update before",
    StatePair.RELEASE: "each device sends the fields that it sends in the release, in the same order",
    StatePair.PAUSED: "memory, registers and device state of a guest that does not run are exactly the same",
}
WILDCARDS = {"*": "[^/]*", "**": ".*"}
ADVICE = "docs/reading-a-report.md describes the file"
LONGEST_VALUE, LONGEST_PATH, CONTEXT = 240, 240, 40  # characters
SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # of this process or this machine


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One state.

    :param values: by path, of all sides.
    :param unread: sides that could not be read, with the reason.
    :param refused: those of them that QEMU or the kernel refused to report.
    """

    values: Values
    unread: Mapping[str, str] = field(default_factory=dict)
    refused: frozenset[str] = frozenset()

    @property
    def sides(self) -> set[str]:
        """The sides that were read, or could not be."""
        return {side_of(path) for path in self.values} | set(self.unread)

    def of_sides(self, sides: Iterable[str]) -> Snapshot:
        chosen = set(sides)
        values = {path: value for path, value in self.values.items() if side_of(path) in chosen}
        unread = {side: reason for side, reason in self.unread.items() if side in chosen}
        return Snapshot(values, unread, self.refused & chosen)

    def updated(self, later: Snapshot) -> Snapshot:
        """The state in which the sides of a later one replace its own."""
        old = self.of_sides(self.sides - later.sides)
        return Snapshot({**old.values, **later.values}, {**old.unread, **later.unread}, old.refused | later.refused)


def side_of(path: str) -> str:
    """The side that a path belongs to, its first part."""
    return path.partition("/")[0]


def take_snapshot(readers: Mapping[str, Callable[[], Values]]) -> Snapshot:
    """Read all sides.

    :param readers: by side; each returns values by path, without the side.
    :raises QemuFailed, GuestFailed, DeadlineExceeded: QEMU or guest died or hangs, which is a finding.
    """
    values: dict[str, str] = {}
    unread: dict[str, str] = {}
    refused: set[str] = set()
    for side, read in readers.items():
        try:
            values |= {f"{side}/{path}": value for path, value in read().items()}
        except (InstrumentError, QmpRefused) as error:
            unread[side] = error.one_line()
            refused |= {side} if isinstance(error, QmpRefused) else set()
        except OSError as error:
            unread[side] = str(error)
            refused |= {side} if error.errno not in SHORTAGES else set()
    return Snapshot(values, unread, frozenset(refused))


def compare(
    before: Snapshot,
    after: Snapshot,
    comparison: StatePair,
    mechanism: Mechanism,
    allowed: Iterable[AllowedDifference],
    subject: str = "",
    accelerator: str = "",
) -> EquivalenceRecord:
    """Compare two states.

    A side that was read before, and that QEMU or the kernel refuses to report now, is one difference. Other sides that
    one of them lacks are not compared.

    :param allowed: differences that are not a finding.
    :param subject: what happened between them, for the report.
    :param accelerator: of the guest; empty when there is none.
    """
    unread = {**before.unread, **after.unread}
    applicable = [item for item in allowed if item.applies_to(comparison, mechanism, accelerator)]
    used: Counter[AllowedDifference] = Counter()
    gone = sorted(after.refused & (before.sides - before.unread.keys()))
    found = [Difference(side, "readable", f"refused: {after.unread[side]}") for side in gone]
    compared = len(found)
    for path in dict.fromkeys((*before.values, *after.values)):
        if side_of(path) in unread:
            continue
        compared += 1
        old, new = before.values.get(path), after.values.get(path)
        if old == new:
            continue
        entries = (item for item in applicable if item.matches(path) and item.allows(old, new))
        entry = next((item for item in entries if not item.most or used[item] < item.most), None)
        if entry:
            used[entry] += 1
        else:
            found.append(_difference(path, old, new))
    return EquivalenceRecord(comparison, subject, compared, used.total(), tuple(found[:MAX_DIFFERENCES]), unread)


def _difference(path: str, before: str | None, after: str | None) -> Difference:
    """A difference as the evidence keeps it: of long values the part where they begin to differ."""
    start = 0
    if before is not None and after is not None and max(len(before), len(after)) > LONGEST_VALUE:
        same = next((at for at, (old, new) in enumerate(zip(before, after, strict=False)) if old != new), LONGEST_VALUE)
        start = max(0, same - CONTEXT)

    def excerpt(value: str | None) -> str | None:
        if value is None:
            return None
        end = start + LONGEST_VALUE
        return ("…" if start else "") + value[start:end] + ("…" if len(value) > end else "")

    return Difference(path[:LONGEST_PATH], excerpt(before), excerpt(after))


def difference_text(item: Difference) -> str:
    before, after = (ABSENT if value is None else value or "empty" for value in (item.before, item.after))
    return f"{item.path} was {before}, is {after}"


def equivalence_check(record: EquivalenceRecord, name: str) -> Check:
    """No value differs; inconclusive when a side could not be read."""
    expected = EXPECTED.get(record.comparison, "all that can be read of QEMU, process, kernel and guest is as before")
    count = len(record.differences)
    if count:
        shown = listed(map(difference_text, record.differences), SHOWN)
        observed = f"{count} of {record.compared} values differ after {record.subject}"
        return Check(name, Outcome.FAIL, expected, observed, f"{observed}: {shown}")
    if record.unread or not record.compared:
        reasons = "; ".join(f"{side}: {reason}" for side, reason in record.unread.items())
        return Check(name, Outcome.INCONCLUSIVE, expected, f"not read: {reasons or 'all sides'}")
    return Check(name, Outcome.PASS, expected, f"{record.compared} values, {record.allowed} differ as allowed")


class AllowedDifference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of the file.

    :param path: pattern of the paths of the values.
    :param reason: why the difference affects neither the guest nor the operator.
    :param comparisons, mechanisms: to which the entry is restricted; empty for all.
    :param accelerator: of the guests to which the entry is restricted; empty for all.
    :param bits: of a hexadecimal value, which alone may differ; the whole value when 0.
    :param most: number of values that may differ; any number when 0.
    """

    path: Annotated[str, msgspec.Meta(pattern=r"^[^/*]+(/|\Z)")]  # it begins with a side
    reason: Annotated[str, msgspec.Meta(pattern=r"\S")]
    comparisons: tuple[StatePair, ...] = ()
    mechanisms: tuple[Mechanism, ...] = ()
    accelerator: str = ""
    bits: int = 0
    most: int = 0

    def applies_to(self, comparison: StatePair, mechanism: Mechanism, accelerator: str) -> bool:
        return (
            (not self.comparisons or comparison in self.comparisons)
            and (not self.mechanisms or mechanism in self.mechanisms)
            and self.accelerator in ("", accelerator)
        )

    def matches(self, path: str) -> bool:
        return _pattern(self.path).fullmatch(path) is not None

    def allows(self, before: str | None, after: str | None) -> bool:
        """Whether two values of a matching path, None for one that is absent, may differ as they do."""
        if not self.bits:
            return True
        try:
            return (int(before or "", 16) ^ int(after or "", 16)) & ~self.bits == 0
        except ValueError:
            return False


@functools.cache
def _pattern(path: str) -> re.Pattern[str]:
    text = "".join(WILDCARDS.get(word) or re.escape(word) for word in re.split(r"(\*+)", path))
    return re.compile(text, re.DOTALL)


class _File(msgspec.Struct, forbid_unknown_fields=True):
    allowed: tuple[AllowedDifference, ...] = ()


def allowed_differences(path: Path | None = None) -> tuple[AllowedDifference, ...]:
    """The entries of a file, fixtures/equivalence.toml when None.

    :raises UsageError: it is missing or invalid; the message has the number of the entry.
    """
    return load_toml(_File, path or files.project_folder() / "fixtures" / "equivalence.toml", ADVICE).allowed
