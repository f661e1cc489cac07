"""An update from one QEMU release to another, and back; needs ``--target-base`` or ``--target-qemu``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from cprlib.errors import UpdateFailed
from cprlib.qemu.binary import QemuBinary, common_machine, machine_types, probe
from cprlib.qemu.netdev import TapNetdev
from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.live_update_test import LiveUpdateTest
from cprlib.testing.measured_case import BETWEEN_S, CONTROL_RUN_S, MeasuredCase
from cprlib.testing.nic_frames import exchange_packets, use_queue_pairs

QUEUES = 2


class CrossBase(LiveUpdateTest):
    """Mechanism ``cpr`` between the QEMU under test and another one, which parameter ``target_qemu`` names.

    The guest has the newest versioned machine type that both have, as it must to move between releases; or the one of
    parameter ``machine``, where that is a version.
    """

    @contextlib.contextmanager
    def _given_guest_for_both(self, *, vhost: bool) -> Iterator[tuple[MeasuredCase, QemuBinary, str]]:
        """The case, the other QEMU, and its version."""
        target, machine, netdevs = self.parameters.target, "", (TapNetdev(queues=QUEUES, vhost=vhost),)
        if target is not None:
            machine = common_machine(self.parameters.machine, machine_types(self.qemu), machine_types(target))
        with self.given_guest(GuestSpec(netdevs=netdevs, machine=machine, between_qemus=True)) as case:
            assert target is not None
            yield case, target, probe(target).version

    def test_update_to_another_base_loses_nothing(self) -> None:
        """An update to another QEMU release loses nothing and hands over the same open files.

        Descriptors, device state and the features that the guest negotiated move from one release to the other.
        Origin: patch 6; an operator does this with a new release.

        :avocado: tags=patch:tap-cpr,patch:6,mechanism:cpr,vhost:on,queues:2,target:other
        """
        with self._given_guest_for_both(vhost=True) as (case, target, version):
            case.run_control(CONTROL_RUN_S * 3)
            with case.under_traffic():
                case.live_update(target, note=f"{self.facts.version} to {version}")

    def test_update_back_from_another_base_works_or_is_refused(self) -> None:
        """The update back from another QEMU release works, or is refused and the guest keeps running; nothing is lost.

        The machine type allows both directions; the CPR state may not: QEMU 10.2 always sends a subsection of it that
        10.0 does not know (docs/findings.md). Whichever it is, the guest runs afterwards and no packet is lost. It uses
        one of two queue pairs meanwhile, and then both: each QEMU has to know which tap queues are detached.
        Origin: patch 6, and patch 1, which lets the source keep running.

        :avocado: tags=patch:tap-cpr,patch:6,patch:stop-early,patch:1,mechanism:cpr,vhost:off,queues:2,target:other
        """
        with self._given_guest_for_both(vhost=False) as (case, target, version):
            use_queue_pairs(case, 1, "before-update")
            case.run_control(CONTROL_RUN_S * 3)
            with case.under_traffic():
                case.live_update(target, note=f"{self.facts.version} to {version}")
                case.let_traffic_flow(BETWEEN_S)
                self._go_back(case, f"{version} to {self.facts.version}")
                case.let_traffic_flow(BETWEEN_S)
            use_queue_pairs(case, QUEUES, "afterwards")
            exchange_packets(case, QUEUES, "afterwards")

    def _go_back(self, case: MeasuredCase, note: str) -> None:
        expected = "the guest runs, in the target or, when that refuses, in the source"
        try:
            case.live_update(self.qemu, note=note, may_be_refused=True)
        except UpdateFailed as error:
            said = error.target_said or error.source_said or error.happened
            status = case.resumed_state()
            case.expect(
                "way-back",
                status == "running",
                expected,
                f"{note} refused, the source is {status}: {said}",
                f"{note} was refused ({said}), and the source is {status} instead of running",
            )
        else:
            case.expect("way-back", True, expected, f"{note} done")
