"""Equivalence of two states: everything that can be read of QEMU, its process, the kernel and the guest is unchanged.

A state is a flat mapping from path to value, ``process/threads/CPU 0/TCG`` to ``1``. Its readers know nothing of what
may change; :mod:`cprlib.evidence.allowed_differences` does. So a defect of a kind that no check looks for is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from cprlib.errors import InstrumentError, QmpRefused
from cprlib.evidence.allowed_differences import AllowedDifference
from cprlib.evidence.records import Check, Comparison, Difference, EquivalenceRecord, Outcome
from cprlib.update.mechanism import Mechanism

Values = Mapping[str, str]
ABSENT = "absent"
SHOWN = 4  # differences in the text of a check
MAX_DIFFERENCES = 500  # in the evidence: the guest has a say in some of the values
EXPECTED = {Comparison.DEVICE_STATE: "each device sends the state that it received in the update before"}
LONGEST_VALUE, LONGEST_PATH, CONTEXT = 240, 240, 40  # characters


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One state.

    :param values: by path, of all sides.
    :param unread: sides that could not be read, with the reason.
    """

    values: Values
    unread: Mapping[str, str] = field(default_factory=dict)

    @property
    def sides(self) -> set[str]:
        """The sides that were read, or could not be."""
        return {side_of(path) for path in self.values} | set(self.unread)

    def of_sides(self, sides: Iterable[str]) -> Snapshot:
        """Only some sides."""
        chosen = set(sides)
        values = {path: value for path, value in self.values.items() if side_of(path) in chosen}
        return Snapshot(values, {side: reason for side, reason in self.unread.items() if side in chosen})

    def updated(self, later: Snapshot) -> Snapshot:
        """The state in which the sides of a later one replace its own."""
        old = self.of_sides(self.sides - later.sides)
        return Snapshot({**old.values, **later.values}, {**old.unread, **later.unread})


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
    for side, read in readers.items():
        try:
            values |= {f"{side}/{path}": value for path, value in read().items()}
        except (InstrumentError, QmpRefused) as error:
            unread[side] = error.one_line()
        except OSError as error:
            unread[side] = str(error)
    return Snapshot(values, unread)


def compare(
    before: Snapshot,
    after: Snapshot,
    comparison: Comparison,
    mechanism: Mechanism,
    allowed: Iterable[AllowedDifference],
    subject: str = "",
) -> EquivalenceRecord:
    """Compare two states. A side that one of them lacks is not compared.

    :param allowed: differences that are no finding.
    :param subject: what happened between them, for the report.
    """
    unread = {**before.unread, **after.unread}
    applicable = [item for item in allowed if item.applies_to(comparison, mechanism)]
    found: list[Difference] = []
    compared = passed = 0
    for path in dict.fromkeys((*before.values, *after.values)):
        if side_of(path) in unread:
            continue
        compared += 1
        old, new = before.values.get(path), after.values.get(path)
        if old == new:
            continue
        if any(item.matches(path) for item in applicable):
            passed += 1
        else:
            found.append(_difference(path, old, new))
    return EquivalenceRecord(comparison, subject, compared, passed, tuple(found[:MAX_DIFFERENCES]), unread)


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
    """A difference in one line."""
    before, after = (ABSENT if value is None else value or "empty" for value in (item.before, item.after))
    return f"{item.path} was {before}, is {after}"


def equivalence_check(record: EquivalenceRecord, name: str) -> Check:
    """No value differs; inconclusive when a side could not be read."""
    expected = EXPECTED.get(record.comparison, "all that can be read of QEMU, process, kernel and guest is as before")
    count = len(record.differences)
    if count:
        shown = "; ".join(difference_text(item) for item in record.differences[:SHOWN])
        more = f"; and {count - SHOWN} more" if count > SHOWN else ""
        observed = f"after {record.subject} {count} of {record.compared} values differ"
        return Check(name, Outcome.FAIL, expected, observed, f"{observed}: {shown}{more}")
    if record.unread or not record.compared:
        reasons = "; ".join(f"{side}: {reason}" for side, reason in record.unread.items())
        return Check(name, Outcome.INCONCLUSIVE, expected, f"not read: {reasons or 'all sides'}")
    return Check(name, Outcome.PASS, expected, f"{record.compared} values, {record.allowed} differ as allowed")
