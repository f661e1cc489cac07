"""Operations on a running guest, each of which must work after an update as it did before.

An operation that fails is repeated on a guest that was never updated: if it fails there too, the check is inconclusive.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
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
from cprlib.linux.descriptors import changed_counts, read_table
from cprlib.process import kill_group
from cprlib.qemu.nic_state import Facts, differences
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
    :param applies: whether the guest has what it needs; asked before the first update.
    :param missing: what the guest lacks where it does not apply; empty when the test's own settings exclude it.
    :param no_feature: feature of the NIC that the run's options exclude where it does not apply; it is noted.
    """

    name: str
    works: str
    run: Callable[[OperatedGuest], list[str]]
    applies: Callable[[OperatedGuest], bool] = lambda _guest: True
    missing: str = ""
    no_feature: str = ""


@dataclass(frozen=True, slots=True)
class OperationResult:
    """How one operation went.

    :param when: the step of the test, which ends the name of the check: ``after-update``.
    :param problems: what did not work; :param unknown: why nothing can be said.
    :param took_ms: with the look at the guest's traffic afterwards.
    """

    operation: Operation
    when: str
    problems: tuple[str, ...] = ()
    unknown: str = ""
    took_ms: float = 0.0

    def check(self, without_update: str = "") -> Check:
        """The check of the operation.

        :param without_update: what fails on a guest that was never updated; empty when it works there or was not tried.
        """
        name, words = f"{self.operation.name}-{self.when}", f"{self.operation.name} {self.when}".replace("-", " ")
        expected, found = f"{self.operation.works}; all queues answer afterwards", listed(self.problems)
        if self.unknown:
            return Check(name, Outcome.INCONCLUSIVE, expected, self.unknown)
        if found and without_update:
            reason = f"{found}; on a guest without an update: {without_update}"
            return Check(name, Outcome.INCONCLUSIVE, expected, reason)
        return Check.of(name, not found, expected, found or f"it works ({self.took_ms:.0f} ms)", f"{words}: {found}")


def run_operations(
    guest: OperatedGuest,
    when: str,
    operations: Sequence[Operation],
    look_at: Callable[[OperationResult], None] = lambda _result: None,
) -> tuple[list[OperationResult], bool]:
    """Run operations one after the other; after one that leaves the guest silent, nothing is known of the others.

    :param look_at: takes each result before the next operation.
    :returns: also whether all flows of the guest answer at the end.
    """
    results: list[OperationResult] = []
    unknown = ""
    for operation in operations:
        if unknown:
            result = OperationResult(operation, when, unknown=unknown)
        else:
            result, answers = _run(guest, when, operation)
            unknown = "" if answers else f"the guest's traffic failed after {operation.name}"
        results.append(result)
        look_at(result)
    return results, not unknown


def _run(guest: OperatedGuest, when: str, operation: Operation) -> tuple[OperationResult, bool]:
    """Run an operation and look at the guest's traffic; also returns whether all its flows answer."""
    first = guest.machine
    said, begun = len(first.output), time.monotonic()
    problems: list[str] = []
    unknown, answers = "", False
    taps: list[Facts] = []

    def look_at_tap(guest: OperatedGuest) -> list[str]:
        """How the kernel's side of the tap has changed; without offloads a NIC is slow, and loses nothing."""
        taps.append(guest.tap_facts())
        return [f"its tap: {change}" for change in differences(taps[0], taps[-1])]

    for step in (look_at_tap, operation.run, look_at_tap, OperatedGuest.traffic_problems):
        answers = False
        if not guest.machine.settings.netdevs:
            break  # the operation has said that the netdev cannot be added again
        try:
            found = step(guest)
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
        machine = guest.machine  # an operation may update the guest
        if (status := machine.exit_status()) is not None:
            problems, answers = [machine.died(f"{operation.name} {when}", status).one_line()], False
            break
    output = guest.machine.output[said if guest.machine is first else 0 :]
    if problems and (words := output.strip().splitlines()):
        problems.append(f"QEMU said: {without_time(words[-1])}")
    took_ms = (time.monotonic() - begun) * 1000
    return OperationResult(operation, when, tuple(problems), "" if problems else unknown, took_ms), answers


ANSWERS = Operation("answers", "every NIC answers before the first operation", lambda _guest: [])
DESCRIPTORS = "descriptors"  # the operation that comes last


def with_descriptor_count(guest: OperatedGuest, operations: Sequence[Operation]) -> tuple[Operation, ...]:
    """The operations, on a guest that answers, and a count of QEMU's descriptors after the last."""
    before = read_table(guest.machine.pid).count_by_kind()

    def leaked(guest: OperatedGuest) -> list[str]:
        return changed_counts(before, read_table(guest.machine.pid).count_by_kind())

    works = "as many descriptors of each kind as before the operations"
    return (ANSWERS, *operations, Operation(DESCRIPTORS, works, leaked))


class CheckedOperations:
    """Runs operations on a case's guest; created by :func:`checked_operations`, before the first update.

    :param operations: that may be run; an update that takes away what one of them needs must not exclude it.
    :ivar excluded: the names of those that do not apply.
    """

    def __init__(self, case: MeasuredCase, guest: OperatedGuest, operations: Sequence[Operation]) -> None:
        self.excluded = frozenset(operation.name for operation in operations if not operation.applies(guest))
        self._case = case
        self._guest = guest
        self._settings = guest.machine.settings  # also of the guest that is not updated
        self._results: list[OperationResult] = []
        for operation in operations:
            if operation.name in self.excluded and operation.no_feature:
                case.note(f"operation {operation.name}", f"not tested: the guest's NIC has no {operation.no_feature}")

    def run(self, when: str, operations: Sequence[Operation]) -> bool:
        """Run operations one after the other, each on a guest that answers; the rest is inconclusive after one of them.

        :param when: the step of the test, for the checks' names: ``after-update``.
        :returns: whether the guest still answers.
        :raises CaseEnded: an operation failed at which the run is to stop.
        """
        for operation in operations:
            if operation.name in self.excluded and operation.missing:
                self._case.skip_check(f"{operation.name}-{when}", operation.works, operation.missing)
        chosen = [operation for operation in operations if operation.name not in self.excluded]
        operations = with_descriptor_count(self._guest, chosen)
        return run_operations(self._guest, when, operations, self._add_result)[1]

    def _add_result(self, result: OperationResult) -> None:
        self._results.append(result)
        self._case.end_at(result.check())

    def add_checks(self) -> None:
        """Add a check for each operation; repeat those that failed on a guest that was never updated."""
        last = max((index for index, item in enumerate(self._results) if item.problems), default=-1)
        control = self._repeat([item.operation for item in self._results[: last + 1]]) if last >= 0 else {}
        self._case.add_checks(*(item.check(control.get(item.operation.name, "")) for item in self._results))

    def _repeat(self, operations: Sequence[Operation]) -> dict[str, str]:
        """What fails on a guest that was never updated: the same operations in the same order, each once.

        :returns: the reason by name of the operation.
        """
        case, first = self._case, self._case.guest
        case.frames.wait_qemu_announced()
        kill_group(first.machine.process)  # it would disturb the trace of the taps
        folder = case.folder / "control"
        folder.mkdir()
        path = case.parameters.queue_length, case.parameters.path_mtu
        once = {operation.name: operation for operation in operations}
        own = [operation for name, operation in once.items() if name not in (ANSWERS.name, DESCRIPTORS)]
        try:
            with (
                running_guest(self._settings, first.mechanism, folder, *path) as control,
                operated_guest(control, PortAllocator(), self._guest.used) as guest,
            ):
                results, _ = run_operations(guest, "control", with_descriptor_count(guest, own))
        except CprlibError as error:
            return dict.fromkeys(once, error.one_line())
        return {item.operation.name: listed(item.problems) or item.unknown for item in results}


@contextlib.contextmanager
def checked_operations(
    case: MeasuredCase, guest: OperatedGuest, operations: Sequence[Operation]
) -> Iterator[CheckedOperations]:
    """Let the body run operations on a case's guest; then add their checks, and that no QEMU complained of its NIC.

    :param operations: that may be run.
    """
    checked = CheckedOperations(case, guest, operations)
    try:
        yield checked
    finally:
        checked.add_checks()
    case.expect_no_nic_error()
