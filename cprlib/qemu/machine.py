"""A running QEMU: its process, its QMP, and what is plugged into it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cprlib.deadline import Deadline
from cprlib.errors import Awaited, QemuFailed, QmpRefused
from cprlib.linux.namespace import NetworkNamespace
from cprlib.process import describe_status, paste, spawn, tail, wait_until_exit
from cprlib.qemu.channels import MigrationChannels
from cprlib.qemu.command_line import MachineFiles, MachineSettings, Names, Passed, command_line, netdev_options
from cprlib.qemu.crash import allow_core, keep_crash, wait_while_ending
from cprlib.qemu.flood import CONSOLE_LIMIT, LOG_LIMIT, FloodWatch
from cprlib.qemu.netdev import TapNetdev, VirtioNet
from cprlib.qemu.passed_files import PassedFiles, opened_files
from cprlib.qemu.qmp import QmpConnection
from cprlib.qemu.trace_log import TraceLog, read_trace

__all__ = ["Machine", "MachineFiles", "MachineSettings", "Passed", "command_line", "start_machine"]

FIRMWARE_WORDS = ("could not load PC BIOS", "Could not open option rom", "pvh.bin")  # hw/i386/x86.c, hw/core/loader.c
PERTURBED = {"MALLOC_PERTURB_": "165"}  # mallopt(3): freed memory is overwritten, or using it may go unnoticed
FIRMWARE_ADVICE = "give the folder of its firmware (bios-256k.bin, pvh.bin, ...) with --firmware"


@dataclass(slots=True)
class Machine:
    """One QEMU process; made by :func:`start_machine`.

    :param agent: our end of the guest agent's channel through this QEMU.
    :param namespace: the network namespace it runs in.
    :param incoming: whether it is the target of an update, as long as its guest does not run.
    """

    name: str
    settings: MachineSettings
    files: MachineFiles
    process: subprocess.Popen[str]
    qmp: QmpConnection
    agent: socket.socket
    namespace: NetworkNamespace
    command: Sequence[str] = field(default_factory=tuple)
    incoming: bool = False
    watch: FloodWatch | None = None

    @property
    def pid(self) -> int:
        """Process id of QEMU."""
        return self.process.pid

    @property
    def trace(self) -> TraceLog:
        """The trace log as far as it is written."""
        return read_trace(self.files.trace)

    @property
    def output(self) -> str:
        """What QEMU said on standard output and error so far."""
        return self.files.output.read_text(encoding="utf-8", errors="replace") if self.files.output.exists() else ""

    @property
    def messages(self) -> str:
        """Everything QEMU said that is no trace event: its standard error and the rest of its log."""
        return "\n".join([self.output.strip(), *self.trace.messages]).strip()

    def check_alive(self, doing: str) -> None:
        """Raise when the process has ended.

        :param doing: what was being done, for the message.
        :raises QemuFailed: with QEMU's last words.
        """
        status = self.process.poll()
        if status is not None:
            raise self.died(doing, status)

    def died(self, doing: str, status: int) -> QemuFailed:
        """The error for a QEMU that has ended though it should not; what is left of a crash is kept."""
        if self.watch and self.watch.flooded:
            path = self.watch.flooded
            return QemuFailed(
                doing,
                f"the {self.name} was ended: {path.name} had grown to {path.stat().st_size >> 20} MiB",
                "look at the end of that file",
                details=f"command: {paste(self.command)}",
            )
        backtrace = keep_crash(self.files.folder, self.name, self.pid, status, self.settings.qemu.path)
        said = self.messages
        last = said.splitlines()[-1] if said else "it said nothing"
        return QemuFailed(
            doing,
            f"the {self.name} ended with {describe_status(status)}: {last}",
            FIRMWARE_ADVICE
            if any(words in said for words in FIRMWARE_WORDS)
            else (f"see {backtrace.name}" if backtrace else ""),
            details=f"command: {paste(self.command)}\n{tail(said)}",
        )

    def wait_ready(self, seconds: float = 30.0) -> None:
        """Wait until QMP is served; a QEMU that ends instead is reported with its own words.

        :raises QemuFailed: it ended.
        :raises DeadlineExceeded: it neither ended nor served QMP.
        """
        deadline = Deadline(seconds, f"QMP of the {self.name}", Awaited.QEMU)
        try:
            self.qmp.wait_ready(deadline)
        except QemuFailed:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=2)  # the socket breaks a moment before the process is gone
            self.check_alive(f"start the {self.name}")
            raise

    def status(self) -> str:
        """The run state (QAPI RunState)."""
        answer: Mapping[str, Any] = self.qmp.execute("query-status")
        return str(answer["status"])

    def plug(self, netdev: TapNetdev, nic: VirtioNet | None = None, passed: PassedFiles | None = None) -> None:
        """Add a netdev and a NIC on it by QMP; the settings have both from then on.

        :param passed: what a manager opened for it; opened here, and closed again, when None.
        :raises QmpRefused: QEMU refuses; a descriptor that was passed and not taken is closed again.
        """
        with contextlib.ExitStack() as stack:
            inherits = self.incoming and bool(netdev.cpr)
            if passed is None and not inherits:
                stack.enter_context(self.namespace.entered())
                passed = stack.enter_context(opened_files(netdev))
            names = self._pass(netdev, passed or PassedFiles())
        try:
            self.qmp.execute("netdev_add", netdev_options(netdev, names, incoming=self.incoming))
        except QmpRefused:
            for name in (*names[0], *names[1]):
                with contextlib.suppress(QmpRefused):  # it was taken
                    self.qmp.execute("closefd", {"fdname": name})
            raise
        self.settings = replace(self.settings, netdevs=(*self._others(netdev.identifier), netdev))
        if nic:
            self.qmp.execute("device_add", nic.options())
            nics = (*(item for item in self.settings.nics if item.identifier != nic.identifier), nic)
            self.settings = replace(self.settings, nics=nics)

    def plug_all(self) -> None:
        """Add the netdevs and NICs of the settings by QMP."""
        nics = {nic.netdev: nic for nic in self.settings.nics}
        for netdev in self.settings.netdevs:
            self.plug(netdev, nics.get(netdev.identifier))

    def remove_nic(self, identifier: str, seconds: float = 20.0) -> None:
        """Remove a NIC by QMP, and from the settings; the guest has to let go of it.

        :raises DeadlineExceeded: it does not.
        """
        seen = len(self.qmp.events)
        self.qmp.execute("device_del", {"id": identifier})
        self.qmp.wait_event(
            ["DEVICE_DELETED"],
            Deadline(seconds, f"the guest to let go of {identifier}", Awaited.GUEST),
            accept=lambda event: event.data.get("device") == identifier,
            after=seen,
        )
        nics = tuple(item for item in self.settings.nics if item.identifier != identifier)
        self.settings = replace(self.settings, nics=nics)

    def remove_netdev(self, identifier: str) -> None:
        """Remove a netdev by QMP, and from the settings."""
        self.qmp.execute("netdev_del", {"id": identifier})
        self.settings = replace(self.settings, netdevs=self._others(identifier))

    def _others(self, identifier: str) -> tuple[TapNetdev, ...]:
        return tuple(item for item in self.settings.netdevs if item.identifier != identifier)

    def _pass(self, netdev: TapNetdev, given: PassedFiles) -> Names:
        """Pass files by getfd; :returns: their names."""
        named = [(f"{netdev.identifier}-tap{index}", number) for index, number in enumerate(given.tap)]
        named += [(f"{netdev.identifier}-vhost{index}", number) for index, number in enumerate(given.vhost)]
        for name, number in named:
            self.qmp.pass_descriptor(name, number)
        names = [name for name, _ in named]
        return tuple(names[: len(given.tap)]), tuple(names[len(given.tap) :])

    def quit(self, seconds: float = 10.0) -> int:
        """Tell QEMU to end and wait for it.

        :returns: its exit status.
        """
        with contextlib.suppress(QemuFailed):  # the connection may break before the answer is read
            self.qmp.execute("quit")
        return wait_until_exit(self.process, Deadline(seconds, f"the end of the {self.name}", Awaited.QEMU))


@contextlib.contextmanager
def start_machine(
    name: str,
    settings: MachineSettings,
    folder: Path,
    namespace: NetworkNamespace,
    incoming: MigrationChannels | None = None,
    passed: Passed | None = None,
) -> Iterator[Machine]:
    """Start a QEMU inside a network namespace; it is gone when the body ends.

    QMP need not be served yet when the body starts: see :meth:`Machine.wait_ready`.

    :param name: ``source``, ``target``, or a name with a number in a chain of updates.
    :param folder: evidence goes here, with ``name`` in the file names.
    :param incoming: channels to wait on, for a target; the main one is named later when its NICs are plugged.
    :param passed: files that a manager opened and keeps; what else the netdevs need is opened here, and closed again.
    :raises EnvironmentFailure: the program cannot be started.
    """
    files = MachineFiles(folder.absolute(), name)
    qmp_ours, qmp_theirs = socket.socketpair()
    agent_ours, agent_theirs = socket.socketpair()
    with contextlib.ExitStack() as stack:
        for end in (qmp_theirs, agent_ours, agent_theirs):
            stack.callback(end.close)
        channels = (qmp_theirs.fileno(), agent_theirs.fileno())
        manager = stack.enter_context(contextlib.ExitStack())
        given = dict(passed or {})
        if not settings.plugged:
            given |= _opened(settings.netdevs, given, namespace, manager, incoming=incoming is not None)
        command = [*settings.prefix, *command_line(settings, files, *channels, given, incoming=incoming is not None)]
        if incoming:
            command += incoming.incoming_arguments(deferred=settings.plugged)
        elif settings.plugged:
            command.append("-S")
        files.command.write_text(paste(command) + "\n", encoding="utf-8")
        output = stack.enter_context(files.output.open("w", encoding="utf-8"))
        with namespace.entered():
            process = stack.enter_context(
                spawn(
                    command,
                    purpose=f"start {settings.qemu.path}",
                    env=os.environ | PERTURBED,
                    cwd=files.folder,  # where a core file goes
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=(*channels, *(number for item in given.values() for number in item.all)),
                    prepare=allow_core,
                )
            )
        program = settings.qemu.path
        stack.callback(lambda: keep_crash(files.folder, name, process.pid, wait_while_ending(process), program))
        limits = {files.console: CONSOLE_LIMIT, files.output: LOG_LIMIT, files.trace: LOG_LIMIT}
        watch = stack.enter_context(FloodWatch(limits, process.kill))
        manager.close()
        qmp_theirs.close()
        agent_theirs.close()
        qmp = stack.enter_context(QmpConnection(name, qmp_ours, files.qmp))
        yield Machine(
            name,
            settings,
            files,
            process,
            qmp,
            agent_ours,
            namespace,
            tuple(command),
            incoming=incoming is not None,
            watch=watch,
        )


def _opened(
    netdevs: Sequence[TapNetdev],
    given: Passed,
    namespace: NetworkNamespace,
    manager: contextlib.ExitStack,
    *,
    incoming: bool,
) -> Passed:
    """Open what netdevs need that is not given yet, inside the namespace."""
    missing = [item for item in netdevs if item.identifier not in given and not (incoming and item.cpr)]
    with namespace.entered():
        return {item.identifier: manager.enter_context(opened_files(item)) for item in missing}
