"""Without ``cpr=on`` QEMU behaves as stock QEMU: it saves and sends no descriptor and keeps blocking modes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from cprlib.errors import InstrumentError
from cprlib.evidence.records import Role
from cprlib.linux.descriptors import read_table
from cprlib.linux.ioctls import TUNSETOFFLOAD
from cprlib.linux.libc import duplicate_descriptor
from cprlib.linux.tap import offload_bits, open_tap, read_tap_queues
from cprlib.qemu.command_line import MigrationChannels
from cprlib.qemu.machine import Machine
from cprlib.qemu.netdev import PassedFds, TapNetdev, TapSource
from cprlib.qemu.start import start_machine
from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.hand_over import check_vhost_carries, probing
from cprlib.testing.live_update_test import LiveUpdateTest
from cprlib.testing.measured_case import MeasuredCase
from cprlib.update.hooks import RecordSentFds
from cprlib.update.mechanism import Mechanism
from cprlib.update.outcome import wait_migration
from cprlib.update.running_guest import RunningGuest
from tap_programs import Programs


@contextlib.contextmanager
def copied_taps(machine: Machine) -> Iterator[PassedFds]:
    """Copies of the tap descriptors of a QEMU, as management keeps them; closed when the body ends.

    :raises InstrumentError: the kernel refuses.
    """
    with contextlib.ExitStack() as stack:
        copies = []
        for row in read_table(machine.pid).of_kind("tap"):
            try:
                copies.append(duplicate_descriptor(machine.pid, row.number))
            except OSError as error:
                raise InstrumentError("copy a tap descriptor of QEMU", str(error)) from error
            stack.callback(os.close, copies[-1])
        yield PassedFds(tuple(copies))


def nonblocking_taps(machine: Machine) -> list[bool]:
    """Whether O_NONBLOCK is set, for each tap descriptor."""
    return [row.nonblocking for row in read_table(machine.pid).of_kind("tap")]


def detached_queues(machine: Machine) -> dict[str, int]:
    """How many queues are detached, by name of the interface without its number, which differs in the target."""
    queues = [queue for queue in read_tap_queues(machine.pid) if queue.detached]
    return Counter(queue.interface.rstrip("0123456789") for queue in queues)


def migrate_ordinarily(guest: RunningGuest) -> dict[str, list[bool]]:
    """Migrate a guest with one NIC in mode ``normal`` to a second QEMU, which gets the same taps by getfd.

    :returns: :func:`nonblocking_taps` of the source before, and of both QEMUs when the guest runs in the target.
    :raises QemuFailed: the migration failed.
    """
    source, channels = guest.machine, MigrationChannels.fresh()
    nonblocking = {"source before": nonblocking_taps(source)}
    settings = replace(source.settings, plugged=True, extra=(*source.settings.extra, "-incoming", "defer"))
    target = guest.stack.enter_context(start_machine("target", settings, guest.folder, guest.topology.switch))
    with copied_taps(source) as files:
        target.plug(settings.netdevs[0], settings.nics[0], files)
    main = {"channels": channels.descriptions()[:1]}
    target.qmp.execute("migrate-incoming", main)
    source.qmp.execute("migrate", main)
    wait_migration(source, "completed", seconds=60)
    target.qmp.execute("cont")
    nonblocking |= {"source": nonblocking_taps(source), "target": nonblocking_taps(target)}
    source.quit()
    guest.move_to(target)
    return nonblocking


def expect_bridge_resets_tap(case: MeasuredCase, programs: Programs) -> None:
    """Check that a netdev ``bridge`` resets header and offloads of its tap, as another reader may have set them."""
    machine, switch, seen = case.guest.machine, case.guest.topology.switch, []
    for interface, options in (("new0", ()), ("used0", ("--used",))):
        helper = programs.helper(interface, *options)
        machine.qmp.execute("netdev_add", {"type": "bridge", "id": interface, "br": "br0", "helper": helper})
        (queue,) = (item for item in read_tap_queues(machine.pid) if item.interface == interface)
        seen.append((f"{queue.header_bytes} bytes", offload_bits(switch, interface)))
        machine.qmp.execute("netdev_del", {"id": interface})
    with switch.entered(), os.fdopen(open_tap("own0"), "rb", buffering=0) as tap:
        fcntl.ioctl(tap, TUNSETOFFLOAD, 0)
        expected = ("10 bytes", offload_bits(switch, "own0"))
    meaning = "taps of -netdev bridge, new and as another reader left it, before a NIC uses them: header, offloads"
    case.expect_equal("bridge-tap", seen, [expected, expected], meaning)


class CprOff(LiveUpdateTest):
    """Mechanism ``link-switch``, the update without the series, and an ordinary migration."""

    def test_nothing_is_sent_with_cpr_off(self) -> None:
        """With ``cpr=off``, which is the default, nothing of a netdev is saved or sent, and scripts run as usual.

        Three netdevs, with ``cpr`` left out and off, by name, with scripts, and with a descriptor from management; the
        update is with new taps. The target's up script and the source's down script run, the queue pair that the guest
        does not use is detached, and the target's own vhost carries packets afterwards. Patch 3 (vhost: reset vhost
        devices for cpr), 6 (tap: cpr support), 8 (tap: cpr fixes).

        :avocado: tags=patch:vhost-reset,patch:3,patch:tap-cpr,patch:6,patch:cpr-fixes,patch:8
        :avocado: tags=mechanism:link-switch,vhost:on,queues:2
        """
        programs = Programs.made_in(self.outputdir)
        up, down = programs.script("up"), programs.script("down")
        off = False if self.facts.netdev_cpr else None
        netdevs = [
            TapNetdev(queues=2, vhost=True),
            TapNetdev("scripts", "alt0", vhost=True, cpr=off, script=up, down_script=down),
            TapNetdev("onefd", "man0", vhost=True, tap_source=TapSource.FD),
        ]
        spec = GuestSpec(Mechanism.LINK_SWITCH, netdevs=tuple(netdevs), role=Role.CHECKS)
        with self.given_guest(spec) as case, probing(case) as (trace, probes), case.qemu_step():
            names = {item.identifier for item in netdevs}
            saved = [item.text for item in case.guest.machine.trace.all_of("cpr_save_fd")]
            case.require("memory-saved", bool(saved), "trace records cpr_save_fd of memory", f"{len(saved)} records")
            case.expect_empty(
                "nothing-saved",
                [text for text in saved if text.split(",")[0] in names],
                "no trace record cpr_save_fd of a netdev",
                "with cpr=off, QEMU saved descriptors",
            )
            case.guest.agent.set_queue_pairs(1)
            detached = detached_queues(case.guest.machine)
            case.require("queue-unused", bool(detached), "a queue that the guest does not use is detached", detached)
            files = RecordSentFds()
            result = case.live_update(label="link-switch", hooks=[files])
            case.expect_empty(
                "nothing-sent",
                [item for item in files.sent if item.file.kind != "memfd"],
                "no descriptor but those of memory in the CPR state",
                "with cpr=off, the CPR state has descriptors",
            )
            case.expect_empty(
                "files-of-its-own",
                [item for item in result.pairings if item.paired],
                "no tap or vhost file is open in both QEMUs",
                "with cpr=off, descriptors were handed over",
            )
            case.expect_equal(
                "queues-detached",
                detached_queues(case.guest.machine),
                detached,
                "with cpr=off, taps of the target have other queues detached than those of the source had",
            )
            case.expect_answers("link-switch")
            check_vhost_carries(case, "vhost-carries-packets", probes, trace, time.time_ns())
            ran = ("up alt0", "up alt1", "down alt0")  # in source and target, and when the source quits
            case.expect_equal("scripts-as-in-stock-qemu", programs.runs(), ran, "with cpr=off, other scripts ran")

    def test_passed_descriptors_are_treated_as_by_stock_qemu(self) -> None:
        """An ordinary migration leaves the blocking mode of passed descriptors as stock QEMU does.

        The control for patch 8 (tap: cpr fixes), which must keep O_NONBLOCK of descriptors that come with CPR state,
        and of those only: stock QEMU clears it on any other that it receives (io/channel-socket.c), and sets it on
        taps. In review a version of the series changed it for all descriptors received.

        :avocado: tags=patch:cpr-fixes,patch:8,mechanism:none,vhost:off,queues:2
        """
        netdev = TapNetdev(queues=2, tap_source=TapSource.FDS)
        spec = GuestSpec(Mechanism.LINK_SWITCH, netdevs=(netdev,), pluggable=True, role=Role.CHECKS)
        with self.given_guest(spec) as case, case.qemu_step():
            for label, flags in (("blocking", 0), ("nonblocking", os.O_NONBLOCK)):
                reader, writer = os.pipe2(os.O_CLOEXEC | flags)
                try:
                    before = {row.number for row in read_table(case.guest.machine.pid).rows}
                    case.guest.machine.qmp.pass_descriptor(label, reader)
                    rows = [row for row in read_table(case.guest.machine.pid).rows if row.number not in before]
                    case.expect_equal(
                        f"{label}-pipe-by-getfd",
                        ["O_NONBLOCK" if row.nonblocking else "blocking" for row in rows],
                        ["blocking"],
                        "stock QEMU clears O_NONBLOCK of a descriptor received by QMP; new descriptors here",
                    )
                finally:
                    os.close(reader)
                    os.close(writer)
            expect_bridge_resets_tap(case, Programs.made_in(self.outputdir))
            nonblocking = migrate_ordinarily(case.guest)
            case.expect_equal(
                "nonblocking-taps",
                nonblocking,
                {who: [True, True] for who in ("source before", "source", "target")},
                "an ordinary migration changed O_NONBLOCK of taps that management passed",
            )
            case.expect_answers("migrated")
