"""The act itself: start the target, cpr-transfer, the target runs, the source is gone.

Order (QEMU docs/devel/migration/CPR.rst): the target is started and blocks on its cpr channel before it makes
devices or serves QMP; the mode is set on the source; ``migrate`` sends the CPR state; then the target serves QMP.
The source stays in postmigrate until it is told to quit, so that both can be looked at side by side.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cprlib.deadline import Deadline
from cprlib.errors import Awaited, DeadlineExceeded, QemuFailed, QmpRefused, UpdateFailed
from cprlib.linux.counters import LinkCounters, read_counters
from cprlib.linux.descriptors import DescriptorTable, Pairing, pair_tables, read_table
from cprlib.linux.procfs import VhostWorker, anonymous_memory, vhost_workers, wait_workers_ended
from cprlib.linux.topology import Topology
from cprlib.process import tail, wait_until_exit
from cprlib.qemu.channels import MigrationChannels, is_listening
from cprlib.qemu.machine import Machine, MachineSettings, Passed, start_machine
from cprlib.qemu.qmp import QmpEvent
from cprlib.update.mechanism import Mechanism, target_arguments
from cprlib.update.moments import HARNESS, SOURCE, Moment, moments_of, run_states_of

FAILED_STATES = ("failed", "cancelled")
GIVING_MECHANISMS = ("cpr",)  # with which the source gives its vhost devices up before it ends


@dataclass(frozen=True, slots=True)
class ProcessView:
    """What /proc shows of one QEMU at one moment.

    :param anonymous_kib: memory of its own, without the guest's RAM, which is a memfd; None when it was not read.
    :param waited_ms: for workers to end, in a process that has given its vhost devices up.
    """

    table: DescriptorTable
    workers: tuple[VhostWorker, ...]
    anonymous_kib: int | None = None
    waited_ms: float = 0.0


def view(machine: Machine) -> ProcessView:
    """Look at a QEMU's descriptors, vhost workers and memory."""
    return ProcessView(read_table(machine.pid), vhost_workers(machine.pid), anonymous_memory(machine.pid))


def view_of_giver(machine: Machine, kept: int = 0) -> ProcessView:
    """The same for a QEMU that has given vhost devices up: their workers have time to end.

    :param kept: workers of devices that it goes on owning.
    """
    waited_ms = wait_workers_ended(machine.pid, kept)
    return replace(view(machine), waited_ms=waited_ms)


@dataclass(frozen=True, slots=True)
class UpdateResult:
    """What was seen of one live update.

    :param source_before: the source before the target was started.
    :param source_after, target_after: both QEMUs side by side, the guest running in the target.
    :param pairings: tap and vhost descriptors of both, by identity.
    :param downtime_ms: QEMU's own figure (query-migrate on the source), None when it gave none.
    :param source_exit: exit status of the source, negative for a signal.
    :param run_states: each change of a QEMU's run state during the update, in order: ``target running``; None where the
        target has no trace log.
    :param source_retired: counters of the source's tap at its end, None when the target goes on using it.
    """

    mechanism: str
    moments: tuple[Moment, ...]
    source_before: ProcessView
    source_after: ProcessView
    target_after: ProcessView
    pairings: tuple[Pairing, ...]
    downtime_ms: float | None
    source_exit: int
    source_messages: str
    target_messages: str
    source_retired: LinkCounters | None
    run_states: tuple[str, ...] | None = None


@dataclass(slots=True)
class LiveUpdate:
    """A live update, step by step; :meth:`perform` does them all.

    :param stack: the target is entered here, so that it outlives the update.
    :param folder: evidence of the target goes here.
    :param generation: 1 for the first update of a guest; names the target's files from 2 on.
    :param target: once it was started.
    :param passed: files that management gives to every QEMU, by netdev.
    """

    source: Machine
    mechanism: Mechanism
    topology: Topology
    stack: contextlib.ExitStack
    folder: Path
    target_settings: MachineSettings
    generation: int = 1
    passed: Passed | None = None
    moments: list[Moment] = field(default_factory=list)
    target: Machine | None = None

    def perform(self) -> tuple[Machine, UpdateResult]:
        """Carry out the update.

        :returns: the target, in which the guest runs now, and what was seen.
        :raises UpdateFailed: the migration failed; the words of both QEMUs are in ``details``.
        :raises QemuFailed: a QEMU died.
        :raises DeadlineExceeded: a step did not come to its end.
        """
        source_before = view(self.source)
        started_ns = time.time_ns()
        target, channels = self.start_target()
        self.migrate(channels)
        self.wait_stopped()
        crossing = tuple(zip(self.source.settings.netdevs, target.settings.netdevs, strict=False))
        for old, new in crossing:
            self.mechanism.source_stopped(self.topology, old, new)
        if target.settings.plugged:
            self.plug_target(target, channels)
        self.wait_completed(target)
        self.wait_running(target)
        look = view_of_giver if self.mechanism.name in GIVING_MECHANISMS else view
        source_after, target_after = look(self.source), view(target)
        pairings = pair_tables(source_after.table, target_after.table)
        downtime = self._downtime()
        self._mark("SOURCE_QUIT")
        source_exit = self.source.quit()
        self._mark("SOURCE_GONE")
        retired = [read_counters(self.topology.switch, a.interface) for a, b in crossing if a.interface != b.interface]
        for old, _ in crossing:
            self.mechanism.source_gone(self.topology, old)
        moments = sorted((*self.moments, *moments_of(self.source, target, started_ns)), key=lambda item: item.time_ns)
        return target, UpdateResult(
            mechanism=self.mechanism.name,
            moments=tuple(moments),
            source_before=source_before,
            source_after=source_after,
            target_after=target_after,
            pairings=pairings,
            downtime_ms=downtime,
            source_exit=source_exit,
            source_messages=self.source.messages,
            target_messages=target.messages,
            source_retired=retired[0] if retired else None,
            run_states=run_states_of(self.source, target, started_ns),
        )

    def fresh_channels(self) -> MigrationChannels:
        """Channels of names that nobody else uses."""
        return MigrationChannels.fresh()

    def start_target(self) -> tuple[Machine, MigrationChannels]:
        """Start the target and wait until it listens on its cpr channel."""
        channels = self.fresh_channels()
        name = "target" if self.generation == 1 else f"target-{self.generation}"
        netdevs = tuple(self.mechanism.target_netdev(self.topology, item) for item in self.target_settings.netdevs)
        settings = replace(self.target_settings, netdevs=netdevs)
        if arguments := target_arguments(self.mechanism):
            known = tuple(item for item in settings.extra if item not in arguments)
            settings = replace(settings, extra=(*known, *arguments))
        self._mark("TARGET_STARTED")
        target = self.stack.enter_context(
            start_machine(name, settings, self.folder, self.topology.switch, incoming=channels, passed=self.passed)
        )

        def listening() -> bool | None:
            target.check_alive("start the target")
            return is_listening(target.pid, channels.cpr) or None

        Deadline(30, "the target's cpr channel", Awaited.QEMU).poll(listening, interval=0.005)
        self._mark("CPR_LISTENING")
        self.target = target
        return target, channels

    def migrate(self, channels: MigrationChannels) -> None:
        """Set the mode on the source and start the migration."""
        capability = {"capability": "events", "state": True}
        self.source.qmp.execute("migrate-set-capabilities", {"capabilities": [capability]})
        self.source.qmp.execute("migrate-set-parameters", {"mode": "cpr-transfer", **self.mechanism.parameters})
        self._mark("MIGRATE")
        try:
            self.source.qmp.execute("migrate", {"channels": channels.descriptions()})
        except QmpRefused as error:
            raise UpdateFailed("start the live update", error.happened, details=self.source.messages) from error

    def plug_target(self, target: Machine, channels: MigrationChannels) -> None:
        """Add the target's netdevs and NICs by QMP, once it has the CPR state, and name its main channel.

        :raises UpdateFailed: the target refuses something, or dies of it.
        """
        try:
            target.wait_ready()
            target.plug_all()
            target.qmp.execute("migrate-incoming", {"channels": channels.descriptions()[:1]})
        except (QmpRefused, QemuFailed) as error:
            with contextlib.suppress(DeadlineExceeded):
                wait_until_exit(target.process, Deadline(2, "the target to end", Awaited.QEMU))
            raise self._failed(target, f"plugging the target's NICs: {error.happened}") from error

    def wait_stopped(self) -> None:
        """Wait for the source's guest to stop.

        :raises UpdateFailed: the migration failed before that (stock QEMU stops the guest after it sent its CPR state).
        """
        deadline = Deadline(30, "the source's guest to stop", Awaited.QEMU)
        begun_ns = next(item.time_ns for item in self.moments if item.name == "MIGRATE")

        def over(event: QmpEvent) -> bool:
            failed = event.data.get("status") in FAILED_STATES
            return event.received_ns >= begun_ns and (event.name == "STOP" or failed)

        event = self.source.qmp.wait_event(["STOP", "MIGRATION"], deadline, accept=over)
        if event.name != "STOP" and self.target is not None:
            answer: Mapping[str, Any] = self.source.qmp.execute("query-migrate")
            raise self._failed(self.target, str(answer.get("error-desc") or f"status {answer.get('status')}"))

    def wait_completed(self, target: Machine) -> None:
        """Wait until the source has sent everything.

        :raises UpdateFailed: the migration failed or was cancelled.
        """

        def outcome() -> str | None:
            answer: Mapping[str, Any] = self.source.qmp.execute("query-migrate")
            status = str(answer.get("status", "none"))
            if status in FAILED_STATES:
                reason = str(answer.get("error-desc") or f"status {status}")
                raise self._failed(target, reason)
            if target.process.poll() is not None:
                raise self._failed(target, f"the target ended: {_last_line(target)}")
            return status if status == "completed" else None

        try:
            Deadline(60, "the migration to complete", Awaited.QEMU).poll(outcome, interval=0.02)
        except QemuFailed as error:
            self.source.check_alive("live-update the guest")
            raise self._failed(target, error.happened) from error
        self._mark("COMPLETED", SOURCE)

    def wait_running(self, target: Machine) -> None:
        """Wait until the target's guest runs."""

        def running() -> bool | None:
            status = target.status()
            if status in ("internal-error", "guest-panicked"):
                raise self._failed(target, f"the target is in state {status}")
            return True if status == "running" else None

        target.wait_ready()
        Deadline(30, "the target's guest to run", Awaited.QEMU).poll(running)
        target.incoming = False

    def _downtime(self) -> float | None:
        answer: Mapping[str, Any] = self.source.qmp.execute("query-migrate")
        downtime = answer.get("downtime")
        return float(downtime) if downtime is not None else None

    def _mark(self, name: str, who: str = HARNESS) -> None:
        self.moments.append(Moment(name, time.time_ns(), who, "the harness"))

    def _failed(self, target: Machine, reason: str) -> UpdateFailed:
        details = f"source said:\n{tail(self.source.messages)}\ntarget said:\n{tail(target.messages)}"
        return UpdateFailed(
            "live-update the guest", reason, "see the details for what both QEMUs said", details=details
        )


def _last_line(machine: Machine) -> str:
    lines = machine.messages.splitlines()
    return lines[-1] if lines else "it said nothing"
