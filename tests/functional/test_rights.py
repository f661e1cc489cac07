"""QEMUs of an unprivileged user, to whom management passes descriptors: updates, and a target that dies."""

from __future__ import annotations

import errno
import stat
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from cprlib.errors import UpdateFailed
from cprlib.evidence.records import Role
from cprlib.linux.procfs import status_field
from cprlib.linux.supervised_calls import ALWAYS, OPEN_VHOST_AGAIN, FailingCall, SupervisedCalls
from cprlib.qemu.command_line import WAIT_FOR_CONT
from cprlib.qemu.netdev import TapNetdev, TapSource
from cprlib.qemu.nic_state import vhost_started
from cprlib.testing.checks import without_time
from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.live_update_test import LiveUpdateTest
from cprlib.testing.measured_case import MeasuredCase
from cprlib.update.faults import Phase, faults_named
from cprlib.update.live_update import LiveUpdate, UpdateHook
from failed_update import failed_updates

USER = 65534  # a user without rights, in every distribution
# For the logs in the case's folder, start-up barriers, /dev/kvm and locked memory. The filter refuses /dev/vhost-net.
CAPABILITIES = ",".join(("-all", "+dac_override", "+sys_ptrace", "+ipc_lock"))
UNPRIVILEGED = (
    *("setpriv", "--securebits=+no_setuid_fixup"),  # or access(2), by which QEMU finds its firmware, ignores them
    *(f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--pdeathsig=KILL"),
    *(f"--inh-caps={CAPABILITIES}", f"--ambient-caps={CAPABILITIES}"),
)


class SocketFiles(UpdateHook):
    """The channels are files, as management has them.

    ``too_open`` has the mode of each socket that gives more rights than the target's umask leaves: who may write to it
    may connect.
    """

    def __init__(self) -> None:
        self.too_open: list[str] = []
        self._folder = Path()

    def before_target(self, update: LiveUpdate) -> None:
        """Give the channels paths; a path has room for about 100 bytes, so it is not in the case's folder."""
        self._folder = Path(update.stack.enter_context(TemporaryDirectory(prefix="cprlib-")))
        self._folder.chmod(0o755)
        cpr = str(self._folder / "cpr") if update.channels.cpr else ""
        update.channels = replace(update.channels, cpr=cpr, main=str(self._folder / "main"))
        update.source_channels = update.channels

    def at_phase(self, phase: Phase, update: LiveUpdate) -> None:
        """Look at the socket on which the target waits for its descriptors."""
        if phase is Phase.CPR_READY:
            umask = int(status_field(update.target.pid, "Umask") or "0", 8)
            modes = [stat.S_IMODE(path.stat().st_mode) for path in self._folder.iterdir()]
            self.too_open = [f"{mode:o} with umask {umask:o}" for mode in modes if mode & umask]


class Rights(LiveUpdateTest):
    """Mechanism ``cpr``; tap and vhost descriptors are passed, and source and target run as an unprivileged user."""

    def test_unprivileged_source_keeps_its_nic(self) -> None:
        """Source and target of an unprivileged user: updates work; after a target that died the guest has a NIC.

        The user may not open /dev/vhost-net, and a target waits for ``cont``, as with libvirt. When a target dies as
        the owner of vhost, the source cannot open the device again: the guest keeps its NIC without vhost, and QEMU
        says why; the next update works or is refused in one line, and the guest keeps running. Patches 3 (vhost: reset
        vhost devices for cpr), 6 and 11.

        :avocado: tags=patch:vhost-reset,patch:3,patch:tap-cpr,patch:6,patch:unnoticed-failure,patch:11
        :avocado: tags=mechanism:cpr,mechanism:local,vhost:on,queues:2
        """
        netdev = TapNetdev(queues=2, vhost=True, tap_source=TapSource.FDS, vhost_passed=True)
        with (
            SupervisedCalls((OPEN_VHOST_AGAIN,)) as calls,
            self.given_guest(GuestSpec(netdevs=(netdev,), role=Role.CHECKS)) as case,
        ):
            settings = case.guest.machine.settings
            sockets = SocketFiles()
            user = replace(settings, prefix=(*calls.prefix, *UNPRIVILEGED))
            case.live_update(label="to-user", target=user, hooks=[sockets])
            expected = "the target's socket has the rights that its umask leaves"
            case.expect_empty("socket-of-the-user", sockets.too_open, expected)
            self._expect_user(case)
            machine = case.guest.machine
            machine.settings = replace(machine.settings, extra=(*machine.settings.extra, WAIT_FOR_CONT))
            case.live_update(label="as-user")
            calls.arm(FailingCall(OPEN_VHOST_AGAIN, errno.EACCES, times=ALWAYS))
            with failed_updates(case) as updates:
                if not updates.inject(faults_named("target-killed-with-fds")):  # it never owned vhost
                    return
            if case.evidence.mechanism.handling.releases_vhost:
                self._lose_vhost(case)
            self._update_without_vhost(case)
            case.expect_answers("in-the-end")

    @staticmethod
    def _expect_user(case: MeasuredCase) -> None:
        users = (status_field(case.guest.machine.pid, "Uid") or "").split()
        case.expect_equal("runs-as-user", users, [str(USER)] * 4, "users of the QEMU that runs the guest")

    @staticmethod
    def _lose_vhost(case: MeasuredCase) -> None:
        """A target dies as the owner of vhost, and the source may not open the device again."""
        machine = case.guest.machine
        said = machine.mark_messages()
        if case.inject_fault(*faults_named("target-killed-with-devices")).completed_without_fault:
            return
        words = [without_time(line) for line in machine.messages_since(said).splitlines() if "vhost" in line]
        case.expect(
            "loss-of-vhost-is-reported",
            vhost_started(machine.qmp) or bool(words),
            "the source has vhost, or says that it cannot be used again",
            words[0] if words else "it says nothing of vhost",
            "the guest lost vhost, and QEMU said nothing",
        )
        case.expect_answers("after-target-died")

    @staticmethod
    def _update_without_vhost(case: MeasuredCase) -> None:
        """The next update works, or is refused in one line and the guest keeps running."""
        name, expected = "next-update", "the guest runs in the target, or the update is refused in one line"
        try:
            case.guest.live_update()
        except UpdateFailed as error:
            reason = error.happened
            case.expect_equal("runs-after-refusal", case.resumed_state(), "running", "run state of the source")
            case.expect(name, bool(reason.strip()) and "\n" not in reason.strip(), expected, f"refused: {reason}")
        else:
            case.expect(name, True, expected, "it works")
