"""Migrations of a source whose target answers nothing: the source never runs a guest that it must not run."""

from __future__ import annotations

import contextlib
import secrets
import socket
import struct
import threading
from collections.abc import Iterator

from cprlib.deadline import Deadline
from cprlib.errors import Awaited, DeadlineExceeded, QemuFailed, QmpRefused
from cprlib.evidence.records import Role
from cprlib.linux.descriptors import read_table
from cprlib.linux.namespace import NetworkNamespace
from cprlib.qemu.command_line import MigrationChannels
from cprlib.qemu.machine import Machine
from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.live_update_test import LiveUpdateTest
from cprlib.testing.measured_case import MeasuredCase
from cprlib.update.outcome import ENDED_STATES, FINISHING, has_yank_instance, query_migration, wait_migration
from cprlib.update.proxy import ChannelProxy, Hold
from qemu_without_nic import qemu_without_nic, start_update

STEP_S, READ_BYTES = 10.0, 65536
SLOW = {"max-bandwidth": 65536, "max-postcopy-bandwidth": 65536}  # bytes/s: the migration does not end by itself
PONG = struct.pack(">HHI", 2, 4, 0x42)  # MIG_RP_MSG_PONG, QEMU_VM_PING_PACKAGED_LOADED: 10.2 waits for it
SINGLE_STEP, DETACH = b"$s#73", b"$D#44"  # GDB remote serial protocol


class SourceAlone(LiveUpdateTest):
    """QEMUs without a NIC, and no target: a proxy, or a socket that only reads, takes what the source sends."""

    def test_source_alone_never_runs_a_guest_that_it_must_not_run(self) -> None:
        """A source whose target is silent runs the guest only where it may: cancelled, debugged, quitting, in postcopy.

        Patch 1: a failed migration restarts the VM only if it has stopped it, into the run state that it had, and not
        when QEMU quits. A migration that is cancelled while it connects leaves nothing to the next one.

        :avocado: tags=patch:stop-early,patch:1,mechanism:cpr,vhost:off,queues:1
        """
        with self.given_guest(GuestSpec(role=Role.CHECKS)) as case, case.qemu_step():
            with _alone(case, "source-without-nic") as machine:
                cancel_while_waiting(case, machine)
                cancel_while_connecting(case, machine)
                fail_while_debugged(case, machine)
                quit_while_waiting(case, machine)
            with _alone(case, "source-in-postcopy") as machine:
                refuse_to_recover(case, machine)


@contextlib.contextmanager
def _alone(case: MeasuredCase, name: str) -> Iterator[Machine]:
    """A QEMU without a NIC, whose guest runs."""
    with qemu_without_nic(case, name) as machine:
        machine.set_capabilities({"events": True})
        machine.wait_status("running", seconds=STEP_S)
        yield machine


def cancel_while_waiting(case: MeasuredCase, machine: Machine) -> None:
    """migrate_cancel while the target is given the CPR state: the migration ends without the target."""
    before = {row.link for row in read_table(machine.pid).of_kind("socket")}
    with ChannelProxy(machine.namespace) as cpr:
        start_update(machine, MigrationChannels(cpr.name, "no-main"))
        cpr.wait_held(Deadline(STEP_S, "the CPR state", Awaited.QEMU))
        machine.qmp.execute("migrate_cancel")
        _expect_ended(case, machine, "cancelled-while-waiting", "cancelled", "running")
        left = [row for row in read_table(machine.pid).of_kind("socket") if row.link not in before]
        case.expect_equal("cancelled-closes-cpr-channel", len(left), 0, "sockets that the source has left open")


def cancel_while_connecting(case: MeasuredCase, machine: Machine) -> None:
    """migrate_cancel while the source connects its main channel: no other migration is given that connection."""
    namespace = machine.namespace
    with (
        ChannelProxy(namespace) as cpr,
        ChannelProxy(namespace) as other,
        ChannelProxy(namespace, hold=Hold.BEFORE_ACCEPT) as main,
    ):
        start_update(machine, MigrationChannels(cpr.name, main.name))
        cpr.wait_held(Deadline(STEP_S, "the CPR state", Awaited.QEMU))
        cpr.cut()
        connecting = Deadline(STEP_S, "the source to connect its main channel", Awaited.QEMU)
        connecting.poll(lambda: has_yank_instance(machine), 0.02)
        machine.qmp.execute("migrate_cancel")
        machine.wait_status("running", seconds=STEP_S)
        refusal = start_update(machine, MigrationChannels(other.name, main.name))
        meaning = "a second migrate while the main channel of the first one is being connected"
        expected = "refused: a migration is in progress"
        refused = "in progress" in refusal
        case.expect("cancelled-refuses-another", refused, expected, refusal or "accepted", meaning)
    _expect_ended(case, machine, "cancelled-while-connecting", "cancelled", "running")


def fail_while_debugged(case: MeasuredCase, machine: Machine) -> None:
    """A failed update of a guest that a debugger has stopped (run state debug)."""
    name = f"cprlib-{secrets.token_hex(8)}-gdb"
    command = f"gdbserver unix:{name},abstract=on,server=on,wait=off"
    machine.qmp.execute("human-monitor-command", {"command-line": command})
    with machine.namespace.entered(), socket.socket(socket.AF_UNIX) as debugger:
        debugger.connect(f"\0{name}")
        debugger.sendall(SINGLE_STEP)
        machine.wait_status("debug", seconds=STEP_S)
        start_update(machine, MigrationChannels.fresh())  # no socket has this name
        _expect_ended(case, machine, "debugged", "failed", "debug")
        debugger.sendall(DETACH)
        machine.wait_status("running", seconds=STEP_S)


def quit_while_waiting(case: MeasuredCase, machine: Machine) -> None:
    """``quit`` while the target is given the CPR state: the guest does not run any more."""
    with ChannelProxy(machine.namespace) as cpr:
        start_update(machine, MigrationChannels(cpr.name, "no-main"))
        cpr.wait_held(Deadline(STEP_S, "the CPR state", Awaited.QEMU))
        seen = len(machine.qmp.events)
        machine.quit()
        with contextlib.suppress(QemuFailed, DeadlineExceeded):  # it waits until all events have been read
            ended = Deadline(STEP_S, "the end of the source's events", Awaited.QEMU)
            machine.qmp.wait_event("RESUME", deadline=ended, after=seen)
        later = [event.name for event in machine.qmp.events[seen:]]
    meaning = "the source ran the guest again before it ended"
    case.expect("quit-does-not-resume", "RESUME" not in later, "no event RESUME", later, meaning)


def refuse_to_recover(case: MeasuredCase, machine: Machine) -> None:
    """A refused recovery of a postcopy migration (``resume``), whose guest runs in the target."""
    with _reading_socket(machine.namespace) as name:
        machine.set_capabilities({"postcopy-ram": True})
        machine.qmp.execute("migrate-set-parameters", {"mode": "normal", **SLOW})
        machine.qmp.execute("migrate", {"channels": MigrationChannels("", name).descriptions()})
        wait_migration(machine, "active")
        machine.qmp.execute("migrate-start-postcopy")
        wait_migration(machine, "postcopy-active")
        machine.qmp.execute("migrate-pause")
        wait_migration(machine, "postcopy-paused")
        try:
            machine.qmp.execute("migrate", {"uri": "fd:no-such-descriptor", "resume": True})
            said = "accepted"
        except QmpRefused as error:
            said = error.happened
    instance = "there" if has_yank_instance(machine) else "gone"
    seen = {"migration": query_migration(machine).status, "source": machine.status(), "yank instance": instance}
    expected = {"migration": "postcopy-paused", "source": FINISHING, "yank instance": "there"}
    case.expect_equal("postcopy-recovery-refused", seen, expected, said)


def _expect_ended(case: MeasuredCase, machine: Machine, name: str, status: str, state: str) -> None:
    with contextlib.suppress(DeadlineExceeded):  # how it ended is checked
        wait_migration(machine, *ENDED_STATES, seconds=STEP_S)
    migration = query_migration(machine)
    seen = {"migration": migration.status, "source": machine.status()}
    case.expect_equal(name, seen, {"migration": status, "source": state}, migration.error or "no error")


@contextlib.contextmanager
def _reading_socket(namespace: NetworkNamespace) -> Iterator[str]:
    """Name of a socket that takes one connection, answers one PONG, and reads to the end."""
    name, end = f"cprlib-{secrets.token_hex(8)}-sink", threading.Event()
    with namespace.entered(), socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{name}")
        listener.listen(1)
        listener.settimeout(STEP_S)

        def read() -> None:
            with contextlib.suppress(OSError), listener.accept()[0] as connection:
                connection.sendall(PONG)
                while not end.is_set() and connection.recv(READ_BYTES):
                    pass

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        try:
            yield name
        finally:
            end.set()
            thread.join(STEP_S)
