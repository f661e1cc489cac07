"""The other way to keep a tap: migration parameter ``local``, where a QEMU has it."""

from __future__ import annotations

from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.live_update_test import LiveUpdateTest
from cprlib.update.mechanism import Mechanism


class LocalParameter(LiveUpdateTest):
    """Mechanism ``local``; skipped by every QEMU that was tried so far (10.0, 10.2, 11.1.3), which all lack it."""

    def test_update_with_local_parameter_loses_nothing(self) -> None:
        """An update with migration parameter ``local`` loses no packet and keeps the open file.

        Found by query-qmp-schema: skipped (``no-local``) unless migrate-set-parameters has a member ``local``.

        :avocado: tags=mechanism:local,vhost:off,queues:1
        """
        with self.given_guest(GuestSpec(Mechanism.LOCAL)) as case:
            case.run_control()
            with case.under_traffic():
                case.live_update()
