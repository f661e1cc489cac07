"""A live update that stands still for a moment: its descriptors have been sent and the target has not got them yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from cprlib.deadline import Deadline
from cprlib.errors import Awaited
from cprlib.qemu.channels import MigrationChannels
from cprlib.qemu.machine import Machine
from cprlib.update.channel_gate import ChannelGate
from cprlib.update.live_update import LiveUpdate, UpdateResult
from cprlib.update.running_guest import RunningGuest

FDS_AT_GATE = "FDS_AT_GATE"
GATE_S = 20.0


@dataclass(slots=True)
class GatedUpdate(LiveUpdate):
    """A live update with a gate on its cpr channel.

    :param at_gate: called when the source has sent its CPR state, all of it, before the target has seen any.
    """

    at_gate: Callable[[ChannelGate], None] = lambda _gate: None
    gates: list[ChannelGate] = field(default_factory=list)

    def start_target(self) -> tuple[Machine, MigrationChannels]:
        """See :meth:`LiveUpdate.start_target`; the source is told the gate's name."""
        target, channels = LiveUpdate.start_target(self)
        gate = self.stack.enter_context(ChannelGate(self.topology.switch, channels.cpr, None))
        self.gates.append(gate)
        return target, replace(channels, cpr=gate.name)

    def migrate(self, channels: MigrationChannels) -> None:
        """See :meth:`LiveUpdate.migrate`; stands still at the gate."""
        LiveUpdate.migrate(self, channels)
        gate = self.gates[-1]
        gate.wait_held(Deadline(GATE_S, "the source to send its CPR state", Awaited.QEMU))
        self._mark(FDS_AT_GATE)
        self.at_gate(gate)
        gate.release()

    def wait_stopped(self) -> None:
        """It has stopped, or the series is broken and the end of the update tells more than a wait would."""


def gated_update(guest: RunningGuest, at_gate: Callable[[ChannelGate], None]) -> UpdateResult:
    """Replace the QEMU under a guest; see :class:`GatedUpdate` and :meth:`RunningGuest.live_update`."""
    return guest.carry_out(guest.plan_update(GatedUpdate, at_gate=at_gate))
