"""A case with a guest: its updates and what they changed, and which QEMU failed."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from cprlib.errors import CprlibError, DeadlineExceeded, InstrumentError, QemuFailed, UpdateFailed
from cprlib.evidence.case import CaseEvidence
from cprlib.evidence.equivalence import Snapshot
from cprlib.evidence.guest_checks import death_checks, starvation_checks
from cprlib.evidence.records import Check, FaultRecord, Outcome, StatePair
from cprlib.evidence.repeated_updates import numbered_check, numbered_row
from cprlib.evidence.sent_files import sent_files_check
from cprlib.evidence.update_checks import (
    delay_checks,
    descriptor_count,
    descriptor_rows,
    end_checks,
    fault_record_of,
    hand_over_checks,
    order_checks,
    vhost_checks,
)
from cprlib.guest.console import Console
from cprlib.qemu.binary import QemuBinary
from cprlib.qemu.command_line import MachineSettings
from cprlib.qemu.netdev import TapNetdev
from cprlib.testing.checks import CaseChecks, is_qemu_or_guest_failure, without_time, without_time_and_program
from cprlib.testing.equivalence import FROZEN_SIDES, compare_device_states, compare_state, read_compared, read_state
from cprlib.testing.watch import FrameWatch, TrafficWatch
from cprlib.traffic.other_frames import OtherFrames
from cprlib.update.events import Who
from cprlib.update.fault_injection import inject_fault
from cprlib.update.faults import PLAIN, TARGET_SETTINGS, Fault, Survivor, faults_in
from cprlib.update.hooks import RecordMainChannel, RecordSentFds
from cprlib.update.live_update import UpdateHook
from cprlib.update.mechanism import Mode
from cprlib.update.outcome import RESUME_S
from cprlib.update.results import FaultResult, UpdateResult
from cprlib.update.running_guest import RunningGuest
from cprlib.update.saved_guest import save_device_state


class GuestCase(CaseChecks):
    """A guest, its updates, and what was seen of them."""

    def __init__(self, folder: Path, evidence: CaseEvidence, stop_at: str = "") -> None:
        super().__init__(folder, evidence, stop_at)
        self._guest: RunningGuest | None = None
        self._frames: FrameWatch | None = None
        self._watch: TrafficWatch | None = None  # while traffic is measured
        self._notes: list[str] = []
        self._between_qemus = False
        self.compares_states = True
        """Whether the state before and after each update is compared; False for a guest that changes it itself."""

    @property
    def guest(self) -> RunningGuest:
        if self._guest is None:
            raise InstrumentError("use the guest", "it was not started")
        return self._guest

    @guest.setter
    def guest(self, guest: RunningGuest) -> None:
        self._guest = guest
        self._frames = FrameWatch(guest, guest.stack.enter_context(OtherFrames(guest.topology.station)))

    @property
    def frames(self) -> FrameWatch:
        """The guest's frames other than test packets."""
        if self._frames is None:
            raise InstrumentError("look at the frames of the guest", "it was not started")
        return self._frames

    def _read_state(self) -> Snapshot | None:
        return read_compared(self.guest) if self.compares_states else None

    def live_update(
        self,
        qemu: QemuBinary | None = None,
        *,
        label: str = "",
        target: MachineSettings | None = None,
        note: str = "",
        hooks: Sequence[UpdateHook] = (),
        check: str = "update-completes",
        may_be_refused: bool = False,
    ) -> UpdateResult:
        """Update the guest and add what was seen to the evidence.

        :param qemu: QEMU of the target; the source's when None.
        :param label: prefix of the names of this update's checks. With a label the files that were sent are checked
            too, and the times between the update's steps only under traffic. If ``target`` or ``hooks`` are given as
            well, the states before and after are not compared, nor is what both QEMUs say: both arguments change them.
            With another QEMU neither is compared, label or not; in mode ``cpr-exec`` only the states are.
        :param target: settings of the target; the source's when None.
        :param note: for the report of a case with several updates.
        :param check: name of the check that fails when the update does; ``LABEL-update`` with a label.
        :param may_be_refused: ``UpdateFailed`` fails no check: the test judges it.
        :raises UpdateFailed, QemuFailed, DeadlineExceeded: the update failed, which is in the evidence then.
        """
        source, expected = self.guest.machine, "the guest runs in the target"
        netdevs, said, known = source.settings.netdevs, source.mark_messages(), _lines(source.messages)
        has_channel = self.evidence.mechanism.handling.sends_descriptors and self.guest.mode is not Mode.CPR_EXEC
        files = RecordSentFds() if label and has_channel else None
        check = f"{label}-update" if label else check
        self.frames.note_nics()
        other_qemu = qemu is not None and qemu != source.settings.qemu
        self._between_qemus |= other_qemu
        changed = bool(label) and (target is not None or bool(hooks))
        with self.control_step():
            state = None if other_qemu or self._watch or changed else self._read_state()
            if self._watch:
                self._watch.before_update()
        try:
            given = [*hooks, files] if files else hooks  # a test's own hooks may replace the channels
            update = self.guest.live_update(qemu, target, given)
        except (UpdateFailed, QemuFailed, DeadlineExceeded) as error:
            self.add_events()
            if not is_qemu_or_guest_failure(error) or (may_be_refused and isinstance(error, UpdateFailed)):
                raise
            message, family = f"{error.one_line()}{_said(error)}", "update-completes"
            if (cause := self.external_cause()) and not self.qemu_failure():
                message = f"{cause}; seen as: {message}"
                self.add_checks(Check(check, Outcome.INCONCLUSIVE, expected, cause, message, family))
            else:
                self.expect(check, False, expected, error.happened, message, family=family)
            if files and files.sent:
                self.add_checks(labelled(sent_files_check(netdevs, files.sent, files.state, source.removed), label))
            raise
        if label:
            self.expect(check, True, expected, "it does", family="update-completes")
            # a test that made system calls or commands fail before has checked what its source said of them
            update = replace(update, source_messages=source.messages_since(said))
            self.guest.updates[-1] = update
        if self._watch:
            self._watch.updates.append(update)
        others = {item.interface for item in (*netdevs, *self.guest.machine.settings.netdevs) if item.cpr is False}
        self.add_update(update.without_taps(others) if others else update, netdevs, note, label)
        if files:
            self.add_checks(labelled(sent_files_check(netdevs, files.sent, files.state, source.removed), label))
        if not (other_qemu or changed) and self.guest.mode is not Mode.CPR_EXEC:
            new = sorted(_lines(f"{source.messages}\n{self.guest.machine.messages}") - known)
            name, message = f"{label}-no-new-message" if label else "no-new-message", "; ".join(new)
            expected = "source and target say nothing that the source has not said before"
            self.expect(name, not new, expected, message or "nothing", message, family="no-new-message")
        name = f"{label}-equivalent" if label else "equivalent-after-update"
        self.expect_same_state(state, StatePair.UPDATE, name, label or f"update {len(self._notes)}")
        return update

    def inject_fault(self, fault: Fault, *, name: str = "", hooks: Sequence[UpdateHook] = ()) -> FaultResult:
        """Update the guest with a fault, record it, and check that the fault was reached.

        In an ordinary migration it is the fault that comes closest (:func:`faults_in`). A source that has to survive
        must have its run state again, unless the update completed without its fault.

        :param name: of this fault in the case; its own when empty.
        :param hooks: further ones of the update.
        :raises DeadlineExceeded: the update did not end.
        :raises UpdateFailed: it failed although the target had to get the guest.
        """
        (fault,) = faults_in(self.guest.mode, [fault])
        fault = replace(fault, name=name or fault.name)
        self.note_errors()
        try:
            result = inject_fault(self.guest, fault, hooks)
        except CprlibError as error:
            self.add_fault(FaultRecord(fault, error=error.one_line()))
            raise
        self.add_fault(fault_record_of(result))
        with self.after_fault(result.fault.name):
            self.expect_reached(result)
            if fault.survivor is Survivor.SOURCE and not result.completed_without_fault:
                self.expect_equal("source-runs", result.state_after, result.state_before, "the source's run state")
        return result

    def note_errors(self) -> None:
        """Under traffic, note the error counters before an update that is to fail: what rises from now on counts."""
        if self._watch:
            with self.control_step():
                self._watch.note_errors()

    def resumed_state(self) -> str:
        """Run state of the guest's QEMU, which gets time to run the guest again after a failed update."""
        with contextlib.suppress(DeadlineExceeded):  # the state is judged
            self.guest.machine.wait_status("running", seconds=RESUME_S)
        return self.guest.machine.status()

    def expect_reached(self, result: FaultResult) -> None:
        """Add a check when an update ended before its fault's phase; one that failed by itself accuses QEMU."""
        if result.reached:
            return
        fault, name, expected = result.fault, "reached", f"phase {result.fault.phase}"
        if result.migration == "failed" and fault.action not in TARGET_SETTINGS:
            seen = f"the migration failed: {result.error or 'no reason'}"
            meaning = f"the update failed before phase '{fault.phase}', undisturbed: {seen}"
            self.expect(name, False, expected, seen, meaning)
        else:
            moved = "; the update completed without the fault, and the guest is in the target"
            self.inconclusive(name, expected, result.not_reached + (moved if result.completed_without_fault else ""))

    def expect_same_state(
        self, before: Snapshot | None, comparison: StatePair, name: str, subject: str, sides: Iterable[str] = ()
    ) -> None:
        """Check that everything that can be read of QEMU, process, kernel and guest is as before.

        :param before: None when nothing is compared.
        :param name: the check's.
        :param subject: what has happened since, for the report.
        :param sides: that are compared; all when empty.
        """
        if before is not None:
            self.add_equivalence(compare_state(self.guest, before, comparison, subject, sides), name)

    def expect_same_device_state(self, streams: Sequence[bytes]) -> None:
        """Check that each update sends the device state that the update before has sent.

        :param streams: those of the main channels, in order, as :class:`RecordMainChannel` keeps them.
        """
        for number, (earlier, later) in enumerate(itertools.pairwise(streams), 1):
            pair = StatePair.DEVICE_STATE
            record = compare_device_states(self.guest, earlier, later, pair, f"update {number}")
            self.add_equivalence(record, "device-state-is-sent-again")

    def expect_device_state_kept(self, sent: bytes) -> None:
        """Check that the guest's QEMU would send the device state that it was sent by the update. Ends the guest.

        To send it, the guest is paused and updated. It does not run in that target either: memory, registers and device
        state are exactly the same there.

        :param sent: stream of the update's main channel, by :class:`RecordMainChannel`.
        """
        guest, recorded, subject = self.guest, RecordMainChannel(), "an update of the paused guest"
        guest.machine.qmp.execute("stop")
        frozen = read_state(guest, FROZEN_SIDES)
        result = inject_fault(guest, replace(PLAIN, name="paused"), hooks=[recorded])
        observed = (result.migration, result.state_after)
        self.expect_equal("paused-update", observed, ("completed", "paused"), result.error or "no error")
        self.expect_same_state(frozen, StatePair.PAUSED, "paused-memory-and-registers-kept", subject)
        self.expect_same_device_state([sent, recorded.stream])
        later = save_device_state(guest.machine, guest.mechanism)
        record = compare_device_states(guest, recorded.stream, later, StatePair.PAUSED, subject)
        self.add_equivalence(record, "paused-device-state-is-kept")

    def add_update(self, update: UpdateResult, netdevs: Sequence[TapNetdev], note: str = "", label: str = "") -> None:
        """Add what was seen of an update to the evidence.

        :param netdevs: the source's, as they were before the update.
        :param note, label: as for :meth:`live_update`.
        """
        handling = self.evidence.mechanism.handling
        netdevs = [item for item in netdevs if item.cpr or not handling.sends_descriptors]
        self._notes.append(note)
        number = len(self._notes)
        checks = (
            *(hand_over_checks(update, netdevs) if handling.same_files else ()),
            *vhost_checks(update, netdevs),
            *order_checks(update),
            *end_checks(update),
            *(() if self._watch or label else delay_checks(update)),  # under traffic when the control run is known
        )
        named = [labelled(check, label) if label else numbered_check(check, number) for check in checks]
        rows = descriptor_rows(update, netdevs)
        known = [item for item in (self.evidence.qemu_downtime_ms, update.downtime_ms) if item is not None]
        self.evidence = replace(
            self.evidence,
            updates=(self.evidence.updates or 0) + 1,
            timeline=(*self.evidence.timeline, *update.events),
            descriptors=(*self.evidence.descriptors, *(numbered_row(row, number) for row in rows)),
            fds=descriptor_count(update),
            qemu_downtime_ms=max(known, default=None),
        )
        self.add_checks(*named)
        self.write_unfinished()

    def write_unfinished(self) -> None:
        """As :meth:`CaseChecks.write_unfinished`, except while traffic is measured, which it would delay."""
        if self._watch is None:
            super().write_unfinished()

    def add_fault(self, fault: FaultRecord) -> None:
        """Add a fault, and the events of the latest update."""
        self.add_events()
        super().add_fault(fault)

    def add_events(self) -> None:
        """Add the events of the latest update, which has failed or had a fault; none of them twice."""
        if update := self._guest and self._guest.latest_update:
            known = self.evidence.timeline
            shared = update.mode is Mode.CPR_EXEC  # one QMP connection: no target has sent what a failed exec shows
            own = (event for event in update.timeline if not (shared and event.who is Who.TARGET))
            self.evidence = replace(self.evidence, timeline=(*known, *(event for event in own if event not in known)))

    def stderr_text(self) -> str:
        """Standard error of the case's QEMUs, and the rest of the last one's log."""
        said = CaseChecks.stderr_text(self)
        return f"{said}\n{self._guest.machine.messages}" if self._guest else said

    @property
    def update_begun(self) -> bool:
        return bool(self.evidence.updates or (self._guest and self._guest.latest_update))

    def qemu_failure(self) -> str:
        """How a QEMU failed that died or does not respond; empty when every one is well.

        One whose guest ran out of memory is well: it ended when the guest did.
        """
        if self._guest is None:
            return ""
        update = self._guest.latest_update
        refusal = bool(update and (update.expects_failure or update.failed))
        machines = [item for item in self._guest.machines if not Console(item.files.console).ran_out_of_memory()]
        failures = (item.failure(may_end=refusal and item.incoming) for item in machines)
        return next(filter(None, failures), "")

    def external_cause(self) -> str:
        for machine in self._guest.machines if self._guest else ():
            name = machine.name
            if Console(machine.files.console).ran_out_of_memory():
                return f"the guest in the {name} ran out of memory: give it more (-p memory=MiB)"
            if (ended_by := machine.killing_signal()) and not machine.process.killed_here:
                return f"the {name} was killed from outside by {ended_by}: did this machine run out of memory (dmesg)?"
        return ""

    def check_frames(self) -> None:
        """Add the checks of all frames other than test packets, at the end of the case.

        Not where QEMUs share open files: a target that starts sets another header for what the source still sends.
        """
        if (self.guest.updates or self.evidence.faults) and not self.guest.mechanism.handling.shares_fds:
            self.add_checks(*self.frames.checks(self.evidence))

    def note_death(self) -> None:
        """Add it to the evidence when a QEMU crashed, or the guest's kernel died or got no processor time."""
        control_run_ms = self.evidence.instrument.control_run_interruption_ms
        starved = starvation_checks(self.folder, control_run_ms, failed_update=bool(self.evidence.faults))
        self.evidence = self.evidence.with_checks(*death_checks(self.folder, self.counts_against_qemu), *starved)


def labelled(check: Check, label: str) -> Check:
    """A check of an update under the name of that update: ``first-descriptors-same-file``."""
    return replace(check, name=f"{label}-{check.name}", family=check.name)


def _lines(messages: str) -> set[str]:
    return {without_time_and_program(line.strip()) for line in messages.splitlines() if line.strip()}


def _said(error: CprlibError) -> str:
    """The last messages of both QEMUs, either of which may have the cause, in brackets; empty without one."""
    if not isinstance(error, UpdateFailed):
        return ""
    said = {"source": error.source_said, "target": error.target_said}
    text = "; ".join(f"the {who} said: {without_time(words)}" for who, words in said.items() if words)
    return f" ({text})" if text else ""
