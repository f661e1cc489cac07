"""Start a QEMU with all that belongs to it: its channels, descriptors, logs with limits, and what a crash leaves."""

from __future__ import annotations

import contextlib
import enum
import os
import shlex
import socket
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from cprlib.cleanup import CleanupProcess
from cprlib.linux.namespace import NetworkNamespace
from cprlib.process import Child, kill_group, spawn
from cprlib.qemu.command_line import (
    WAIT_FOR_CONT,
    FdsByNetdev,
    MachineFiles,
    MachineSettings,
    MigrationChannels,
    command_line,
    name_option,
)
from cprlib.qemu.machine import Machine
from cprlib.qemu.netdev import opened_fds
from cprlib.qemu.qmp import QmpConnection
from cprlib.qemu.supervision import CONSOLE_LIMIT, LOG_LIMIT, SizeWatch, allow_core, keep_crash, wait_while_exiting
from cprlib.qemu.wrapper import is_script, qemu_below, status_of_qemu

MALLOC_ENVIRONMENT = {"MALLOC_PERTURB_": "165"}  # mallopt(3): overwrite freed memory, so that its use shows
COVERAGE_VARIABLE = "CPRLIB_COVERAGE"  # images/qemu/coverage/counters.c; other QEMUs ignore it


class Start(enum.Enum):
    """The first step of a QEMU that is not the target of an update."""

    BOOT = "boot"
    RESTORE = "restore"
    """It waits for the state of a guest, which a command of QMP names."""


@contextlib.contextmanager
def start_machine(
    name: str,
    settings: MachineSettings,
    folder: Path,
    namespace: NetworkNamespace,
    start: Start | MigrationChannels = Start.BOOT,
    passed: FdsByNetdev | None = None,
) -> Iterator[Machine]:
    """Start a QEMU in a network namespace; kill it when the body ends.

    QEMU may not serve QMP yet when the body starts: see :meth:`Machine.wait_ready`.

    :param name: ``source``, ``target``, or a numbered name in a chain of updates; part of the evidence's file names.
    :param folder: for the evidence.
    :param start: the migration channels make it a target; with ``plugged`` settings the main channel is set later by
        QMP.
    :param passed: descriptors that the caller opened and keeps; others that the netdevs need are opened here, and
        closed once QEMU has them.
    :raises EnvironmentFailure: the program cannot be started.
    """
    files = MachineFiles(folder.absolute(), name)
    incoming = isinstance(start, MigrationChannels)
    with contextlib.ExitStack() as stack:
        qmp, qmp_end, agent, agent_end = map(stack.enter_context, (*socket.socketpair(), *socket.socketpair()))
        channels = (qmp_end.fileno(), agent_end.fileno())
        manager = stack.enter_context(contextlib.ExitStack())
        given = dict(passed or {})
        if not settings.plugged:
            needed = [item for item in settings.netdevs if not (incoming and item.is_handed_over)]
            missing = [item for item in needed if item.identifier not in given]
            with namespace.entered():
                given |= {item.identifier: manager.enter_context(opened_fds(item)) for item in missing}
        command = [*settings.prefix, *command_line(settings, files, *channels, given, incoming=incoming)]
        command += _start_arguments(start, plugged=settings.plugged)
        files.command.write_text(shlex.join(command) + "\n", encoding="utf-8")
        memory = () if settings.memory_file is None else (settings.memory_file,)
        inherited = (*channels, *memory, *(number for item in given.values() for number in item.all))
        process = stack.enter_context(_spawned(command, files, settings, namespace, inherited))
        watch = stack.enter_context(SizeWatch(_limits(files), lambda: kill_group(process)))
        manager.close()
        qmp_end.close()
        agent_end.close()
        yield Machine(
            name=name,
            settings=settings,
            files=files,
            process=process,
            qmp=stack.enter_context(QmpConnection(name, qmp, files.qmp)),
            agent=agent,
            namespace=namespace,
            command=command,
            incoming=incoming,
            watch=watch,
            channels=channels,
        )


def _start_arguments(start: Start | MigrationChannels, *, plugged: bool) -> list[str]:
    """The end of the command line."""
    if isinstance(start, MigrationChannels):
        return replace(start, deferred=start.deferred or plugged).incoming_arguments()
    if start is Start.RESTORE:
        return ["-incoming", "defer"]
    return [WAIT_FOR_CONT] if plugged else []


@contextlib.contextmanager
def _spawned(
    command: Sequence[str],
    files: MachineFiles,
    settings: MachineSettings,
    namespace: NetworkNamespace,
    inherited: Sequence[int],
) -> Iterator[Child]:
    """The process; at the end of the body it is killed, and core file and backtrace of a crash are kept.

    :param inherited: descriptors that it gets under the same numbers.
    """
    program = settings.qemu.path
    environment = MALLOC_ENVIRONMENT | {COVERAGE_VARIABLE: str(files.counters)} | files.environment(settings.mutant)
    with contextlib.ExitStack() as stack:
        for mapped in (files.counters, files.reached):
            stack.callback(_write_back, mapped)
        output = stack.enter_context(files.output.open("w", encoding="utf-8"))
        cleanup = stack.enter_context(CleanupProcess()) if is_script(program) else None
        with namespace.entered():
            process = stack.enter_context(
                spawn(
                    command,
                    purpose=f"start {program}",
                    env=os.environ | environment,
                    cwd=files.folder,  # for a core file
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=inherited,
                    prepare=allow_core,
                )
            )
        if cleanup:  # a wrapper dies with this process, a QEMU below it does not
            cleanup.group(process.pid)
            stack.callback(cleanup.group, 0)
        stack.callback(_keep_crash, files, process, program)
        yield process


def successor_of(machine: Machine, name: str, settings: MachineSettings, passed: FdsByNetdev | None = None) -> Machine:
    """The QEMU that ``machine`` executes in its place (mode cpr-exec): the same process, QMP connection and agent.

    It keeps the descriptors of both channels, and standard output and error go to the same file.

    :param name: the successor's name, part of the names of its other files.
    :param passed: descriptors that management has passed to the process, by netdev.
    """
    files = MachineFiles(machine.files.folder, name, machine.files.process_name)
    machine.watch.add(_limits(files))
    command = [*settings.prefix, *command_line(settings, files, *machine.channels, passed, incoming=True)]
    return replace(machine, name=name, settings=settings, files=files, command=command, incoming=True, found_pid=0)


def _limits(files: MachineFiles) -> dict[Path, int]:
    return {files.console: CONSOLE_LIMIT, files.output: LOG_LIMIT, files.trace: LOG_LIMIT}


def _write_back(mapped: Path) -> None:
    """Write what processes changed in a shared mapping of a file: the kernel of a lab ends without doing so."""
    with contextlib.suppress(OSError), mapped.open("rb") as stream:
        os.fsync(stream)


def _keep_crash(files: MachineFiles, process: subprocess.Popen[str], program: Path) -> None:
    pid = qemu_below(process.pid, name_option(files.name))
    status = wait_while_exiting(process, pid)
    keep_crash(files.folder, files.name, pid, None if status is None else status_of_qemu(status), program)
