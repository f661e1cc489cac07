"""The end of an update into which a fault was put: who has the guest now, after how long, and how the target ended."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from cprlib.deadline import Deadline
from cprlib.errors import Awaited, CprlibError, DeadlineExceeded, QemuFailed, UpdateFailed
from cprlib.process import kill_group, wait_until_exit
from cprlib.qemu.machine import Machine
from cprlib.update.faults import Fault, Survivor
from cprlib.update.running_guest import RunningGuest

ENDED = ("failed", "cancelled", "completed")  # QAPI MigrationStatus
FINISHING = "finish-migrate"  # QAPI RunState
END_S, BACK_S = 30.0, 10.0


@dataclass(slots=True)
class FaultEnd:
    """Watches one update to its end.

    :param state: run state of the guest before the update.
    :param acted_ns: when the fault was put in (CLOCK_REALTIME).
    :param source_state: the source's run state once it is known who has the guest; ``gone``.
    :param target_state: the target's; ``gone``, or ``none`` while it serves no QMP.
    """

    guest: RunningGuest
    fault: Fault
    source: Machine
    target: Machine
    state: str
    acted_ns: int
    source_state: str = "gone"
    target_state: str = "gone"

    def wait_migration(self, refused: str) -> tuple[str, str]:
        """Wait until the source says that the migration is over, or is gone.

        :param refused: the words with which ``migrate`` was refused; empty when it was taken.
        :returns: QAPI MigrationStatus or ``gone``, and QEMU's own words for a failure.
        :raises DeadlineExceeded: neither came.
        :raises UpdateFailed: it failed, and the target had to get the guest.
        """

        def ended() -> tuple[str, str] | None:
            if self.source.process.poll() is not None:
                return "gone", refused
            try:
                answer: Mapping[str, Any] = self.source.qmp.execute("query-migrate")
            except QemuFailed:
                return None
            status, reason = str(answer.get("status", "none")), str(answer.get("error-desc", "") or refused)
            return (status, reason) if status in ENDED or (refused and status == "none") else None

        status, reason = Deadline(END_S, f"the end of an update with {self.fault.name}").poll(ended, 0.02)
        if status == "failed" and self.fault.survivor is Survivor.TARGET:  # which will not get the guest any more
            tried = f"hand the guest over with {self.fault.name}"
            raise UpdateFailed(tried, reason or "no reason given", details=self.source.messages)
        return status, reason

    def wait_survivor(self, stack: contextlib.ExitStack) -> tuple[float | None, int | None]:
        """Wait until the one that has to survive has the guest.

        :param stack: of the target's resources, which go to the guest where it lives on.
        :returns: ms from the fault to the source's RESUME, and how the target ended; each None as in
            :class:`cprlib.update.fault_result.FaultResult`.
        """
        fault = self.fault
        if fault.survivor is Survivor.ONE:
            return self._wait_one(stack)
        if fault.survivor is not Survivor.SOURCE:
            return None, self._end_target(stack)
        if not fault.unnoticed:
            return self._wait_back(), self._end_target(stack)
        ended = self._end_target(stack)
        if self.state == "running":
            self._wait_finalized()
            self.source.qmp.execute("cont")
        return self._wait_back(), ended

    def _wait_finalized(self) -> None:
        """Wait until the source takes ``cont``: its run state follows the migration's status a moment later.

        :raises DeadlineExceeded: it does not ("Migration is not finalized yet", qmp_cont(), monitor/qmp-cmds.c).
        """
        Deadline(BACK_S, "the source's migration to be finalized", Awaited.QEMU).poll(
            lambda: True if self.source.status() != FINISHING else None, 0.02
        )

    def _wait_one(self, stack: contextlib.ExitStack) -> tuple[float | None, int | None]:
        """Wait until the target has the guest or has ended, and see what the source does then.

        Where both run the guest nothing can be saved; the target is ended.
        """
        target = self.target

        def settled() -> bool | None:
            self.target_state = _state(target) if target.process.poll() is None else "gone"
            return True if self.target_state in (self.state, "gone") else None

        with contextlib.suppress(DeadlineExceeded):
            Deadline(BACK_S, "source or target to have the guest", Awaited.QEMU).poll(settled, 0.02)
        if self.target_state == "gone":
            back_ms = self._wait_back()
            self.source_state = _state(self.source)
            return back_ms, target.process.poll()
        self.source_state = _state(self.source)
        if self.target_state == self.state and self.source_state != self.state:
            self._adopt(target, stack)
            return None, None
        ended = target.process.poll()
        kill_group(target.process)
        return None, ended

    def _wait_back(self) -> float | None:
        """Wait until the source has the run state that it had.

        :returns: ms from the fault to its RESUME event; None when there was none to be expected, or it did not come.
        """
        with contextlib.suppress(DeadlineExceeded):
            Deadline(BACK_S, f"the source to be {self.state} again", Awaited.QEMU).poll(
                lambda: True if self.source.status() == self.state else None, 0.02
            )
        events = [item for item in self.source.qmp.events if item.name == "RESUME"]
        after = [item.time_ns for item in events if item.time_ns >= self.acted_ns]
        return (after[0] - self.acted_ns) / 1e6 if after else None

    def _end_target(self, stack: contextlib.ExitStack) -> int | None:
        """Let the target live on where it shall, else see how it ends, and end it."""
        target, fault = self.target, self.fault
        if fault.survivor is Survivor.TARGET:
            self._adopt(target, stack)
            return None
        if fault.survivor is Survivor.NOBODY and target.process.poll() is None:
            self.target_state = _state(target)
        if fault.refusal:
            with contextlib.suppress(DeadlineExceeded):
                return wait_until_exit(target.process, Deadline(BACK_S, "the target to end by itself", Awaited.QEMU))
        ended = target.process.poll()
        kill_group(target.process)
        return ended

    def _adopt(self, target: Machine, stack: contextlib.ExitStack) -> None:
        """The guest runs in the target now."""
        target.wait_ready()
        wanted = ("running", "paused")
        Deadline(END_S, "the target to have the guest", Awaited.QEMU).poll(
            lambda: True if target.status() in wanted else None
        )
        target.incoming = False
        own = self.source.settings  # without the gate's arguments
        target.settings = replace(target.settings, extra=own.extra, prefix=own.prefix)
        with contextlib.suppress(CprlibError):
            if self.source.process.poll() is None:
                self.source.quit()
        self.guest.stack.push(stack.pop_all())
        self.guest.machine = target
        self.guest.agent.use(target.agent)


def _state(machine: Machine) -> str:
    """The run state; ``none`` when no QMP is served."""
    try:
        machine.wait_ready(1)
        return machine.status()
    except CprlibError:
        return "none"
