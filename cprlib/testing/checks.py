"""Record checks, figures and skips of a case; a failure of QEMU or guest becomes a failed check."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from cprlib.errors import (
    Awaited,
    CaseEnded,
    CprlibError,
    DeadlineExceeded,
    GuestFailed,
    NotSupported,
    QemuFailed,
    SkipWord,
    UpdateFailed,
    UsageError,
)
from cprlib.evidence.case import CaseEvidence
from cprlib.evidence.equivalence import equivalence_check
from cprlib.evidence.records import Check, EquivalenceRecord, FaultRecord, Outcome, Role, Stream
from cprlib.qemu.wrapper import last_message
from cprlib.words import listed

TIME = r"^\d{4}-\d\d-\d\dT\S+ "  # before a message of QEMU, by -msg timestamp=on
NIC_ERRORS = (  # net/tap-linux.c, hw/net/virtio-net.c, GLib
    "could not disable queue",
    "could not enable queue",
    "Assertion",
    "assertion failed",
    "requires vnet_hdr",
    "unable to start vhost net",
    "Failed to load",
    "TUNSETSTEERINGEBPF",
)


class CaseChecks:
    """The evidence of one case, and the ways to add to it.

    A check's name is its property in kebab-case: ``no-descriptor-left``. A failed check fails the case.

    Checks before the first update are control steps. A failed control step is inconclusive, and so is a later failure
    of the same property. :meth:`qemu_step` marks steps whose failure counts against QEMU without an update.

    :param folder: the case's folder, where its files go.
    :param stop_at: pattern of the failed check that ends the case, as ``NAME: TEXT``; empty for none.
    """

    def __init__(self, folder: Path, evidence: CaseEvidence, stop_at: str = "") -> None:
        self.folder = folder
        self.evidence = evidence
        self._stop_at = stop_at
        self._control = evidence.role is Role.CONTROL_RUN
        self._qemu_step = False
        self._fault = ""
        self._failed_controls: dict[str, str] = {}  # property: name of the check that failed in a control step
        self._said_at_boot: tuple[str, ...] = ()  # of NIC_ERRORS

    @property
    def update_begun(self) -> bool:
        """Whether an update of the case's guest has begun, successful or not."""
        return bool(self.evidence.updates)

    @property
    def counts_against_qemu(self) -> bool:
        """Whether a failure now is QEMU's: an update has begun, or the step examines QEMU without one."""
        return self.update_begun or (self._qemu_step and not self._control)

    def expect(
        self,
        name: str,
        good: bool,
        expected: object,
        observed: object,
        meaning: str = "",
        *,
        when: str = "",
        family: str = "",
    ) -> None:
        """Add a check.

        :param meaning: what a failure means; the report shows expected and observed without one.
        :param when: step of the test (``after-update``), for a property that is checked at several; it ends the name.
        :param family: property by which reports group checks; ``name`` when empty.
        """
        outcome = Outcome.PASS if good else Outcome.FAIL
        full_name = f"{name}-{when}" if when else name
        family = family or (name if when else "")
        self._add(name, Check(full_name, outcome, str(expected), str(observed), "" if good else meaning, family))

    def expect_equal(
        self, name: str, observed: object, expected: object, meaning: str = "", *, when: str = "", family: str = ""
    ) -> None:
        """Add a check that passes when both are equal.

        :param meaning: what a difference means; both values are added to it.
        :param when, family: as for :meth:`expect`.
        """
        seen, required = shown(observed), shown(expected)
        text = meaning and f"{meaning}: expected {required}, observed {seen}"
        self.expect(name, observed == expected, required, seen, text, when=when, family=family)

    def expect_empty(
        self,
        name: str,
        problems: Iterable[object],
        expected: object,
        meaning: str = "",
        *,
        when: str = "",
        family: str = "",
    ) -> None:
        """Add a check that passes when there is no problem.

        :param expected: what holds then. :param meaning: what a problem means; the problems are added to it.
        :param when, family: as for :meth:`expect`.
        """
        text = listed(problems)
        meaning = f"{meaning}: {text}" if meaning else text
        self.expect(name, not text, expected, text or "no problem", meaning, when=when, family=family)

    def inconclusive(self, name: str, expected: object, reason: str) -> None:
        """Add a check that could not be made: the case is inconclusive."""
        self.add_checks(Check(name, Outcome.INCONCLUSIVE, str(expected), reason))

    def require(self, name: str, holds: bool, expected: object, observed: object, reason: str = "") -> bool:
        """Add a check of a condition of the test itself: inconclusive when it does not hold.

        :param reason: why nothing is known then; what was observed if empty.
        :returns: whether it holds.
        """
        if holds:
            self.expect(name, True, expected, observed)
        else:
            self.inconclusive(name, expected, reason or str(observed))
        return holds

    def add_checks(self, *checks: Check) -> None:
        for check in checks:
            self._add(check.name, check)

    def _add(self, property_name: str, check: Check) -> None:
        """Add a check of a property; a failure that its control step explains is inconclusive.

        :raises CaseEnded: it failed, and the run asked to stop at it.
        """
        if self._fault:
            property_name, family = self._full_name(property_name), check.family or check.name
            check = replace(check, name=self._full_name(check.name), family=family, fault=self._fault)
        if check.outcome is Outcome.FAIL:
            text = check.text
            if not self.counts_against_qemu:
                self._failed_controls.setdefault(property_name, check.name)
                text = f"not caused by an update, since none has begun: {text}"
                check = replace(check, outcome=Outcome.INCONCLUSIVE, message=text)
            elif control := self._failed_controls.get(property_name):
                text = f"not shown to be caused by the update, since {control} failed before it: {text}"
                check = replace(check, outcome=Outcome.INCONCLUSIVE, message=text)
        self._record(check)
        self.end_at(check)

    def end_at(self, check: Check) -> None:
        """End the case at a failed check where its run asks for that.

        :raises CaseEnded: it does.
        """
        found = f"{check.name}: {check.text}"
        if check.outcome is Outcome.FAIL and self._stop_at and re.search(self._stop_at, found):
            raise CaseEnded(f"continue with {self.evidence.id}", f"it stops at the failed check {check.name}")

    def _record(self, check: Check) -> None:
        """Add a check as it is; a failed one is written at once, as Avocado may kill a test that takes too long."""
        self.evidence = self.evidence.with_checks(check)
        if check.outcome is Outcome.FAIL:
            self.write()

    def write(self) -> None:
        """Write the evidence into the case's folder."""
        replace(self.evidence, finished_ns=time.time_ns()).write(self.folder)

    def write_unfinished(self) -> None:
        """Write the evidence so far: inconclusive or failed, in case that the test is killed or its time is over."""
        reason = "the test was interrupted after this"
        unfinished = Check("test-ends", Outcome.INCONCLUSIVE, "the test ends", "it has not", reason)
        replace(self.evidence.with_checks(unfinished), finished_ns=time.time_ns()).write(self.folder)

    def add_stream(self, stream: Stream, *checks: Check) -> None:
        """Add what was seen of a stream that ran beside the measured one."""
        self.evidence = replace(self.evidence, streams=(*self.evidence.streams, stream))
        self.add_checks(*checks)

    def add_fault(self, fault: FaultRecord) -> None:
        self.evidence = replace(self.evidence, faults=(*self.evidence.faults, fault))
        self.write_unfinished()

    def add_equivalence(self, record: EquivalenceRecord, name: str) -> None:
        """Add two states that were compared, and the check that they do not differ.

        :param name: the check's.
        """
        record = replace(record, check=self._full_name(name))
        self.evidence = replace(self.evidence, equivalence=(*self.evidence.equivalence, record))
        self.add_checks(equivalence_check(record, name))

    def skip_check(self, name: str, expected: object, reason: str) -> None:
        """Add a check that this QEMU or host does not allow; policies say whether that is all right.

        :param name: as ``skips.allow_checks`` of the policies has it.
        :param reason: what is missing.
        """
        self.add_checks(Check(name, Outcome.SKIP, str(expected), reason))

    def note(self, name: str, value: str | int | float | bool | None) -> None:
        """Add a figure to the case's parameters in the report."""
        parameters = self.evidence.parameters
        more = {**parameters.more, name: value}
        self.evidence = replace(self.evidence, parameters=replace(parameters, more=more))

    def warn(self, text: str) -> None:
        """Add a remark that does not change the verdict."""
        self.evidence = replace(self.evidence, warnings=(*self.evidence.warnings, text))

    def skip(self, word: SkipWord, reason: str) -> None:
        """Say why the case did not run.

        :param word: kind of the reason.
        """
        self.evidence = replace(self.evidence, skipped=reason, skip_word=word)

    @contextlib.contextmanager
    def control_step(self) -> Iterator[None]:
        """A control step before the first update, also inside :meth:`qemu_step`: no failure counts against QEMU.

        Once an update has begun, each failure counts here too: an updated guest must not die of being examined.
        """
        control, self._control = self._control, True
        yield
        self._control = control  # not after a failure: expect_survival() has to know where it happened

    @contextlib.contextmanager
    def qemu_step(self) -> Iterator[None]:
        """A step that the case is about, such as a refused ``netdev_add``: a failure counts against QEMU."""
        before, self._qemu_step = self._qemu_step, True
        yield
        self._qemu_step = before  # not after a failure, as above

    @contextlib.contextmanager
    def after_fault(self, name: str) -> Iterator[None]:
        """Checks in the body are those of a fault: their names begin with its name."""
        before, self._fault = self._fault, name
        try:
            yield
        finally:
            self._fault = before

    def _full_name(self, name: str) -> str:
        return f"{self._fault}-{name}" if self._fault else name

    @contextlib.contextmanager
    def expect_survival(self, name: str = "survives") -> Iterator[None]:
        """A QEMU or guest that dies, refuses or hangs in the body ends it and is a failed check.

        Whatever error the body ends with, a QEMU that has died or does not respond is its cause.
        :meth:`LiveUpdateTest.given_guest` does this for the whole test.

        :raises Exception: an error of the harness's own, while every QEMU is well.
        """
        expected = "no QEMU or guest dies, hangs or refuses a command"
        try:
            yield
        except (CaseEnded, NotSupported, UsageError):
            raise
        except Exception as error:
            failure = self.qemu_failure()
            if not (failure or is_qemu_or_guest_failure(error)):
                raise
            self._add_failure(name, expected, error, failure)
        else:
            self.expect(name, True, expected, "none did")

    def _add_failure(self, name: str, expected: str, error: Exception, failure: str) -> None:
        happened = error.happened if isinstance(error, CprlibError) else f"{type(error).__name__}: {error}"
        details = error.details if isinstance(error, CprlibError) else ""
        text = error.one_line() if isinstance(error, CprlibError) else happened
        said = self._nic_errors(f"{happened}\n{details}\n{self.stderr_text()}")
        said = said or [without_time(line) for line in details.strip().splitlines()[-1:]]
        message = text + (f": {said[0]}" if said and said[0] not in happened else "")
        if failure:
            message = f"{failure}; seen as: {message}"
        elif cause := self.external_cause():
            check = Check(name, Outcome.INCONCLUSIVE, expected, cause, f"{cause}; seen as: {message}")
            self._record(check)
            return
        if self.counts_against_qemu or (failure and self.evidence.mechanism.handling.sends_descriptors):
            # option cpr=on is not in stock QEMU, so a QEMU that dies or hangs with it is always a finding
            check = Check(name, Outcome.FAIL, expected, failure or happened, message)
        else:
            message = f"in a control step, without an update: {message}"
            check = Check(name, Outcome.INCONCLUSIVE, expected, failure or happened, message)
        self._record(check)

    def add_boot_failure(self, error: CprlibError, control: str, *, starts_without_nic: bool = False) -> None:
        """Add that the guest did not boot.

        :param control: why the same guest does not boot without ``cpr=on`` either, or that it was not tried; empty when
            it boots: then the option is at fault.
        :param starts_without_nic: this QEMU does not start with a NIC, whatever its options, on a host that allows it.
        """
        said = without_time(last_message(error.details))
        text = error.one_line() + (f": {said}" if said and said not in error.happened else "")
        if starts_without_nic:
            text = f"QEMU starts only without NICs, although their taps can be opened on this host: {text}"
            outcome = Outcome.FAIL
        elif control:
            outcome, text = Outcome.INCONCLUSIVE, f"it says nothing about an update: {text} ({control})"
        else:
            outcome, text = Outcome.FAIL, f"the same guest boots without cpr=on; with it: {text}"
        self._record(Check("boots", outcome, "the guest boots", error.happened, text))

    def qemu_failure(self) -> str:
        """How a QEMU of the case failed that died or does not respond, with its last message; empty without one."""
        return ""

    def external_cause(self) -> str:
        """A cause outside of QEMU that ended it or its guest: the host's or the guest's kernel had no memory."""
        return ""

    def note_complaints_at_boot(self) -> None:
        """Remember what QEMU complained of while the guest booted, as stock QEMUs do on a macvtap: no update did it."""
        text = self.stderr_text()
        self._said_at_boot = tuple(words for words in NIC_ERRORS if words in text)

    def expect_no_nic_error(self) -> None:
        """Check that no QEMU of the case has complained of its NIC, except as it did while the guest booted."""
        self.expect_empty("no-complaint", self._nic_errors(self.stderr_text())[:1], "no complaint of a QEMU")

    def _nic_errors(self, text: str) -> list[str]:
        """Lines in which a QEMU complains of its NIC, without time stamps, except as while the guest booted."""
        looked_for = [words for words in NIC_ERRORS if words not in self._said_at_boot]
        lines = [line.strip() for line in text.splitlines() if any(words in line for words in looked_for)]
        return [without_time(line) for line in lines]

    def stderr_text(self) -> str:
        """Standard error of the case's QEMUs."""
        paths = sorted(self.folder.glob("stderr-*.log"))
        return "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in paths)


def is_qemu_or_guest_failure(error: Exception) -> bool:
    """Whether an error says that a QEMU or a guest died, refused or hangs; others are the harness's own."""
    if isinstance(error, DeadlineExceeded):
        return error.awaited is not Awaited.HARNESS
    return isinstance(error, UpdateFailed | QemuFailed | GuestFailed)


def is_qemu_failure(error: Exception) -> bool:
    """Whether an error says that a QEMU died, refused or hangs, not its guest."""
    if isinstance(error, DeadlineExceeded):
        return error.awaited is Awaited.QEMU
    return isinstance(error, QemuFailed)


def without_time(line: str) -> str:
    """A line of QEMU's without the time stamp of ``-msg timestamp=on``."""
    return re.sub(TIME, "", line)


def without_time_and_program(line: str) -> str:
    """As :func:`without_time`; both are missing in what QEMU says about a QMP command (util/error-report.c)."""
    return re.sub(rf"{TIME}(?:[^\s:]+: )?", "", line)


def shown(value: object) -> str:
    """A value as a report shows it: ``source 0, target 3``; lists without brackets, an empty one as ``none``."""
    if isinstance(value, Mapping):
        value = [f"{name} {shown(item)}" for name, item in value.items()]
    if isinstance(value, tuple | list | set | frozenset):
        return ", ".join(str(item) for item in value) or "none"
    return str(value)
