"""vhost-net moves with the guest, and stays where nothing is handed over: patch 3 of the series."""

from __future__ import annotations

import time

from cprlib.deadline import Deadline
from cprlib.evidence.records import Role
from cprlib.linux.procfs import vhost_workers
from cprlib.qemu.binary import QemuBinary
from cprlib.qemu.command_line import MigrationChannels
from cprlib.qemu.migration_format import release_path
from cprlib.qemu.start import Start, start_machine
from cprlib.testing.equivalence import compare_with_release
from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.hand_over import (
    check_order,
    check_vhost_carries,
    failing_migration,
    probing,
)
from cprlib.testing.live_update_test import LiveUpdateTest
from cprlib.testing.measured_case import MeasuredCase
from cprlib.traffic.probes import TRAFFIC_ANSWER_S
from cprlib.update.outcome import wait_migration
from cprlib.update.proxy import ChannelProxy
from cprlib.update.saved_guest import restore_guest, save_guest
from failover_pair import PAIR_NICS, PAIR_PORTS, expect_primary_given_back


class VhostHandOver(LiveUpdateTest):
    """The owner of vhost, and who carries the packets, from the kernel's tracepoints and QMP."""

    def test_vhost_moves_with_the_guest(self) -> None:
        """After each of two updates the target's vhost workers carry all packets, in both directions.

        Patch 3 (vhost: reset vhost devices for cpr); reviewers' bug: a silent downgrade to userspace virtio, which
        still answers a ping. The second update's source got its vhost from the first one.

        :avocado: tags=patch:vhost-reset,patch:3,mechanism:cpr,vhost:on,queues:1
        """
        with (
            self.given_guest(GuestSpec(vhost=True, role=Role.CHECKS)) as case,
            probing(case) as (trace, probes),
        ):
            check_vhost_carries(case, "vhost-carries", probes, trace, time.time_ns(), when="before")
            for name in ("first", "second"):
                source = case.guest.machine
                update = case.live_update(check=f"{name}-update")
                check_order(case, update, trace.report(), source, case.guest.machine)
                sent = probes.send()  # what the target's vhost finds first
                missing = probes.count_missing(Deadline(TRAFFIC_ANSWER_S, "the first answers"))
                meaning = f"packets without an answer, of the first {sent} that came after the update"
                case.expect_equal("first-packets-arrive", missing, 0, meaning, when=f"after-{name}")
                check_vhost_carries(case, "vhost-carries", probes, trace, time.time_ns(), when=f"after-{name}")

    def test_ordinary_migration_keeps_vhost(self) -> None:
        """An ordinary migration, and its failure, do not release vhost: the workers stay the same tasks.

        Patch 3's notifier belongs to mode cpr-transfer only. A guest that migrates in mode normal runs meanwhile. One
        whose migration is cancelled when its VM has been stopped runs again: patch 1 (migration: stop vm earlier for
        cpr) has one way back for all modes. A failover pair has its primary NIC back then. A guest is saved to a file
        and restored with the same options. What devices send is what they send in the release without the series.

        :avocado: tags=patch:stop-early,patch:1,patch:vhost-reset,patch:3,mechanism:cpr,vhost:on,queues:4
        """
        run = self.parameters
        ports = PAIR_PORTS if run.may_have_ports(run.machine) else ()
        with (
            self.given_guest(GuestSpec(queues=4, vhost=True, arguments=ports, role=Role.CHECKS)) as case,
            probing(case) as (trace, probes),
            case.qemu_step(),
        ):
            machine = case.guest.machine
            before = vhost_workers(machine.pid)
            with failing_migration(case):
                check_vhost_carries(case, "vhost-carries-while-migrating", probes, trace, time.time_ns())
            check_vhost_carries(case, "vhost-carries-after-failure", probes, trace, time.time_ns())
            self._cancel_late(case)
            check_vhost_carries(case, "vhost-carries-after-late-cancel", probes, trace, time.time_ns())
            meaning = "an ordinary migration made QEMU release its vhost devices; their tasks"
            case.expect_equal("same-workers", vhost_workers(machine.pid), before, meaning)
            expect_format_of_release(case, self.qemu, self.facts.version)
            expect_restored(case)
            if ports:
                expect_primary_given_back(case)
            else:
                case.skip_check(
                    "primary-is-given-back", PAIR_NICS, "a failover pair needs machine q35 and no legacy NICs"
                )

    @staticmethod
    def _cancel_late(case: MeasuredCase) -> None:
        """Cancel an ordinary migration when it has stopped the VM; shared RAM is not sent."""
        machine = case.guest.machine
        machine.set_capabilities({"pause-before-switchover": True, "x-ignore-shared": True})
        with ChannelProxy(case.guest.topology.switch) as sink:
            machine.qmp.execute("migrate", {"channels": MigrationChannels("", sink.name).descriptions()[:1]})
            wait_migration(machine, "pre-switchover")
            stopped = machine.status()
            machine.qmp.execute("migrate_cancel")
            wait_migration(machine, "cancelled")
        resumed = case.resumed_state()
        case.expect(
            "runs-after-late-cancel",
            stopped != "running" and resumed == "running",
            "stopped before the switchover, running after migrate_cancel",
            f"{stopped}, then {resumed}",
            f"the VM is {resumed} after an ordinary migration was cancelled; it was {stopped} before",
        )


def expect_restored(case: MeasuredCase) -> None:
    """Save the guest to a file, and restore it in another QEMU with the same options: no descriptors are sent to it."""
    guest, path = case.guest, case.folder / "saved"
    source = guest.machine
    source.set_capabilities({"pause-before-switchover": False, "x-ignore-shared": False})
    try:
        save_guest(source, path)
        source.quit()
        started = start_machine("restored", source.settings, case.folder, guest.topology.switch, Start.RESTORE)
        restored = guest.stack.enter_context(started)
        restored.wait_ready()
        restore_guest(restored, path)
    finally:
        path.unlink(missing_ok=True)
    guest.move_to(restored)
    case.expect_answers("after-restore")


def expect_format_of_release(case: MeasuredCase, qemu: QemuBinary, version: str) -> None:
    """Check that QEMU's devices send the fields that they send in the release it is built from.

    :param version: the QEMU's.
    """
    name, path = "migration-format", release_path(version)
    if path.exists():
        case.add_equivalence(compare_with_release(qemu, path, case.evidence.mechanism), name)
        return
    make = f"python3 -m cprlib.qemu.migration_format QEMU {path.stem} > fixtures/migration-format/{path.name}"
    reason = f"{path.name} is not there; make it with a QEMU of that release without the series: {make}"
    case.skip_check(name, "the format of the release", reason)
