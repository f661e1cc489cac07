"""How an update is brought to a fault: the target's settings, the gates, and what is done to a channel at them."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from types import TracebackType
from typing import Any

from cprlib.linux.namespace import NetworkNamespace
from cprlib.qemu.channels import MigrationChannels
from cprlib.qemu.machine import MachineSettings
from cprlib.update.channel_gate import ChannelGate
from cprlib.update.faults import SETTINGS, Action, Fault, Phase, Survivor
from cprlib.update.pipe_gate import PipeGate

LOADING_BYTES = 4096  # of the device state that the target has in phase "state loading"
GARBAGE = bytes(range(255, -1, -1)) * 16  # no magic number of QEMU's, nor a length that makes sense

_PIPES = {
    Phase.TARGET_STARTED: ("-readconfig", "{path}"),  # before it listens on its cpr channel
    Phase.FDS_RECEIVED: ("-object", "secret,id=gate,file={path}"),  # qemu_create_early_backends()
    Phase.CREATING_DEVICES: ("-fw_cfg", "name=opt/org.cprlib/gate,file={path}"),  # after the netdevs
}
_CPR = (Phase.VM_STOPPED, Phase.FDS_SENT)
_MAIN = (Phase.MAIN_CONNECTED, Phase.STATE_LOADING)


def changed_settings(settings: MachineSettings, action: Action) -> MachineSettings:
    """The target's settings for actions that are a target started in another way; the same ones for all others."""
    netdev, nic = settings.netdevs[0], settings.nics[0]
    changes: dict[str, Any] = {}
    match action:
        case Action.OTHER_QUEUES:
            other = netdev.queues // 2 or 1 if netdev.queues > 1 else 2
            changes = {"netdevs": (replace(netdev, queues=other),), "nics": (replace(nic, queues=other),)}
        case Action.OTHER_NETDEV:
            name = f"{netdev.identifier}x"
            changes = {"netdevs": (replace(netdev, identifier=name),), "nics": (replace(nic, netdev=name),)}
        case Action.NO_NETDEV:
            changes = {"netdevs": (), "nics": ()}
        case Action.OTHER_MEMORY:
            changes = {"memory_mib": settings.memory_mib * 2}
        case Action.OTHER_MACHINE:
            changes = {"machine": "pc" if settings.machine == "q35" else "q35"}
        case Action.NO_SPACE:
            changes = {"extra": (*settings.extra, "-D", "/dev/full")}  # the last -D counts
        case Action.NO_NET_ADMIN:
            changes = {"prefix": ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin")}
    return replace(settings, **changes)


class FaultGates:
    """A gate where the fault's phase needs one, as a context manager.

    :param namespace: network namespace of both QEMUs.
    :param channels: the target's own.
    """

    def __init__(self, namespace: NetworkNamespace, fault: Fault, channels: MigrationChannels) -> None:
        self._namespace = namespace
        self._fault = fault
        self._channels = channels
        self._cpr: ChannelGate | None = None
        self._main: ChannelGate | None = None
        self._pipe: PipeGate | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> FaultGates:
        fault, enter = self._fault, self._stack.enter_context
        if fault.phase in _CPR:
            refuse = fault.phase is Phase.VM_STOPPED
            self._cpr = enter(ChannelGate(self._namespace, self._channels.cpr, None, refuse=refuse))
        elif fault.phase in _MAIN:
            loading = fault.phase is Phase.STATE_LOADING
            byte_count = LOADING_BYTES if loading else 0
            # without a return path the source is done, and hangs up, while what it has sent waits at the gate
            delivers = fault.survivor in (Survivor.TARGET, Survivor.ONE)
            gate = ChannelGate(self._namespace, self._channels.main, byte_count, pass_on=loading, delivers=delivers)
            self._main = enter(gate)
        elif fault.phase in _PIPES and fault.action not in SETTINGS:
            self._pipe = enter(PipeGate())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def told(self) -> MigrationChannels:
        """The channels that the source is told."""
        cpr = self._cpr.name if self._cpr else self._channels.cpr
        main = self._main.name if self._main else self._channels.main
        if self._fault.action is Action.NOBODY_LISTENS:
            cpr = f"{cpr}-nobody"
        return MigrationChannels(cpr=cpr, main=main)

    @property
    def arguments(self) -> tuple[str, ...]:
        """What the target's command line has in addition."""
        if self._pipe is None:
            return ()
        return tuple(argument.format(path=self._pipe.path) for argument in _PIPES[self._fault.phase])

    def hold(self, target: int) -> bool:
        """Whether the update stands at its gate; true where it has none, or one that lets nobody in.

        :param target: process id of the target.
        :raises InstrumentError: the target has ended.
        """
        if self._pipe:
            return self._pipe.holds(target)
        if self._cpr and self._fault.phase is not Phase.VM_STOPPED:
            return self._cpr.held
        return self._main.held if self._main else True

    def release(self) -> None:
        """Open all gates."""
        for gate in (self._cpr, self._main, self._pipe):
            if gate is not None:
                gate.release()

    def spoil(self) -> None:
        """Do the fault's action to the channel that is held; nothing where the action is another's."""
        gate = self._cpr or self._main
        if gate is None:
            return
        match self._fault.action:
            case Action.CLOSE_CPR | Action.CLOSE_MAIN:
                gate.cut()
            case Action.GARBAGE_CPR | Action.GARBAGE_MAIN:
                gate.replace(GARBAGE)
            case Action.TRUNCATE_CPR:
                gate.truncate(gate.byte_count // 2)
            case Action.TRUNCATE_MAIN:
                gate.truncate(0)
            case Action.WITHOUT_FDS:
                gate.truncate(gate.byte_count, descriptors=False)
