"""What a test notes of a case: checks, figures, skips; and a QEMU or guest that fails becomes a failed check."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from cprlib.errors import Awaited, DeadlineExceeded, GuestFailed, QemuFailed, UpdateFailed
from cprlib.evidence.case import CaseEvidence
from cprlib.evidence.equivalence import equivalence_check
from cprlib.evidence.records import Check, EquivalenceRecord, FaultRecord, Outcome, Role, Stream

COMPLAINTS = (  # net/tap-linux.c, hw/net/virtio-net.c, hw/net/vhost_net.c, GLib
    "could not disable queue",
    "could not enable queue",
    "Assertion",
    "assertion failed",
    "requires vnet_hdr",
    "unable to start vhost net",
    "Failed to load",
)
LISTED = 6  # items of a list that a check shows


class CaseChecks:
    """The evidence of one case, and the ways to add to it.

    A check's name is its property in kebab-case: ``no-descriptor-left``. A failed check fails the case.

    :param folder: the case's folder, where its files go.
    """

    def __init__(self, folder: Path, evidence: CaseEvidence) -> None:
        self.folder = folder
        self.evidence = evidence
        self._control = evidence.role is Role.CONTROL_RUN

    def expect(self, name: str, good: bool, expected: object, observed: object, meaning: str = "") -> None:
        """Add a check.

        :param meaning: what a failure means; the report shows expected and observed without one.
        """
        outcome = Outcome.PASS if good else Outcome.FAIL
        self.add_checks(Check(name, outcome, str(expected), str(observed), "" if good else meaning))

    def expect_equal(self, name: str, observed: object, expected: object, meaning: str = "") -> None:
        """Add a check that passes when both are equal.

        :param meaning: what a difference means; both values are added to it.
        """
        seen, required = shown(observed), shown(expected)
        self.expect(
            name, observed == expected, required, seen, meaning and f"{meaning}: expected {required}, observed {seen}"
        )

    def expect_empty(self, name: str, problems: Iterable[object], expected: object, meaning: str = "") -> None:
        """Add a check that passes when there is no problem.

        :param expected: what holds then. :param meaning: what a problem means; the problems are added to it.
        """
        text = listed(problems)
        self.expect(name, not text, expected, text or "no problem", f"{meaning}: {text}" if meaning else text)

    def inconclusive(self, name: str, expected: object, reason: str) -> None:
        """Add a check that could not be made: the case is inconclusive."""
        self.add_checks(Check(name, Outcome.INCONCLUSIVE, str(expected), reason))

    def add_checks(self, *checks: Check) -> None:
        """Add checks that were made elsewhere."""
        self.evidence = self.evidence.with_checks(*checks)

    def add_stream(self, stream: Stream, *checks: Check) -> None:
        """Add what was seen of a stream that ran beside the measured one."""
        self.evidence = replace(self.evidence, streams=(*self.evidence.streams, stream)).with_checks(*checks)

    def add_fault(self, fault: FaultRecord) -> None:
        """Add a fault that was injected into an update."""
        self.evidence = replace(self.evidence, faults=(*self.evidence.faults, fault))

    def add_equivalence(self, record: EquivalenceRecord, name: str) -> None:
        """Add two states that were compared, and the check that they do not differ.

        :param name: of the check.
        """
        self.evidence = replace(self.evidence, equivalence=(*self.evidence.equivalence, record))
        self.add_checks(equivalence_check(record, name))

    def note(self, name: str, value: str | int | float | bool | None) -> None:
        """Add a figure to the case's parameters in the report."""
        parameters = self.evidence.parameters
        more = {**parameters.more, name: value}
        self.evidence = replace(self.evidence, parameters=replace(parameters, more=more))

    def skip(self, word: str, reason: str) -> None:
        """Say why the case did not run.

        :param word: kind of the reason; policies allow or refuse it.
        """
        self.evidence = replace(self.evidence, skipped=reason, skip_word=word)

    @contextlib.contextmanager
    def without_update(self) -> Iterator[None]:
        """A control step: a QEMU or guest that fails in the body, before any update, makes the case inconclusive."""
        control, self._control = self._control, True
        yield
        self._control = control  # not after a failure: survives() has to know where it happened

    @contextlib.contextmanager
    def survives(self, name: str = "survives") -> Iterator[None]:
        """A QEMU or guest that dies, refuses or hangs in the body ends it and is a failed check.

        :meth:`LiveUpdateTest.given_guest` does this for the whole test.

        :raises DeadlineExceeded: for a deadline of the harness's own.
        """
        expected = "QEMU and guest do what the test asks of them"
        try:
            yield
        except (UpdateFailed, QemuFailed, GuestFailed, DeadlineExceeded) as error:
            if isinstance(error, DeadlineExceeded) and error.awaited is Awaited.HARNESS:
                raise
            said = complaints(f"{error.happened}\n{error.details}\n{self.last_words()}")
            said = said or [without_time(line) for line in error.details.strip().splitlines()[-1:]]
            message = error.one_line() + (f": {said[0]}" if said and said[0] not in error.happened else "")
            if self._control and not self.evidence.updates:
                self.inconclusive(name, expected, f"in a control step, without an update: {message}")
            else:
                self.expect(name, False, expected, error.happened, message)
        else:
            self.expect(name, True, expected, "they did")

    def expect_no_complaint(self) -> None:
        """Check that no QEMU of the case has complained of its NIC."""
        self.expect_empty("no-complaint", complaints(self.last_words())[:1], "no complaint of a QEMU")

    def last_words(self) -> str:
        """What the QEMUs of the case wrote to standard error."""
        paths = sorted(self.folder.glob("stderr-*.log"))
        return "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in paths)


def complaints(text: str) -> list[str]:
    """Lines in which a QEMU complains of its NIC, without time stamps."""
    lines = [line.strip() for line in text.splitlines() if any(words in line for words in COMPLAINTS)]
    return [without_time(line) for line in lines]


def without_time(line: str) -> str:
    """A line of QEMU's without the time stamp of ``-msg timestamp=on``."""
    return re.sub(r"^\d{4}-\d\d-\d\dT\S+ ", "", line)


def listed(items: Iterable[object]) -> str:
    """The first items as text."""
    texts = [str(item) for item in items]
    return "; ".join(texts[:LISTED]) + (f"; and {len(texts) - LISTED} more" if texts[LISTED:] else "")


def shown(value: object) -> str:
    """A value as a report shows it: ``source 0, target 3``; lists without brackets, an empty one as ``none``."""
    if isinstance(value, Mapping):
        value = [f"{name} {shown(item)}" for name, item in value.items()]
    if isinstance(value, tuple | list | set | frozenset):
        return ", ".join(str(item) for item in value) or "none"
    return str(value)
