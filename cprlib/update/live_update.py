"""The live update: start the target, migrate, wait until the target runs, end the source.

Order (QEMU docs/devel/migration/CPR.rst): the target starts and blocks on its CPR channel before it makes devices or
serves QMP; the mode is set on the source; ``migrate`` sends the CPR state; then the target serves QMP. The source stays
in postmigrate until ``quit``, so that both processes can be inspected side by side.

In mode ``normal`` the guest's memory is in a file that both map, and the target waits for ``cont``. So does a target
that is started with ``-S``.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from cprlib.deadline import Deadline
from cprlib.errors import Awaited, DeadlineExceeded, InstrumentError, QemuFailed, QmpRefused
from cprlib.linux.counters import read_counters
from cprlib.linux.descriptors import Pairing, pair_tables
from cprlib.linux.procfs import is_listening
from cprlib.linux.topology import Topology
from cprlib.qemu.command_line import WAIT_FOR_CONT, FdsByNetdev, MachineSettings, MigrationChannels
from cprlib.qemu.machine import Machine
from cprlib.qemu.start import start_machine
from cprlib.update.events import Event, Step, Who
from cprlib.update.faults import Phase
from cprlib.update.mechanism import Mechanism, Mode
from cprlib.update.outcome import query_migration, view, view_after_release
from cprlib.update.plugged_target import plug_target, wait_served
from cprlib.update.proxy import ChannelProxy, Hold
from cprlib.update.results import (
    ProcessView,
    UpdateResult,
    announcements_of,
    events_of,
    other_events_of,
    run_states_of,
    statuses_of,
)
from cprlib.update.waits import update_failed, wait_completed, wait_running, wait_stopped

LISTEN_S = 30.0
MIGRATE_S, HELD_MIGRATE_S = 20.0, 30.0  # for the answer to ``migrate``; with a proxy that delays the connection


class UpdateHook:
    """Base class of hooks. A :class:`LiveUpdate` calls each method at the step it names; by default they do nothing."""

    expects_failure = False
    """The update may fail: a target that ends early is not an error."""
    waits_for_stop = True
    """The update waits for the source's STOP before its next steps."""
    plugs_target = False
    """The hook itself adds netdevs to a target that is started without them."""

    def before_target(self, update: LiveUpdate) -> None:
        """The target is about to start: change its settings or the channels, add a proxy."""

    def at_phase(self, phase: Phase, update: LiveUpdate) -> None:
        """The update has reached TARGET_STARTED, CPR_READY or MODE_SET."""

    def after_migrate(self, update: LiveUpdate) -> None:
        """The source has got ``migrate``; the answer is in ``update.migrate_reply``."""

    def after_stop(self, update: LiveUpdate) -> None:
        """The source's guest has stopped, or may still run if a hook does not wait for STOP. Only in ``perform()``."""


@dataclass(slots=True)
class LiveUpdate:
    """A live update. :meth:`perform` does all of it; :meth:`begin` does it up to ``migrate``, for one that may fail.

    :param stack: the target and the hooks' resources are entered here, so that they outlive the update.
    :param folder: evidence of the target goes here.
    :param target_name: names the target's files.
    :param passed: files that management passes to every QEMU, by netdev.
    :param hooks: called between the steps, in this order.
    :param channels: names that the target listens on.
    :param source_channels: names that the source connects to; a proxy's where a hook adds one.
    :param mode: migration mode.
    :param capabilities: migration capabilities to set on the source.
    :param migrate_ns: time of ``migrate``.
    :param migrate_reply: None before ``migrate``; then a future with the error when the source refused it or died of
        it, or None when it was accepted.
    :param failed: it has raised UpdateFailed, so that its target may have ended.
    """

    source: Machine
    mechanism: Mechanism
    topology: Topology
    stack: contextlib.ExitStack
    folder: Path
    target_settings: MachineSettings
    target_name: str = "target"
    passed: FdsByNetdev | None = None
    hooks: Sequence[UpdateHook] = ()
    mode: Mode = Mode.CPR_TRANSFER
    channels: MigrationChannels = field(default_factory=MigrationChannels.fresh)
    source_channels: MigrationChannels = field(init=False)
    capabilities: dict[str, bool] = field(default_factory=lambda: {"events": True})
    source_before: ProcessView = field(init=False)
    earlier_downtime_ms: float | None = field(init=False)
    started_ns: int = field(init=False)
    migrate_ns: int = field(init=False, default=0)
    events: list[Event] = field(default_factory=list)
    migrate_reply: Future[QemuFailed | None] | None = None
    started_target: Machine | None = None
    failed: bool = False

    def __post_init__(self) -> None:
        if self.mode is Mode.NORMAL:
            # as management does it; after a fault, no one would give it
            self.channels = replace(self.channels, cpr="", waits_for_cont=not self.expects_failure)
            self.capabilities["x-ignore-shared"] = True
        self.source_channels = self.channels
        self.source_before = view(self.source)
        self.earlier_downtime_ms = self._downtime_ms()
        self.started_ns = time.time_ns()

    @property
    def target(self) -> Machine:
        """The target.

        :raises InstrumentError: it has not been started.
        """
        if self.started_target is None:
            raise InstrumentError("use the target", "it has not been started")
        return self.started_target

    def hold_channel(
        self, channel: Literal["cpr", "main"], hold: Hold | int = Hold.AT_END, **options: bool
    ) -> ChannelProxy:
        """Put a proxy where the source will connect.

        :param hold, options: as for :class:`ChannelProxy`.
        """
        proxy = ChannelProxy(self.topology.switch, getattr(self.source_channels, channel), hold, **options)
        changed: dict[str, Any] = {channel: proxy.name}
        self.source_channels = replace(self.source_channels, **changed)
        return self.stack.enter_context(proxy)

    def begin(self) -> QemuFailed | None:
        """Start the target and give ``migrate`` to the source.

        :returns: the error when the source refused ``migrate`` or died of it.
        :raises QemuFailed: the target ended although no hook expects a failure.
        :raises UpdateFailed: the target refused a NIC, or died of it, although no hook expects a failure.
        :raises DeadlineExceeded: a step did not end.
        """
        for hook in self.hooks:
            hook.before_target(self)
        self._start_target()
        self._reach(Phase.TARGET_STARTED)
        self._wait_listening()
        self._reach(Phase.CPR_READY)
        self.source.set_capabilities(self.capabilities)
        self.source.qmp.execute("migrate-set-parameters", {"mode": self.mode, **self._parameters})
        self._reach(Phase.MODE_SET)
        self.migrate_ns = self.mark(Step.MIGRATE)
        with ThreadPoolExecutor(1) as thread:  # a source that waits to connect answers nothing
            self.migrate_reply = thread.submit(self._migrate_and_plug)
            for hook in self.hooks:
                hook.after_migrate(self)
            return self.migrate_reply.result()

    @property
    def _parameters(self) -> dict[str, object]:
        return self.mechanism.handling.parameters(self.source.settings.netdevs[0])

    def _migrate_and_plug(self) -> QemuFailed | None:
        """Give ``migrate`` to the source, and plug the NICs of a target that has the CPR state then.

        This does not wait for STOP: without patch 1 the source stops its guest when it connects the main channel.
        """
        refusal = self.migrate()
        plugged = self.target.settings.plugged and not any(hook.plugs_target for hook in self.hooks)
        if refusal is None and self.mode is Mode.CPR_TRANSFER and plugged:
            self._plug_target()
        return refusal

    def migrate(self) -> QemuFailed | None:
        """Give ``migrate`` to the source; returns the error when it was refused."""
        seconds = HELD_MIGRATE_S if self.expects_failure else MIGRATE_S
        try:
            self.source.qmp.execute("migrate", {"channels": self._channels}, seconds=seconds)
        except QemuFailed as error:
            return error
        return None

    @property
    def _channels(self) -> list[dict[str, object]]:
        """The channels that the source sends on (QAPI MigrationChannel)."""
        return self.source_channels.descriptions()

    @property
    def timeline(self) -> tuple[Event, ...]:
        """The events so far of the harness and of both QEMUs, in order."""
        found = events_of(self.source, self.started_target, self.started_ns) if self.started_target else ()
        return tuple(sorted((*self.events, *found), key=lambda item: item.time_ns))

    def mark(self, name: str) -> int:
        """Note a step now; returns its time."""
        time_ns = time.time_ns()
        self.events.append(Event(name, time_ns, Who.HARNESS, "the harness"))
        return time_ns

    @property
    def expects_failure(self) -> bool:
        """Whether a hook expects the update to fail, so that its target may end early."""
        return any(hook.expects_failure for hook in self.hooks)

    def _reach(self, phase: Phase) -> None:
        for hook in self.hooks:
            hook.at_phase(phase, self)

    def _settings_of_target(self) -> MachineSettings:
        handling, netdevs = self.mechanism.handling, self.target_settings.netdevs
        netdevs = tuple(handling.of(item).target_netdev(self.topology, item) for item in netdevs)
        return replace(self.target_settings, netdevs=netdevs)

    def _start_target(self) -> None:
        settings, switch = self._settings_of_target(), self.topology.switch
        self.mark(Step.TARGET_STARTED)
        self.started_target = self.stack.enter_context(
            start_machine(self.target_name, settings, self.folder, switch, self.channels, self.passed)
        )

    def _wait_listening(self) -> None:
        target = self.target
        if self.mode is Mode.NORMAL:
            self._plug_target()
            return

        def listening() -> bool:
            if not self.expects_failure:
                target.check_alive("start the target")
            elif target.process.poll() is not None:
                return True
            return is_listening(target.pid, self.channels.cpr)

        Deadline(LISTEN_S, "the target's CPR channel", Awaited.QEMU).poll(listening, interval=0.005)
        self.mark(Step.CPR_LISTENING)

    def _plug_target(self) -> None:
        """Add the target's netdevs and NICs by QMP.

        :raises UpdateFailed: the target refuses something, or dies of it, and no hook expects a failure.
        """
        target = self.target
        capabilities = self.capabilities if self.mode is Mode.NORMAL else {}
        try:
            wait_served(target, self._migrate_failure)
            plug_target(target, self.channels, capabilities, self._parameters)
            self.mark(Step.MAIN_LISTENING)
        except (QmpRefused, QemuFailed) as error:
            if self.expects_failure:
                return
            with contextlib.suppress(DeadlineExceeded):
                target.wait_exit(Deadline(2, "the target to end", Awaited.QEMU))
            reason = f"plugging the target's NICs: {error.happened}"
            raise update_failed(self.source, target, reason) from error

    def _migrate_failure(self) -> str:
        """Why the migration failed; empty when it did not, or has not begun."""
        migration = query_migration(self.source) if self.migrate_reply is not None else None
        return migration.reason if migration and migration.failed else ""

    def perform(self) -> tuple[Machine, UpdateResult]:
        """Carry out the whole update.

        :returns: the target, in which the guest runs now, and the result.
        :raises UpdateFailed: the migration failed; ``details`` has the messages of both QEMUs.
        :raises QemuFailed: a QEMU died.
        :raises DeadlineExceeded: a step did not end.
        """
        refusal = self.begin()
        if isinstance(refusal, QmpRefused):
            raise update_failed(self.source, self.target, refusal.happened, "start the live update") from refusal
        if refusal:
            raise refusal
        if all(hook.waits_for_stop for hook in self.hooks):
            wait_stopped(self.source, self.target, self.migrate_ns)
        for hook in self.hooks:
            hook.after_stop(self)
        handling, source, target = self.mechanism.handling, self.source, self.target
        by_id = {item.identifier: item for item in target.settings.netdevs}
        netdevs = [(old, by_id[old.identifier]) for old in source.settings.netdevs if old.identifier in by_id]
        for old, new in netdevs:
            handling.of(old).source_stopped(self.topology, old, new)
        if any(old.interface != new.interface for old, new in netdevs):
            self.mark(Step.LINK_SWITCHED)
        self._wait_completed()
        wait_running(source, target, give_cont=self._waits_for_cont)
        source_after, target_after, pairings = self._views()
        downtime_ms = self._downtime_ms()
        announcements_ms = announcements_of(target.qmp.execute("query-migrate-parameters"))
        other_events = other_events_of(source, target, self.started_ns)
        self.mark(Step.SOURCE_QUIT)
        source_exit = self._end_source()
        self.mark(Step.SOURCE_GONE)
        retired = [
            read_counters(self.topology.switch, a.interface) for a, b in netdevs[:1] if a.interface != b.interface
        ]
        for old, _ in netdevs:
            handling.of(old).source_gone(self.topology, old)
        return target, UpdateResult(
            mechanism=self.mechanism,
            events=self.timeline,
            source_before=self.source_before,
            source_after=source_after,
            target_after=target_after,
            pairings=pairings,
            downtime_ms=downtime_ms,
            earlier_downtime_ms=self.earlier_downtime_ms,
            source_exit=source_exit,
            source_messages=source.messages,
            target_messages=target.messages,
            source_retired=retired[0] if retired else None,
            run_states=run_states_of(source, target, self.started_ns),
            statuses=statuses_of(source, self.started_ns),
            other_events=other_events,
            compared=self._compared,
            announcements_ms=announcements_ms,
            waited_for_cont=self._waits_for_cont,
        )

    def _downtime_ms(self) -> float | None:
        """Downtime of the source's last migration; None without one that has completed."""
        downtime = self.source.qmp.execute("query-migrate").get("downtime")
        return None if downtime is None else float(downtime)

    @property
    def _waits_for_cont(self) -> bool:
        return self.channels.waits_for_cont or WAIT_FOR_CONT in self.target.settings.extra

    @property
    def _compared(self) -> bool:
        return True

    def _views(self) -> tuple[ProcessView, ProcessView, tuple[Pairing, ...]]:
        """Source and target, the guest running in the target, and their descriptors paired."""
        source, target = self.source, self.target
        source_after = view_after_release(source) if self.mechanism.handling.releases_vhost else view(source)
        target_after = view(target)
        return source_after, target_after, pair_tables(source_after.table, target_after.table)

    def _end_source(self) -> int | None:
        """End the source; its exit status, None when it is the target now."""
        return self.source.quit()

    def _wait_completed(self) -> None:
        wait_completed(self.source, self.target)
