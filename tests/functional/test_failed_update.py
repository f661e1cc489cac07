"""Updates that fail: the source goes on as if nothing had been, and the next update succeeds. Patches 1 to 3."""

from __future__ import annotations

from collections.abc import Iterable

from cprlib.errors import UpdateFailed
from cprlib.update.faults import CANCELS, DEATHS, HARMLESS, LATE, SENDING, TARGETS, Fault
from cprlib.verdict.evidence import Role
from fixtures.failed_update import failed_updates
from fixtures.live_update_test import LiveUpdateTest


class FailedUpdate(LiveUpdateTest):
    """Each fault is put into an update of its own, at a phase that a gate or an event tells, on one guest."""

    def _fail(self, faults: Iterable[Fault], *, queues: int = 4, vhost: bool = True) -> None:
        with self.given_guest("cpr", queues=queues, vhost=vhost, role=Role.CHECKS) as case:
            with failed_updates(case) as updates:
                updates.inject(faults)
            try:
                case.live_update()
            except UpdateFailed as error:
                case.expect(
                    "next-update-succeeds", False, "the guest runs in the target", error.happened, error.happened
                )

    def test_source_goes_on_when_sending_fails(self) -> None:
        """The cpr channel closed, cut, spoilt or without a listener: the source runs on with vhost.

        Patches 1 to 3: on failure the PRECOPY_FAILED notifiers run, and then the VM returns to its run state.

        :avocado: tags=patch:stop-early,patch:1,patch:setup-notifier,patch:2,patch:vhost-reset,patch:3
        :avocado: tags=mechanism:cpr,vhost:on,queues:4
        """
        self._fail(SENDING)

    def test_source_goes_on_when_target_dies(self) -> None:
        """The target is killed in each phase, also as the owner of vhost: the source runs on with vhost.

        Patches 1 to 3; a vhost device whose owner died has to be opened anew.

        :avocado: tags=patch:stop-early,patch:1,patch:vhost-reset,patch:3,mechanism:cpr,vhost:on,queues:4
        """
        self._fail(DEATHS)

    def test_source_goes_on_when_cancelled(self) -> None:
        """migrate_cancel in each phase: the source runs on with vhost.

        Patches 1 to 3.

        :avocado: tags=patch:stop-early,patch:1,patch:vhost-reset,patch:3,mechanism:cpr,vhost:on,queues:4
        """
        self._fail(CANCELS)

    def test_source_goes_on_when_target_does_not_fit(self) -> None:
        """A target with other queues, memory or netdev id refuses: the source runs on with vhost.

        Reviewers' case: source and target disagree on the number of queues.

        :avocado: tags=patch:vhost-reset,patch:3,patch:tap-cpr,patch:6,mechanism:cpr,vhost:on,queues:4
        """
        self._fail(TARGETS)

    def test_late_faults(self) -> None:
        """Faults of the main channel.

        :avocado: tags=patch:stop-early,patch:1,patch:vhost-reset,patch:3,mechanism:cpr,vhost:on,queues:4
        """
        self._fail(LATE)

    def test_harmless_faults(self) -> None:
        """Pauses, a second migrate, a source that dies after the update: the update succeeds nevertheless.

        :avocado: tags=patch:stop-early,patch:1,mechanism:cpr,vhost:on,queues:4
        """
        self._fail(HARMLESS)
