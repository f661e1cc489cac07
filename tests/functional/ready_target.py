"""A live update that stands still when the target has its descriptors and devices, and has not loaded their state.

The target's main channel is named last (``-incoming defer``): until then the source waits, stopped, and both answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from cprlib.qemu.channels import MigrationChannels
from cprlib.qemu.machine import Machine
from cprlib.testing.measured_case import MeasuredCase
from cprlib.update.live_update import LiveUpdate

TARGET_READY = "TARGET_READY"


class DeferredChannels(MigrationChannels):
    """Channels of which the target is told the main one by QMP."""

    def incoming_arguments(self, *, deferred: bool = True) -> list[str]:  # noqa: ARG002
        """See :meth:`MigrationChannels.incoming_arguments`."""
        return MigrationChannels.incoming_arguments(self, deferred=True)


@dataclass(slots=True)
class ReadyTargetUpdate(LiveUpdate):
    """A live update with a pause.

    :param when_ready: called with the source and the target: both have the descriptors, neither runs the guest.
    """

    when_ready: Callable[[Machine, Machine], None] = lambda _source, _target: None
    held: list[tuple[Machine, MigrationChannels]] = field(default_factory=list)

    def fresh_channels(self) -> MigrationChannels:
        """See :meth:`LiveUpdate.fresh_channels`."""
        return DeferredChannels.fresh()

    def start_target(self) -> tuple[Machine, MigrationChannels]:
        """See :meth:`LiveUpdate.start_target`."""
        self.held.append(LiveUpdate.start_target(self))
        return self.held[-1]

    def wait_stopped(self) -> None:
        """See :meth:`LiveUpdate.wait_stopped`; goes on until the target is ready and stands still there."""
        LiveUpdate.wait_stopped(self)
        target, channels = self.held[-1]
        target.wait_ready()
        self._mark(TARGET_READY)
        self.when_ready(self.source, target)
        target.qmp.execute("migrate-incoming", {"channels": channels.descriptions()[:1]})


def update_held_when_ready(case: MeasuredCase, when_ready: Callable[[Machine, Machine], None]) -> None:
    """Live-update a case's guest, with a look at both QEMUs in the middle; its evidence is added to the case."""
    guest = case.guest
    source = guest.machine
    result = guest.carry_out(guest.plan_update(ReadyTargetUpdate, when_ready=when_ready))
    case.add_update(result, source.settings.netdevs[0])
