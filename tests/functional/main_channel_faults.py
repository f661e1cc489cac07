"""Updates whose main channel cannot be made, or breaks under a target that stays."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace

from cprlib.deadline import Deadline
from cprlib.errors import Awaited, DeadlineExceeded, QemuFailed, QmpRefused
from cprlib.process import describe_status
from cprlib.qemu.command_line import MigrationChannels
from cprlib.qemu.machine import Machine
from cprlib.qemu.nic_state import differences, vhost_started
from cprlib.qemu.trace_log import TraceLog, TraceRecord
from cprlib.testing.measured_case import MeasuredCase
from cprlib.testing.nic_view import read_tap_view
from cprlib.update.fault_injection import LOADING_BYTES
from cprlib.update.live_update import LiveUpdate, UpdateHook
from cprlib.update.outcome import ENDED_STATES, query_migration, view_after_release, wait_migration
from cprlib.update.proxy import ChannelProxy, Hold
from fault_ends import expect_same_descriptors

CONNECT_S = 10.0
CONNECT_EVENTS = "qio_channel_socket_connect_*"  # io/trace-events
CONNECTING, CONNECTED = "qio_channel_socket_connect_async", "qio_channel_socket_connect_complete"


@dataclass(frozen=True, slots=True)
class _MissingProgram(MigrationChannels):
    """The main channel is a program that does not exist."""

    def descriptions(self) -> list[dict[str, object]]:
        """As the ordinary ones, with another main channel."""
        main, *others = MigrationChannels.descriptions(self)
        return [main | {"addr": {"transport": "exec", "args": ["/nonexistent/program"]}}, *others]


class MissingProgram(UpdateHook):
    """The source is given a main channel that does not exist; it finds that when the target has its devices."""

    expects_failure = True

    def before_target(self, update: LiveUpdate) -> None:
        """Replace the source's channels."""
        update.source_channels = _MissingProgram(update.channels.cpr, update.channels.main)


class CancelWhileConnecting(UpdateHook):
    """migrate_cancel while the source waits in connect(2) of its main channel; the connection is made after it."""

    expects_failure = True

    def __init__(self) -> None:
        self._proxy: ChannelProxy | None = None

    @property
    def sent_bytes(self) -> int:
        """What the source has sent on the connection."""
        return self._proxy.byte_count if self._proxy else 0

    def before_target(self, update: LiveUpdate) -> None:
        """Put a proxy that accepts no connection yet where the source connects."""
        events = {"name": CONNECT_EVENTS, "enable": True, "ignore-unavailable": True}
        update.source.qmp.execute("trace-event-set-state", events)
        self._proxy = update.hold_channel("main", Hold.BEFORE_ACCEPT)

    def after_migrate(self, update: LiveUpdate) -> None:
        """Cancel when the source waits in connect(2), then let it connect; nothing when the migration has failed."""
        source = update.source
        update.target.wait_ready()
        # a QEMU may write no trace, so that the connection cannot be seen
        traced = Deadline(CONNECT_S, f"the source's trace to show {CONNECTING}", Awaited.HARNESS)
        begun = traced.poll(lambda: source.trace.first(CONNECTING) or query_migration(source).failed, interval=0.02)
        if not isinstance(begun, TraceRecord):
            return
        with contextlib.suppress(QmpRefused):
            source.qmp.execute("migrate_cancel")
        source.wait_status("running", seconds=CONNECT_S)
        if self._proxy:
            self._proxy.release()
        connected = Deadline(CONNECT_S, "the source to have connected", Awaited.QEMU)
        connected.poll(lambda: _since(begun, source.trace), interval=0.02)


class StayingTarget(UpdateHook):
    """The main channel breaks, and the target stays (``migrate-incoming`` with ``exit-on-error`` off).

    Management can ask it then why it failed, and it has the taps and vhost devices open until it is ended.
    """

    expects_failure = True

    def __init__(self) -> None:
        self._proxy: ChannelProxy | None = None

    def before_target(self, update: LiveUpdate) -> None:
        """Leave the target's main channel to :meth:`after_migrate`, and put a proxy where the source connects."""
        update.channels = replace(update.channels, deferred=True)
        self._proxy = update.hold_channel("main", LOADING_BYTES, forward_held=True)
        update.capabilities["return-path"] = True

    def after_migrate(self, update: LiveUpdate) -> None:
        """Let the target listen, and cut the channel while it loads the state."""
        update.target.wait_ready()
        channels = update.channels.descriptions()[:1]
        update.target.qmp.execute("migrate-incoming", {"channels": channels, "exit-on-error": False})
        if self._proxy:
            self._proxy.wait_held(Deadline(CONNECT_S, "the device state", Awaited.QEMU))
            self._proxy.cut()


def _since(begun: TraceRecord, trace: TraceLog) -> bool:
    return any(item.time_ns > begun.time_ns for item in trace.all_of(CONNECTED))


def _end_of(target: Machine) -> str:
    """Status of the migration in a target that has got time to end it, or how the target ended."""
    try:
        with contextlib.suppress(DeadlineExceeded):
            wait_migration(target, *ENDED_STATES, seconds=CONNECT_S)
        return query_migration(target).status
    except QemuFailed:  # its connection breaks a moment before it is gone
        exited = target.wait_exit(Deadline(CONNECT_S, "the target to end", Awaited.QEMU))
        return f"gone with {describe_status(exited)}"


def expect_reset_keeps_tap(case: MeasuredCase, name: str, target: Machine) -> None:
    """Reset a target that has failed, whose NIC resets its backend: the tap belongs to the source.

    :param name: begins the check's name.
    """
    before = read_tap_view(case.guest.topology, case.guest.machine)
    target.qmp.execute("set-action", {"reboot": "reset"})
    target.reset()
    after = read_tap_view(case.guest.topology, case.guest.machine)
    case.expect_empty(
        f"{name}-reset-keeps-tap",
        differences(before.facts(), after.facts()),
        "the tap's queues, header and offloads are unchanged",
        "a reset of a target that had failed changed the source's tap",
    )


def fail_main_channel(case: MeasuredCase, name: str, hook: UpdateHook, status: str, target_status: str = "") -> None:
    """Update a guest with a hook that lets the main channel fail: the source runs again, with its NIC and descriptors.

    :param status: of the migration in the end (QAPI MigrationStatus).
    :param target_status: the same in the target, which stays; not looked at when empty.
    """
    source = case.guest.machine
    vhost = vhost_started(source.qmp)
    with contextlib.ExitStack() as stack:
        update = case.guest.plan_update([hook], stack=stack, target_name=f"target-{name}")
        update.begin()
        with contextlib.suppress(DeadlineExceeded):  # how it ended is checked below
            wait_migration(source, *ENDED_STATES, seconds=CONNECT_S)
        resumed = case.resumed_state()
        if target_status:
            ended = _end_of(update.target)
            case.expect_equal(f"{name}-failed", ended, target_status, "the target's migration")
            if ended == target_status:
                expect_reset_keeps_tap(case, name, update.target)
        migration = query_migration(source)
        state = {"migration": migration.status, "source": resumed}
        expected = {"migration": status, "source": "running"}
        case.expect_equal(f"{name}-source-runs", state, expected, migration.error or "no error")
        case.expect_equal(f"{name}-vhost", vhost_started(source.qmp), vhost, "whether vhost carries the packets")
        case.expect_answers(name)
        before = update.source_before
        after = view_after_release(source, kept=len(before.workers))
        expect_same_descriptors(case, f"{name}-descriptors", before, after)
