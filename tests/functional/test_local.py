"""The other way to keep a tap: migration parameter ``local``, where a QEMU has it."""

from __future__ import annotations

from cprlib.evidence.records import Role
from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.live_update_test import LiveUpdateTest
from cprlib.update.faults import faults_named
from cprlib.update.mechanism import Mechanism, Mode
from failed_update import failed_updates

CPR_FAULTS = (
    *("no-listener", "cpr-closed-with-fds", "target-killed-with-fds", "target-killed-before-switchover"),
    *("main-closed-loading", "main-truncated", "no-netdev", "cancel-before-switchover"),
)
NORMAL_FAULTS = (
    *("target-killed-at-start", "target-killed-when-ready", "target-killed-at-main"),
    *("target-killed-before-switchover", "main-closed", "main-garbage", "no-netdev", "cancel-before-switchover"),
)


class LocalParameter(LiveUpdateTest):
    """Mechanism ``local``: the tap is kept, and the target opens vhost devices of its own.

    Found by query-qmp-schema: skipped (``no-local``) where QEMU has no such migration parameter. No release has it;
    base ``10.2-local`` is the project's stand-in.
    """

    def _spec(self, *, vhost: bool = False, queues: int = 1, role: Role = Role.UPDATE) -> GuestSpec:
        return GuestSpec(Mechanism.LOCAL, self.parameters.mode, queues=queues, vhost=vhost, role=role)

    def test_update_with_local_parameter_loses_nothing(self) -> None:
        """An update with migration parameter ``local`` loses no packet and keeps the tap.

        In mode cpr-transfer; with ``-p mechanism=local -p mode=normal`` as an ordinary migration, in which guest RAM is
        in a file that both QEMUs map (capability x-ignore-shared).

        :avocado: tags=mechanism:local,vhost:off,queues:1
        """
        with self.given_guest(self._spec()) as case:
            case.run_control()
            with case.under_traffic():
                case.live_update()

    def test_source_keeps_running_when_local_update_fails(self) -> None:
        """Updates with migration parameter ``local`` that fail in each phase: the source keeps running with vhost.

        The target has opened vhost devices of its own, and changes nothing of the tap before its guest runs.

        :avocado: tags=mechanism:local,vhost:on,queues:2
        """
        faults = CPR_FAULTS if self.parameters.mode is Mode.CPR_TRANSFER else NORMAL_FAULTS
        with self.given_guest(self._spec(queues=2, vhost=True, role=Role.CHECKS)) as case:
            with failed_updates(case) as updates:
                if not updates.inject(faults_named(*faults)):
                    return
            case.live_update(check="next-update-succeeds")
