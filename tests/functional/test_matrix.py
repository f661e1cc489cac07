"""One NIC and one update, with everything else by parameters: what a matrix of parameters runs.

See docs/matrix.md; ``cprlib run --matrix push``.
"""

from __future__ import annotations

from dataclasses import replace

from cprlib.evidence.records import Role
from cprlib.qemu.netdev import TapNetdev
from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.live_update_test import LiveUpdateTest
from cprlib.testing.measured_case import CONTROL_RUN_S
from cprlib.update.mechanism import Mechanism

NEGATIVE_CONTROL_UPDATES = 3  # by default: one may lose nothing, when no packet arrives while the guest stands still


class Matrix(LiveUpdateTest):
    """Any mechanism, with queues, vhost, machine type, base and IP version as the parameters say."""

    def point(self) -> dict[str, str]:
        """The point of the matrix; without a matrix, the one that means the same."""
        run = self.parameters
        values = {
            "queues": str(run.queues or 1),
            "vhost": "on" if run.vhost else "off",
            "machine": run.machine,
            "mechanism": run.mechanism or Mechanism.CPR,
            "ip_version": str(run.ip_version),
        }
        return super().point() or (values | ({"base": run.base} if run.base else {}))

    def test_update(self) -> None:
        """An update by the point's mechanism loses nothing, or is seen to lose packets as a negative control.

        Mechanism ``cpr`` may lose nothing; ``link-switch`` and ``fd-share`` are known to lose packets, and three
        updates of them have to. Parameter ``chain`` sets another number of updates.

        With ``nics=2`` the guest has a second NIC without ``cpr=on``, which gets a new tap; it must answer afterwards.

        :avocado: tags=patch:tap-cpr,patch:6,patch:no-loss,patch:9,matrix
        """
        run = self.parameters
        spec = GuestSpec(run.mechanism or Mechanism.CPR, run.mode, queues=run.queues or 1, vhost=bool(run.vhost))
        if (run.nics or 1) > 1:
            self._update_mixed_nics(spec)
            return
        if not spec.mechanism.handling.may_lose and run.chain is None:
            with self.given_guest(spec) as case:
                case.run_control()
                with case.under_traffic():
                    case.live_update()
            return
        updates = run.chain or NEGATIVE_CONTROL_UPDATES
        role = Role.NEGATIVE_CONTROL if spec.mechanism.handling.may_lose else Role.UPDATE
        with self.given_guest(replace(spec, role=role)) as case:
            case.run_control(CONTROL_RUN_S * updates)
            case.update_chain(updates, growth=False)

    def _update_mixed_nics(self, spec: GuestSpec) -> None:
        """Update a guest with a second NIC that is not handed over."""
        first = TapNetdev(queues=spec.queues, vhost=spec.vhost)
        netdevs = (first, TapNetdev("net1", "tap1", cpr=False))
        with self.given_guest(replace(spec, netdevs=netdevs)) as case:
            case.compares_states = False  # the second NIC has another tap afterwards
            case.expect_answers("before-update")
            case.run_control()
            with case.under_traffic():
                case.live_update()
            case.expect_answers("after-update")
