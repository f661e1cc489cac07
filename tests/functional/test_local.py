"""The other way to keep a tap: migration parameter ``local``, where a QEMU has it."""

from __future__ import annotations

import contextlib
import json
import resource
from collections.abc import Iterator, Mapping

from cprlib.deadline import Deadline
from cprlib.errors import Awaited, NotSupported, QemuFailed, QmpRefused, SkipWord
from cprlib.evidence.records import Role
from cprlib.linux.descriptors import exhaust_descriptors, read_table
from cprlib.qemu.command_line import WAIT_FOR_CONT, MigrationChannels, file_channel
from cprlib.qemu.facts import LocalNames
from cprlib.qemu.machine import Machine
from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.live_update_test import LiveUpdateTest
from cprlib.testing.measured_case import CONTROL_RUN_S, MeasuredCase
from cprlib.update.faults import faults_named
from cprlib.update.mechanism import Mechanism, Mode
from cprlib.update.outcome import ENDED_STATES, query_migration, wait_migration
from failed_update import fail_then_update
from qemu_without_nic import qemu_without_nic
from tap_programs import Programs

CPR_FAULTS = (
    *("no-listener", "cpr-closed-with-fds", "target-killed-with-fds", "target-killed-before-switchover"),
    *("main-closed-loading", "main-truncated", "no-netdev", "cancel-before-switchover"),
)
NORMAL_FAULTS = (
    *("target-killed-at-start", "target-killed-when-ready", "target-killed-at-main"),
    *("target-killed-before-switchover", "main-closed", "main-garbage", "no-netdev", "cancel-before-switchover"),
)
LATE_FAULTS = ("main-closed-loading", "main-truncated", "no-netdev")
UPDATES, QUEUES = 2, 2
ENDS_S = 20.0
NOWHERE = "tcp:127.0.0.1:9"  # nothing listens there


class LocalParameter(LiveUpdateTest):
    """Mechanism ``local``: the tap is kept, and the target opens vhost devices of its own.

    Found by query-qmp-schema: skipped (``no-local``) where QEMU has no such migration parameter. No release has it;
    base ``10.2-local`` is the project's stand-in.
    """

    def _spec(self, *, vhost: bool = False, queues: int = 1, role: Role = Role.UPDATE) -> GuestSpec:
        return GuestSpec(Mechanism.LOCAL, self.parameters.mode, queues=queues, vhost=vhost, role=role)

    def test_update_with_local_parameter_loses_nothing(self) -> None:
        """Two updates with migration parameter ``local`` lose no packet and keep the tap.

        In mode cpr-transfer; with ``-p mechanism=local -p mode=normal`` as an ordinary migration, in which guest RAM is
        in a file that both QEMUs map (capability x-ignore-shared).

        :avocado: tags=mechanism:local,vhost:off,queues:1
        """
        with self.given_guest(self._spec()) as case:
            case.run_control(CONTROL_RUN_S * UPDATES)
            case.update_chain(UPDATES, growth=False)

    def test_source_keeps_running_when_local_update_fails(self) -> None:
        """Updates with migration parameter ``local`` that fail in each phase: the source keeps running with vhost.

        The target has opened vhost devices of its own, and changes nothing of the tap before its guest runs.

        :avocado: tags=mechanism:local,vhost:on,queues:2
        """
        faults = CPR_FAULTS if self.parameters.mode is Mode.CPR_TRANSFER else NORMAL_FAULTS
        with self.given_guest(self._spec(queues=QUEUES, vhost=True, role=Role.CHECKS)) as case:
            fail_then_update(case, faults_named(*faults))

    def test_source_without_vhost_reads_its_tap_again(self) -> None:
        """Updates with migration parameter ``local`` that fail late: the source reads its tap again, without vhost.

        By then the tap was sent with the device state.

        :avocado: tags=mechanism:local,vhost:off,queues:2
        """
        with self.given_guest(self._spec(queues=QUEUES, role=Role.CHECKS)) as case:
            fail_then_update(case, faults_named(*LATE_FAULTS))

    def test_local_netdev_is_made_and_removed(self) -> None:
        """A netdev that permits ``local`` can be on the command line, is replaced under its NIC, and ends once.

        QEMUs without a guest: the target uses vhost with ``vhostforce=on`` alone, and releases it when the netdev goes;
        a netdev that is refused for lack of vhost leaves its id free; a migration by TCP is refused, and so is a
        target that has opened the tap itself; the down script runs when the QEMU ends in which the guest ran last.

        :avocado: tags=mechanism:local,vhost:on,queues:1
        """
        programs = Programs.made_in(self.outputdir)
        with self.given_guest(self._spec(role=Role.CHECKS)) as case, case.qemu_step():
            names = self.facts.local
            if names is None or not names.netdev:
                happened = "no option of its netdev permits that"
                raise NotSupported("hand over a netdev without a NIC", happened, word=SkipWord.NO_LOCAL)
            replace_under_nic(case, names)
            hand_over(case, names, programs)
            hand_over_in_vain(case, names, programs)
            hand_over_to_own_tap(case, names)


def hand_over_to_own_tap(case: MeasuredCase, names: LocalNames) -> None:
    """A target that has opened the tap itself is refused, or has the source's descriptors only: others take packets."""
    channels, opened = MigrationChannels.fresh().descriptions()[:1], json.dumps(_tap(names, ifname="local5"))
    with (
        qemu_without_nic(case, "own-tap-source", WAIT_FOR_CONT, "-netdev", opened) as source,
        qemu_without_nic(case, "own-tap", WAIT_FOR_CONT, "-netdev", opened, "-incoming", "defer") as target,
    ):
        for machine in (source, target):
            machine.qmp.execute("migrate-set-parameters", {names.parameter: True})
        target.qmp.execute("migrate-incoming", {"channels": channels})
        source.qmp.execute("migrate", {"channels": channels})

        def ended() -> str:
            if target.process.poll() is not None:  # it ends when it refuses
                return "failed"
            with contextlib.suppress(QemuFailed):
                status = query_migration(target).status
                return status if status in ENDED_STATES else ""
            return ""

        deadline = Deadline(ENDS_S, "the target to take the tap, or to end", Awaited.QEMU)
        status = deadline.poll(ended, 0.02)
        taps = len(read_table(target.pid).of_kind("tap")) if status == "completed" else 0
        expected, observed = f"the target is refused, or has {QUEUES} queues of the tap", f"{status}, {taps} queues"
        case.expect("target-with-own-tap", status != "completed" or taps == QUEUES, expected, observed)


def _tap(names: LocalNames, **options: object) -> Mapping[str, object]:
    """A netdev that may be handed over."""
    fixed = {"type": "tap", "id": "local0", "queues": QUEUES, "script": "no", "downscript": "no", names.netdev: True}
    return {**fixed, **options}


def replace_under_nic(case: MeasuredCase, names: LocalNames) -> None:
    """A netdev of the command line is removed while its NIC keeps it, and another one gets its id."""
    netdev = json.dumps(_tap(names, ifname="local1"))
    arguments = ("-netdev", netdev, "-device", "virtio-net-pci,netdev=local0,mq=on")
    with qemu_without_nic(case, "with-local-netdev", WAIT_FOR_CONT, *arguments) as machine:
        machine.qmp.execute("netdev_del", {"id": "local0"})
        machine.qmp.execute("netdev_add", _tap(names, ifname="local2"))
        case.expect_equal("netdev-replaced", machine.status(), "prelaunch", "the QEMU with the replaced netdev")


@contextlib.contextmanager
def no_more_descriptors(pid: int) -> Iterator[None]:
    """A process can open nothing meanwhile."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    exhaust_descriptors(pid)
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def expect_refused(
    case: MeasuredCase, name: str, machine: Machine, command: tuple[str, Mapping[str, object]], expected: str
) -> None:
    """Check that a QEMU refuses a command."""
    said = ""
    with contextlib.suppress(QmpRefused):
        said = f"accepted: {machine.qmp.execute(*command)}"
    case.expect(name, not said, expected, said or "refused", f"{command[0]} was not refused")


@contextlib.contextmanager
def handed_over(
    case: MeasuredCase, names: LocalNames, interface: str, programs: Programs
) -> Iterator[tuple[Machine, Machine]]:
    """Source and target of an ordinary migration of a netdev without a NIC, which has completed; neither runs."""
    channels, down = MigrationChannels.fresh().descriptions()[:1], programs.script("down")
    arguments = ("-netdev", json.dumps(_tap(names, ifname=interface, downscript=down)))
    with (
        qemu_without_nic(case, f"{interface}-source", WAIT_FOR_CONT, *arguments) as source,
        qemu_without_nic(case, f"{interface}-target", WAIT_FOR_CONT, "-incoming", "defer") as target,
    ):
        for machine in (source, target):
            machine.qmp.execute("migrate-set-parameters", {names.parameter: True})
        refused = "refused at once: only a unix socket carries descriptors"
        expect_refused(case, f"{interface}-by-tcp-refused", source, ("migrate", {"uri": NOWHERE}), refused)
        only_target = {names.target: True} if names.target else {}
        netdev, vhost = _tap(names, vhostforce=True, downscript=down, **only_target), []
        with no_more_descriptors(target.pid):
            refused = "refused: vhost-net cannot be opened"
            expect_refused(case, f"{interface}-without-vhost-refused", target, ("netdev_add", netdev), refused)
        for command in ("netdev_add", "netdev_del", "netdev_add"):
            target.qmp.execute(command, netdev if command == "netdev_add" else {"id": netdev["id"]})
            vhost.append(len(read_table(target.pid).of_kind("vhost")))
        meaning = "vhost devices of a target with vhostforce=on: added, deleted while it waits for its tap, added again"
        case.expect_equal(f"vhost-of-{interface}", vhost, [QUEUES, 0, QUEUES], meaning)
        target.qmp.execute("migrate-incoming", {"channels": channels})
        source.qmp.execute("migrate", {"channels": channels})
        wait_migration(source, "completed")
        wait_migration(target, "completed")
        yield source, target


def hand_over(case: MeasuredCase, names: LocalNames, programs: Programs) -> None:
    """The target runs, and takes the tap down in the end."""
    with handed_over(case, names, "local3", programs) as (source, target):
        target.qmp.execute("cont")
        source.quit()
        case.expect_equal("source-runs-no-down-script", programs.runs(), (), "programs that ran until the source ended")
        target.quit()
        meaning = "programs that ran until the target ended"
        case.expect_equal("target-runs-down-script", programs.runs(), ("down local3",), meaning)


def hand_over_in_vain(case: MeasuredCase, names: LocalNames, programs: Programs) -> None:
    """The target ends before it has run; the source runs again, is migrated to a file, and takes the tap down."""
    before = programs.runs()
    with handed_over(case, names, "local4", programs) as (source, target):
        target.quit()
        meaning = "programs that a target has run which never ran itself"
        case.expect_equal("waiting-target-runs-no-down-script", programs.runs(), before, meaning)
        source.qmp.execute("cont")
        source.qmp.execute("migrate-set-parameters", {names.parameter: False})
        source.qmp.execute("migrate", {"channels": [file_channel((case.folder / "migrated").absolute())]})
        wait_migration(source, "completed")
        source.quit()
        ran, meaning = programs.runs(), "programs that ran until the source ended, which had run again"
        case.expect_equal("resumed-source-runs-down-script", ran, (*before, "down local4"), meaning)
