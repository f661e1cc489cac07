"""An update from one QEMU release to another, and back; wants ``--target-base`` or ``--target-qemu``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

from cprlib.qemu.binary import QemuBinary, machine_types, newest_common, probe
from fixtures.chain import CALIBRATION_S, Step, update_in_a_row
from fixtures.live_update_test import LiveUpdateTest
from fixtures.measured_case import MeasuredCase


class CrossBase(LiveUpdateTest):
    """Mechanism ``cpr`` between the QEMU under test and another one, which parameter ``target_qemu`` names.

    The guest has the newest versioned machine type that both have, as it must to move between releases.
    """

    @contextlib.contextmanager
    def _given_guest_for_both(self, *, queues: int, vhost: bool) -> Iterator[tuple[MeasuredCase, QemuBinary, str]]:
        """The case, the other QEMU, and its version."""
        given = self.parameters
        target = QemuBinary(given.target_qemu, given.target_firmware) if given.target_qemu else None
        if target is not None:
            common = newest_common("pc-q35", machine_types(self.qemu), machine_types(target))
            self.parameters = replace(given, machine=common or given.machine)
        with self.given_guest("cpr", queues=queues, vhost=vhost, target=target, needs_target=True) as case:
            assert target is not None
            yield case, target, probe(target).version

    def test_update_to_another_base_loses_nothing(self) -> None:
        """An update to another QEMU release loses nothing and hands over the same open files.

        The descriptors, the device state and the features that the guest negotiated cross from one release to the
        other. Origin: patch 6; what an operator does with a new release.

        :avocado: tags=patch:tap-cpr,patch:6,mechanism:cpr,vhost:on,queues:2,target:other
        """
        with self._given_guest_for_both(queues=2, vhost=True) as (case, target, version):
            case.calibrate()
            with case.under_traffic():
                case.live_update(target, f"{self.facts.version} to {version}")

    def test_update_to_another_base_and_back_loses_nothing(self) -> None:
        """An update to another QEMU release, back, and there again loses nothing: the way out of a bad release is open.

        The guest was booted by the QEMU under test with a machine type that both have. Origin: patch 6.

        :avocado: tags=patch:tap-cpr,patch:6,mechanism:cpr,vhost:off,queues:1,target:other
        """
        with self._given_guest_for_both(queues=1, vhost=False) as (case, target, version):
            there, back = f"{self.facts.version} to {version}", f"{version} to {self.facts.version}"
            steps = [Step(target, there), Step(self.qemu, back), Step(target, there)]
            case.calibrate(CALIBRATION_S * len(steps))
            update_in_a_row(case, steps, growth=False)
