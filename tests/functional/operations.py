"""A battery of operations on a running guest, each of which must work after an update as it did before.

An operation that fails is repeated on a guest that was never updated: where it fails there too, it accuses no update.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cprlib.errors import (
    Awaited,
    CprlibError,
    DeadlineExceeded,
    GuestFailed,
    InstrumentError,
    QemuFailed,
    UpdateFailed,
)
from cprlib.evidence.records import Check, Outcome
from cprlib.linux.descriptors import read_table
from cprlib.process import kill_group
from cprlib.testing.checks import without_time
from cprlib.testing.measured_case import MeasuredCase
from cprlib.traffic.flow import PortAllocator
from cprlib.update.running_guest import running_guest
from cprlib.words import listed
from operated_guest import OperatedGuest, operated_guest


@dataclass(frozen=True, slots=True)
class Operation:
    """Something that a guest or its management does at any time.

    :param name: in kebab-case; the names of its checks begin with it.
    :param works: how success is seen, besides traffic on every queue afterwards.
    :param run: does it, undoes it, and returns what did not work.
    :param applies: whether the guest has what it needs.
    """

    name: str
    works: str
    run: Callable[[OperatedGuest], list[str]]
    applies: Callable[[OperatedGuest], bool] = lambda _subject: True


@dataclass(frozen=True, slots=True)
class Attempt:
    """One operation in one situation.

    :param problems: what did not work; :param unknown: why nothing can be said.
    :param took_ms: with the look at the guest's traffic afterwards.
    """

    operation: Operation
    situation: str
    problems: tuple[str, ...] = ()
    unknown: str = ""
    took_ms: float = 0.0

    @property
    def name(self) -> str:
        """Name of its check."""
        return f"{self.operation.name}-{self.situation}"


def attempt_all(subject: OperatedGuest, situation: str, operations: Sequence[Operation]) -> tuple[list[Attempt], bool]:
    """Run operations one after the other; after one that leaves the guest silent, nothing is known of the others.

    :returns: also whether the guest's traffic is as it has to be in the end.
    """
    attempts: list[Attempt] = []
    unknown = ""
    for operation in operations:
        if unknown:  # the guest cannot be asked whether it applies
            attempts.append(Attempt(operation, situation, unknown=unknown))
            continue
        if not operation.applies(subject):
            continue
        attempt, answers = _attempt(subject, situation, operation)
        attempts.append(attempt)
        if not answers:
            unknown = f"the guest's traffic failed after {operation.name}"
    return attempts, not unknown


def _attempt(subject: OperatedGuest, situation: str, operation: Operation) -> tuple[Attempt, bool]:
    """Run an operation and look at the guest's traffic; also returns whether that is as it has to be."""
    first = subject.guest.machine
    said, begun = len(first.output), time.monotonic()
    problems: list[str] = []
    unknown, answers = "", False
    for step in (operation.run, OperatedGuest.problems):
        answers = False
        try:
            found = step(subject)
            problems += found
            answers = not found
        except (UpdateFailed, QemuFailed, GuestFailed) as error:
            problems.append(error.one_line())
        except DeadlineExceeded as error:
            if error.awaited is Awaited.HARNESS:
                unknown = error.one_line()
            else:
                problems.append(error.one_line())
        except InstrumentError as error:
            unknown = error.one_line()
        machine = subject.guest.machine  # an operation may update the guest
        if (status := machine.exit_status()) is not None:
            problems = [machine.died(f"{operation.name} {situation}", status).one_line()]
            break
    machine = subject.guest.machine
    output = machine.output[said:] if machine is first else machine.output
    if problems and (words := output.strip().splitlines()):
        problems.append(f"QEMU said: {without_time(words[-1])}")
    took_ms = (time.monotonic() - begun) * 1000
    return Attempt(operation, situation, tuple(problems), "" if problems else unknown, took_ms), answers


def check_of(attempt: Attempt, without_update: str) -> Check:
    """The check of an operation.

    :param without_update: what fails on a guest that was never updated, where that was tried; empty when nothing did.
    """
    operation = attempt.operation
    expected = f"{operation.works}; all queues answer afterwards"
    if attempt.unknown:
        return Check(attempt.name, Outcome.INCONCLUSIVE, expected, attempt.unknown)
    found = listed(attempt.problems)
    if found and without_update:
        reason = f"{found}; on a guest without an update: {without_update}"
        return Check(attempt.name, Outcome.INCONCLUSIVE, expected, reason)
    meaning = f"{operation.name.replace('-', ' ')} {attempt.situation.replace('-', ' ')}: {found}"
    return Check.of(attempt.name, not found, expected, found or f"it works ({attempt.took_ms:.0f} ms)", meaning)


def _descriptors(subject: OperatedGuest) -> dict[str, int]:
    return read_table(subject.guest.machine.pid).count_by_kind()


def _differences(before: dict[str, int], after: dict[str, int]) -> tuple[str, ...]:
    kinds = sorted({*before, *after})
    return tuple(
        f"{kind}: {before.get(kind, 0)}, then {after.get(kind, 0)}"
        for kind in kinds
        if before.get(kind, 0) != after.get(kind, 0)
    )


ANSWERS = Operation("answers", "every NIC answers before the first operation", lambda _subject: [])


class Battery:
    """Runs operations on a case's guest and adds a check for each; call :meth:`conclude` at the end.

    The guest has not been updated yet when the battery is made: a control guest gets the same settings.
    """

    def __init__(self, case: MeasuredCase, subject: OperatedGuest) -> None:
        self._case = case
        self._subject = subject
        self._settings = subject.guest.machine.settings
        self._attempts: list[Attempt] = []

    def run(self, situation: str, operations: Sequence[Operation]) -> bool:
        """Run operations one after the other, each on a guest that answers; the rest is inconclusive after one of them.

        :param situation: for the checks' names: ``after-update``.
        :returns: whether the guest still answers.
        """
        subject = self._subject
        before = _descriptors(subject)
        attempts, answers = attempt_all(subject, situation, (ANSWERS, *operations))
        self._attempts += attempts
        if not answers:
            return False
        leak = Operation("descriptors", "as many descriptors of each kind as before the operations", ANSWERS.run)
        self._attempts.append(Attempt(leak, situation, _differences(before, _descriptors(subject))))
        return True

    def conclude(self) -> None:
        """Add a check for each operation; repeat those that failed on a guest that was never updated."""
        last = max((index for index, item in enumerate(self._attempts) if item.problems), default=-1)
        control = self._control([item.operation for item in self._attempts[: last + 1]]) if last >= 0 else {}
        checks = [check_of(item, control.get(item.operation.name, "")) for item in self._attempts]
        self._case.add_checks(*checks)

    def _control(self, operations: Sequence[Operation]) -> dict[str, str]:
        """What fails on a guest that was never updated: the same operations in the same order, each once.

        :returns: the reason by name of the operation.
        """
        case, first = self._case, self._case.guest
        kill_group(first.machine.process)  # it would disturb the trace of the taps
        folder = case.folder / "control"
        folder.mkdir()
        once = tuple({operation.name: operation for operation in operations}.values())
        try:
            with (
                running_guest(self._settings, first.mechanism, folder, case.parameters.queue_length) as guest,
                operated_guest(guest, PortAllocator(), self._subject.used) as subject,
            ):
                before = _descriptors(subject)
                attempts, _ = attempt_all(subject, "control", [item for item in once if item.name != "descriptors"])
                leaked = _differences(before, _descriptors(subject))
        except CprlibError as error:
            return {operation.name: error.one_line() for operation in once}
        found = {item.operation.name: listed(item.problems) or item.unknown for item in attempts}
        return found | {"descriptors": listed(leaked)}
