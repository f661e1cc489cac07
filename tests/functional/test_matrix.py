"""One NIC, one crossing, and everything else by parameters: what a matrix of parameters runs.

See docs/matrix.md; ``cprlib run --matrix push``.
"""

from __future__ import annotations

from cprlib.evidence.case import Role
from cprlib.testing.chain import CONTROL_RUN_S, Step, update_in_a_row
from cprlib.testing.live_update_test import LiveUpdateTest
from cprlib.update.mechanism import mechanism_named

NEGATIVE_CONTROL_UPDATES = 3  # one may lose nothing, when no packet arrives while the guest stands still


class Matrix(LiveUpdateTest):
    """Any mechanism, with queues, vhost, machine type, base and IP version as the parameters say."""

    def point(self) -> dict[str, str]:
        """What the matrix says; without one, what it would have to say for the same."""
        given = self.parameters
        said = {
            "queues": str(given.queues or 1),
            "vhost": "on" if given.vhost else "off",
            "machine": given.machine,
            "mechanism": given.mechanism or "cpr",
            "ip_version": str(given.ip_version),
        }
        return super().point() or (said | ({"base": given.base} if given.base else {}))

    def test_update(self) -> None:
        """The NIC crosses as its point of the matrix says: without loss, or as a negative control that is seen to lose.

        Mechanism ``cpr`` may lose nothing; ``link-switch`` and ``fd-share`` are known to lose packets, and three
        updates of them have to.

        :avocado: tags=patch:tap-cpr,patch:6,patch:no-loss,patch:9,matrix
        """
        given = self.parameters
        name, queues, vhost = given.mechanism or "cpr", given.queues or 1, bool(given.vhost)
        if not mechanism_named(name).handling.may_lose:
            with self.given_guest(name, queues=queues, vhost=vhost) as case:
                case.run_control()
                with case.under_traffic():
                    case.live_update()
            return
        with self.given_guest(name, queues=queues, vhost=vhost, role=Role.NEGATIVE_CONTROL) as case:
            case.run_control(CONTROL_RUN_S * NEGATIVE_CONTROL_UPDATES)
            update_in_a_row(case, [Step()] * NEGATIVE_CONTROL_UPDATES, growth=False)
