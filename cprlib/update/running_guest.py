"""A guest that runs on the switch's tap and can be updated repeatedly; most tests begin with one."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cprlib.deadline import Deadline
from cprlib.errors import Awaited, CprlibError, DeadlineExceeded, GuestFailed, QemuFailed, UpdateFailed
from cprlib.guest.agent import AgentConnection
from cprlib.guest.console import Console
from cprlib.linux.topology import MTU, TAP_QUEUE_LENGTH, Topology, build_topology
from cprlib.qemu.binary import QemuBinary
from cprlib.qemu.command_line import FdsByNetdev, MachineSettings
from cprlib.qemu.machine import Machine
from cprlib.qemu.netdev import TapNetdev, TapSource, opened_fds
from cprlib.qemu.start import Start, start_machine
from cprlib.update.exec_update import ExecUpdate
from cprlib.update.live_update import LiveUpdate, UpdateHook
from cprlib.update.mechanism import Mechanism, Mode
from cprlib.update.results import UpdateResult
from cprlib.update.saved_guest import restore_guest

BOOT_SECONDS = 60.0
SYSRQ_KEYS = "9wl4"  # print all, blocked tasks, what the CPUs run, print as before; Linux: admin-guide/sysrq.rst
SYSRQ_END = re.compile(r".*sysrq: Loglevel set to 4")
SYSRQ_S = 5.0
NIC_MODULE = "virtio_net"  # in the messages of the guest's kernel


@dataclass(slots=True)
class RunningGuest:
    """A guest whose network is up; made by :func:`running_guest`.

    :param machine: the QEMU that runs it now.
    :param agent: the connection to its agent, through that QEMU.
    :param updates: results of its updates so far.
    :param latest_update: the last one that was planned, successful or not; None before the first.
    :param planned: number of updates that were planned, with or without a fault.
    :param failed: number of updates without a fault that failed.
    :param passed: files that management opened and passes to every QEMU, by netdev.
    :param mode: migration mode of its updates.
    """

    topology: Topology
    mechanism: Mechanism
    folder: Path
    stack: contextlib.ExitStack
    machine: Machine
    agent: AgentConnection
    updates: list[UpdateResult] = field(default_factory=list)
    passed: FdsByNetdev | None = None
    mode: Mode = Mode.CPR_TRANSFER
    latest_update: LiveUpdate | None = None
    planned: int = 0
    failed: int = 0

    def live_update(
        self,
        qemu: QemuBinary | None = None,
        target_settings: MachineSettings | None = None,
        hooks: Sequence[UpdateHook] = (),
    ) -> UpdateResult:
        """Replace the QEMU under the guest; on failure the guest stays in the source.

        :param qemu: QEMU of the target; the source's when None.
        :param target_settings: settings of the target; the source's when None.
        :param hooks: called between the steps of the update.
        :raises UpdateFailed, QemuFailed, DeadlineExceeded: see :meth:`LiveUpdate.perform`.
        """
        settings = target_settings or self.machine.settings
        if qemu is not None:
            settings = replace(settings, qemu=qemu)
        update = self.plan_update(hooks, settings)
        try:
            machine, result = update.perform()
        except CprlibError as error:
            self.failed += 1
            update.failed = isinstance(error, UpdateFailed)
            raise
        self.move_to(machine)
        self.updates.append(result)
        return result

    @property
    def next_target(self) -> str:
        """Name of the next update's target: ``target``, ``target-2``, ``target-3``.

        The target of a failed update keeps its name and its files.
        """
        number = len(self.updates) + self.failed
        return f"target-{number + 1}" if number else "target"

    def plan_update(
        self,
        hooks: Sequence[UpdateHook] = (),
        target_settings: MachineSettings | None = None,
        *,
        target_name: str = "",
        stack: contextlib.ExitStack | None = None,
    ) -> LiveUpdate:
        """The next update of this guest, not begun.

        :param target_settings: the source's when None.
        :param target_name: :attr:`next_target` when empty.
        :param stack: of the target's resources; the guest's when None.
        """
        self.planned += 1
        kind = ExecUpdate if self.mode is Mode.CPR_EXEC else LiveUpdate
        self.latest_update = kind(
            source=self.machine,
            mechanism=self.mechanism,
            topology=self.topology,
            stack=stack or self.stack,
            folder=self.folder,
            target_settings=target_settings or self.machine.settings,
            target_name=target_name or self.next_target,
            passed=self.passed,
            hooks=hooks,
            mode=self.mode,
        )
        return self.latest_update

    @property
    def machines(self) -> tuple[Machine, ...]:
        """The QEMUs that may have the guest: the one that runs it, source and target of the latest update."""
        update = self.latest_update
        known = (self.machine, update.source, update.started_target) if update else (self.machine,)
        return tuple({id(item): item for item in known if item is not None}.values())

    def move_to(self, machine: Machine, resources: contextlib.ExitStack | None = None) -> None:
        """Note that the guest runs in another QEMU.

        :param resources: of that QEMU, kept as long as the guest; None when they are in the guest's stack.
        """
        if resources is not None:
            self.stack.push(resources)
        self.machine = machine
        self.agent.use(machine.agent)

    @property
    def tap(self) -> str:
        """The tap that the guest is connected to now."""
        return self.machine.settings.netdevs[0].interface


@contextlib.contextmanager
def running_guest(
    settings: MachineSettings,
    mechanism: Mechanism,
    folder: Path,
    queue_length: int = TAP_QUEUE_LENGTH,
    mtu: int = MTU,
    saved: Path | None = None,
    mode: Mode = Mode.CPR_TRANSFER,
) -> Iterator[RunningGuest]:
    """Build the topology, boot a guest, wait until its network is up; all of it ends with the body.

    :param settings: of the first QEMU.
    :param folder: evidence of the QEMUs goes here.
    :param queue_length: packets that each tap queue keeps.
    :param mtu: of the path to the guest, in bytes; its NIC gets it by ``host_mtu``.
    :param saved: state of a guest that is restored instead of a boot, by :func:`save_guest`.
    :param mode: migration mode of its updates.
    :raises GuestFailed, QemuFailed, DeadlineExceeded: the guest did not boot, or was not restored.
    """
    with build_topology(mtu) as topology, contextlib.ExitStack() as stack:
        for number, netdev in enumerate(settings.netdevs):
            if netdev.tap_source is TapSource.MACVTAP:
                topology.add_macvtap(netdev.interface, settings.nics[number].mac, queue_length=queue_length)
            elif not netdev.kernel_names_tap:
                topology.add_tap(netdev.interface, queues=netdev.queues, queue_length=queue_length)
            if number:
                topology.add_further_network(number)
        passed = stack.enter_context(_shared_files(settings, topology)) if mechanism.handling.shares_fds else None
        if mode is Mode.NORMAL:
            settings = replace(settings, memory_file=stack.enter_context(_memory_file(settings.memory_mib)))
        start = Start.BOOT if saved is None else Start.RESTORE
        machine = stack.enter_context(start_machine("source", settings, folder, topology.switch, start, passed))
        machine.wait_ready()
        if saved is not None:
            restore_guest(machine, saved)
        else:
            _boot(machine)
        agent = AgentConnection(machine.agent, lambda: show_blocked_tasks(guest.machine))
        guest = RunningGuest(topology, mechanism, folder, stack, machine, agent, passed=passed, mode=mode)
        agent.ping()
        _require_nics(guest)
        yield guest


def _require_nics(guest: RunningGuest) -> None:
    """Check that the guest's driver has taken each NIC: a guest without one boots all the same.

    :raises GuestFailed: it has not.
    """
    found, given = guest.agent.network().nics, guest.machine.settings.nics
    if len(found) < len(given):
        said = [line for line in Console(guest.machine.files.console).lines() if NIC_MODULE in line]
        raise GuestFailed(
            "boot the guest",
            f"it has taken {len(found)} of {len(given)} NICs; {said[0] if said else 'its kernel does not say why'}",
            "leave out an option of the NIC (-p nic.)",
            details="\n".join(said),
        )


def starts_without_nic(settings: MachineSettings, folder: Path) -> bool:
    """Whether QEMU starts without NICs, while the guest's taps and vhost devices can be opened on this host.

    If so, a QEMU that does not start with them is at fault itself.

    :param folder: evidence of the QEMU goes here.
    """
    try:
        with build_topology() as topology, contextlib.ExitStack() as stack:
            for number, netdev in enumerate(settings.netdevs):
                interface = f"tap{number}"  # its own may be a pattern, or none
                topology.add_tap(interface, queues=netdev.queues)
                source = TapSource.FDS if netdev.queues > 1 else TapSource.FD
                passed = TapNetdev(
                    netdev.identifier,
                    interface,
                    netdev.queues,
                    vhost=netdev.vhost,
                    vhost_passed=netdev.vhost,
                    tap_source=source,
                )
                with topology.switch.entered():
                    stack.enter_context(opened_fds(passed))
            without = replace(settings, netdevs=(), nics=())
            stack.enter_context(start_machine("source", without, folder, topology.switch)).wait_ready()
            return True
    except (CprlibError, OSError):
        return False


def show_blocked_tasks(machine: Machine) -> None:
    """Let the guest's kernel write its blocked tasks, and what its CPUs run, to its console.

    A guest that is paused, or takes no interrupts, writes nothing.
    """
    keys = [{"keys": [{"type": "qcode", "data": key} for key in ("alt", "sysrq", letter)]} for letter in SYSRQ_KEYS]
    with contextlib.suppress(CprlibError):
        for arguments in keys:
            machine.qmp.execute("send-key", arguments)
        Console(machine.files.console).wait_for(SYSRQ_END, Deadline(SYSRQ_S, "the guest's tasks", Awaited.GUEST))


@contextlib.contextmanager
def _memory_file(mib: int) -> Iterator[int]:
    """A file for guest RAM, which goes with the last process that has it open."""
    file = os.memfd_create("guest-ram")
    try:
        os.ftruncate(file, mib << 20)
        yield file
    finally:
        os.close(file)


def _boot(machine: Machine) -> None:
    if machine.settings.plugged:
        machine.plug_all()
        machine.qmp.execute("cont")
    try:
        Console(machine.files.console, alive=lambda: machine.check_alive("boot the guest")).wait_ready(BOOT_SECONDS)
    except DeadlineExceeded as error:
        if failure := machine.failure():
            raise QemuFailed("boot the guest", failure, error.advice, details=error.details) from error
        raise


@contextlib.contextmanager
def _shared_files(settings: MachineSettings, topology: Topology) -> Iterator[FdsByNetdev]:
    """The files of all netdevs that management keeps open and passes to one QEMU after the other."""
    with contextlib.ExitStack() as stack:
        with topology.switch.entered():
            passed = {netdev.identifier: stack.enter_context(opened_fds(netdev)) for netdev in settings.netdevs}
        yield passed
