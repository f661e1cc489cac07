"""Mode ``cpr-exec``: QEMU executes another one in its place, with the same process id and descriptors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cprlib.errors import UpdateFailed
from cprlib.evidence.records import Role
from cprlib.qemu.netdev import TapNetdev, TapSource
from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.live_update_test import LiveUpdateTest
from cprlib.testing.measured_case import MeasuredCase
from cprlib.testing.nic_frames import exchange_packets, use_and_exchange
from cprlib.update.exec_update import CopiedFds, ExecuteInstead
from cprlib.update.mechanism import Mechanism, Mode
from full_ring import UPDATE_MS, full_ring

CONFIGURED, QUEUES = 4, 2
NO_SUCH_FILE = "/nowhere/qemu-system-x86_64"
COMMAND = "cpr-exec-command"  # parameter of the migration
IN_PATH = ("env",)  # a program that executes QEMU
FOLDER = "/etc"  # execvp(3) runs a file that is no program with the shell, which would end the guest
NOT_PERMITTED = "Operation not permitted"  # strerror(EPERM)


def expect_exec_refused(case: MeasuredCase, label: str, said: str, command: Sequence[str] | None = None) -> None:
    """Check that an update whose exec(2) fails is refused with its reason, and that the source runs the guest.

    :param said: part of the reason.
    :param command: that the source executes; the target's when None.
    """
    expected = f"the update fails: {said}"
    case.frames.note_nics()
    case.note_errors()
    try:
        case.guest.live_update(hooks=[] if command is None else [ExecuteInstead(*command)])
    except UpdateFailed as error:
        case.expect(f"{label}-refused", said in error.happened, expected, error.happened, "another reason is given")
    else:
        case.expect(f"{label}-refused", False, expected, "the update succeeds", "a QEMU ran that cannot have started")
        return
    state = case.resumed_state()
    case.expect_equal(f"{label}-source-runs", state, "running", "the guest does not run on in the source")


class CprExec(LiveUpdateTest):
    """Migration mode ``cpr-exec``, for hosts that cannot have two QEMUs of a guest at a time; since QEMU 10.2."""

    def _spec(self, role: Role = Role.CHECKS, arguments: tuple[str, ...] = ()) -> GuestSpec:
        return GuestSpec(Mechanism.CPR, Mode.CPR_EXEC, queues=QUEUES, vhost=True, role=role, arguments=arguments)

    def test_exec_keeps_open_files(self) -> None:
        """The executed QEMU has the same open files of tap and vhost, by kcmp(2) with copies from before.

        No measured traffic flows: a copy would hide a lost descriptor. Two updates in a row; the guest answers after
        each. Patches 3 (vhost: reset vhost devices for cpr) and 6 (tap: cpr support).

        :avocado: tags=patch:vhost-reset,patch:3,patch:tap-cpr,patch:6,mechanism:cpr,mode:cpr-exec,vhost:on,queues:2
        """
        with self.given_guest(self._spec()) as case:
            for label in ("first-update", "second-update"):
                copied = CopiedFds()
                case.guest.stack.callback(copied.close)
                case.live_update(hooks=[copied])
                case.expect_answers(label)

    def test_source_keeps_running_when_exec_fails(self) -> None:
        """When the new QEMU cannot be executed, the guest runs on in the old one and the next update succeeds.

        No command, a path that does not exist, and a folder. No packet is lost by them, or by the update after
        them, through a program that QEMU finds in ``$PATH``: the source takes vhost back. Patches 2 (migration: cpr
        setup notifier) and 3.

        :avocado: tags=patch:setup-notifier,patch:2,patch:vhost-reset,patch:3,mechanism:cpr,mode:cpr-exec,vhost:on
        """
        with self.given_guest(self._spec(Role.UPDATE)) as case:
            case.compares_states = False  # the target's parameters name another command
            case.run_control()
            with case.under_traffic():
                expect_exec_refused(case, "no-command", COMMAND, [])
                expect_exec_refused(case, "missing-program", "No such file or directory", [NO_SUCH_FILE])
                expect_exec_refused(case, "folder", "Permission denied", [FOLDER])
                target = replace(case.guest.machine.settings, prefix=IN_PATH)
                case.live_update(check="next-update-succeeds", target=target)

    def test_source_keeps_running_when_sandbox_refuses_exec(self) -> None:
        """With ``-sandbox on,spawn=deny``, the update is refused with the reason and the guest runs on in the source.

        :avocado: tags=patch:vhost-reset,patch:3,mechanism:cpr,mode:cpr-exec,vhost:on,queues:2
        """
        with self.given_guest(self._spec(arguments=("-sandbox", "on,spawn=deny"))) as case:
            for label in ("first-attempt", "second-attempt"):
                expect_exec_refused(case, label, NOT_PERMITTED)
                case.expect_answers(label)

    def test_exec_keeps_packets_for_full_ring(self) -> None:
        """Packets that wait for a full ring arrive after an update by exec, without vhost.

        Patch 12 (tap: hand over the packet that a full ring keeps waiting).

        :avocado: tags=patch:full-ring,patch:12,mechanism:cpr,mode:cpr-exec,vhost:off,queues:1
        """
        with self.given_guest(GuestSpec(mode=Mode.CPR_EXEC, role=Role.CHECKS)) as case:
            case.compares_states = False  # reading them takes longer than a ring may stay full
            with full_ring(case, "across-an-update", wait_ms=UPDATE_MS):
                case.live_update(label="full-ring")

    def test_exec_keeps_unused_queues_of_macvtap(self) -> None:
        """On a macvtap, unused queue pairs stay disabled in an update by exec, and carry packets when they are used.

        The guest uses 2 of 4 queue pairs, all 4 after the update, then 1. Patch 14 (tap: hand over which queues of a
        macvtap are disabled).

        :avocado: tags=patch:macvtap,patch:14,mechanism:cpr,mode:cpr-exec,vhost:on,queues:4
        """
        netdev = TapNetdev(queues=CONFIGURED, vhost=True, tap_source=TapSource.MACVTAP)
        with self.given_guest(GuestSpec(mode=Mode.CPR_EXEC, netdevs=(netdev,), role=Role.CHECKS)) as case:
            use_and_exchange(case, QUEUES, "before-update")
            case.live_update(label="unused-queues")
            exchange_packets(case, QUEUES, "after-update")
            use_and_exchange(case, CONFIGURED, "after-update-more")
            use_and_exchange(case, 1, "after-update-fewer")
