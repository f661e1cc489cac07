"""A running QEMU: its process, its QMP connection, and its netdevs and NICs."""

from __future__ import annotations

import contextlib
import re
import shlex
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from cprlib.deadline import Deadline, timeout_scale
from cprlib.errors import Awaited, DeadlineExceeded, QemuFailed, QmpRefused
from cprlib.linux.namespace import NetworkNamespace
from cprlib.process import Child, describe_status, tail, wait_until_exit
from cprlib.qemu.command_line import (
    MachineFiles,
    MachineSettings,
    name_option,
)
from cprlib.qemu.netdev import PassedFds, TapNetdev, VirtioNet, opened_fds
from cprlib.qemu.qmp import QmpConnection
from cprlib.qemu.supervision import (
    CRASH_STATUSES,
    SizeWatch,
    keep_crash,
)
from cprlib.qemu.trace_log import TraceLog, count_lines, read_trace
from cprlib.qemu.wrapper import last_message, qemu_below, status_of_qemu

FIRMWARE_ERRORS = ("could not load PC BIOS", "pvh.bin")  # hw/i386/x86-common.c; rom_add_file(), hw/core/loader.c
TERMINATED = re.compile(r"terminating on signal 15\b")  # qemu_kill_report(), system/runstate.c
BROKEN_STATES = ("internal-error", "guest-panicked", "io-error")  # QAPI RunState
GONE_S = 2.0
RESPOND_S = 10.0  # for the reply of a QEMU that has nothing else to do
FIRMWARE_ADVICE = "give the folder of its firmware (bios-256k.bin, pvh.bin, ...) with --firmware"


class MessageMark(NamedTuple):
    """A place in the messages of a QEMU: characters of its output, and lines of its log."""

    output: int
    log_lines: int


@dataclass(slots=True)
class Machine:
    """One QEMU process, made by :func:`start_machine`.

    :param agent: our end of the guest agent's channel.
    :param incoming: it is the target of an update, and its guest does not run yet.
    :param channels: QEMU's descriptors of QMP and of the agent's channel.
    :param quitting: it was asked to quit.
    :param found_pid: QEMU's process id, once it is known: see :attr:`pid`.
    :param removed: ids of netdevs that were removed.
    """

    name: str
    settings: MachineSettings
    files: MachineFiles
    process: Child
    qmp: QmpConnection
    agent: socket.socket
    namespace: NetworkNamespace
    command: Sequence[str]
    incoming: bool
    watch: SizeWatch
    channels: tuple[int, int]
    quitting: bool = False
    found_pid: int = 0
    removed: set[str] = field(default_factory=set)

    @property
    def pid(self) -> int:
        """Process id of QEMU, also where a wrapper has started it as its child."""
        if self.found_pid:
            return self.found_pid
        found = qemu_below(self.process.pid, name_option(self.name))
        if self.qmp.is_ready:  # until then a wrapper may not have started it
            self.found_pid = found
        return found

    def exit_status(self) -> int | None:
        """QEMU's exit status, negative for a signal; None while it runs."""
        status = self.process.poll()
        return None if status is None else status_of_qemu(status)

    def wait_exit(self, deadline: Deadline) -> int:
        """Wait until QEMU ends; its exit status, negative for a signal.

        :raises DeadlineExceeded: it is still running.
        """
        return status_of_qemu(wait_until_exit(self.process, deadline))

    @property
    def trace(self) -> TraceLog:
        return read_trace(self.files.trace)

    @property
    def output(self) -> str:
        return self.files.output.read_text(encoding="utf-8", errors="replace") if self.files.output.exists() else ""

    @property
    def messages(self) -> str:
        """Standard output and error, and the lines of the log that are not trace events."""
        return self.messages_since(MessageMark(0, 0))

    def mark_messages(self) -> MessageMark:
        """The end of the messages so far, for :meth:`messages_since`."""
        return MessageMark(len(self.output), count_lines(self.files.trace))

    def messages_since(self, mark: MessageMark) -> str:
        """The :attr:`messages` after a mark."""
        log = read_trace(self.files.trace, skipped=mark.log_lines)
        return "\n".join([self.output[mark.output :].strip(), *log.messages]).strip()

    def check_alive(self, doing: str, *, broken: bool = False) -> None:
        """Raise an error when the process has ended.

        :param doing: what was being done, for the message.
        :param broken: its QMP connection broke, which happens a moment before the process is gone.
        :raises QemuFailed: with QEMU's last message.
        """
        if broken:
            self._wait_gone()
        status = self.exit_status()
        if status is not None:
            raise self.died(doing, status)

    def _wait_gone(self) -> None:
        """Wait for the process whose QMP connection broke, which happens a moment before it is gone."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=GONE_S * timeout_scale())

    def died(self, doing: str, status: int) -> QemuFailed:
        """The error for a QEMU that ended unexpectedly; keeps core file and backtrace of a crash."""
        if self.watch.exceeded:
            path = self.watch.exceeded
            return QemuFailed(
                doing,
                f"the {self.name} was killed: {path.name} had grown to {path.stat().st_size >> 20} MiB",
                "read the end of that file",
                details=f"command: {shlex.join(self.command)}",
            )
        backtrace = keep_crash(self.files.folder, self.files.process_name, self.pid, status, self.settings.qemu.path)
        messages = self.messages
        last = last_message(messages) or "no message"
        return QemuFailed(
            doing,
            f"the {self.name} ended with {describe_status(status)}: {last}",
            FIRMWARE_ADVICE
            if any(text in messages for text in FIRMWARE_ERRORS)
            else (f"see {backtrace.name}" if backtrace else ""),
            details=f"command: {shlex.join(self.command)}\n{tail(messages)}",
        )

    def failure(self, *, may_end: bool = False) -> str:
        """How this QEMU failed (crashed, ended by itself, does not respond), with its last message.

        Empty when it runs, or was killed from outside.

        :param may_end: it may end with an error status, as a target does that refuses.
        """
        if self.exit_status() is None and (problem := self._hang_or_bad_state()):
            return problem
        status = self.exit_status()
        if status is None:
            return ""
        if self.watch.exceeded:
            return self.died("run the guest", status).happened
        unasked = not (self.quitting or may_end or self.killing_signal())
        return self.died("run the guest", status).happened if unasked or status in CRASH_STATUSES else ""

    def killing_signal(self) -> str:
        """SIGKILL or SIGTERM, which has ended QEMU or is about to; empty without one.

        QEMU exits with status 0 on SIGTERM, a target that does not run its main loop yet is killed by it.
        """
        status = self.exit_status()
        if status in (-signal.SIGKILL, -signal.SIGTERM):
            return signal.Signals(-status).name
        return "SIGTERM" if not status and TERMINATED.search(self.messages) else ""

    def _hang_or_bad_state(self) -> str:
        """Why a running QEMU cannot run a guest; empty when it can, or does not serve QMP yet."""
        if not self.qmp.is_ready:
            return ""
        try:
            status = str(self.qmp.execute("query-status", seconds=RESPOND_S).get("status"))
        except DeadlineExceeded as error:
            last = last_message(self.messages) or "no message"
            return f"the {self.name} hangs: no reply to query-status: {error.happened}; its last message: {last}"
        except QemuFailed:
            self._wait_gone()
            return ""
        return f"the {self.name} is in state {status}" if status in BROKEN_STATES else ""

    def wait_ready(self, seconds: float = 30.0) -> None:
        """Wait until QEMU serves QMP; the error of a QEMU that ends instead has its last message.

        :raises QemuFailed: it ended.
        :raises DeadlineExceeded: it neither ended nor served QMP.
        """
        deadline = Deadline(seconds, f"QMP of the {self.name}", Awaited.QEMU)
        try:
            self.qmp.wait_ready(deadline)
        except DeadlineExceeded as error:
            last = last_message(self.messages) or "none"
            raise deadline.exceeded(f"no QMP greeting; its last message: {last}", error.advice) from error
        except QemuFailed:
            self.check_alive(f"start the {self.name}", broken=True)
            raise

    def status(self) -> str:
        answer: Mapping[str, Any] = self.qmp.execute("query-status")
        return str(answer["status"])

    def wait_status(self, *states: str, seconds: float = 20.0) -> None:
        """Wait until it has one of these run states (QAPI RunState).

        :raises DeadlineExceeded: it has another one.
        """
        deadline = Deadline(seconds, f"the {self.name} to be {' or '.join(states)}", Awaited.QEMU)
        deadline.poll(lambda: self.status() in states, 0.02, lambda: f"it is {self.status()}")

    def set_capabilities(self, states: Mapping[str, bool]) -> None:
        """Switch migration capabilities on or off, by name (QAPI MigrationCapability)."""
        rows = [{"capability": name, "state": state} for name, state in states.items()]
        self.qmp.execute("migrate-set-capabilities", {"capabilities": rows})

    def plug(self, netdev: TapNetdev, nic: VirtioNet | None = None, passed: PassedFds | None = None) -> None:
        """Add a netdev, and a NIC on it, by QMP; the settings then include both.

        :param passed: descriptors for the netdev; when None they are opened here and closed again.
        :raises QmpRefused: QEMU refuses; passed descriptors that it did not take are closed again.
        """
        with contextlib.ExitStack() as stack:
            inherits = self.incoming and netdev.is_handed_over
            if passed is None and not inherits:
                stack.enter_context(self.namespace.entered())
                passed = stack.enter_context(opened_fds(netdev))
            names = self._pass_fds(netdev, passed or PassedFds())
        try:
            self.qmp.execute("netdev_add", netdev.options(*names, incoming=self.incoming))
        except QmpRefused:
            for name in (*names[0], *names[1]):
                with contextlib.suppress(QmpRefused):  # QEMU took it
                    self.qmp.execute("closefd", {"fdname": name})
            raise
        self.settings = replace(self.settings, netdevs=(*self._others(netdev.identifier), netdev))
        if nic:
            self.plug_nic(nic)

    def plug_nic(self, nic: VirtioNet) -> None:
        """Add a NIC by QMP to a netdev that QEMU has; the settings then include it."""
        self.qmp.execute("device_add", nic.options())
        nics = (item for item in self.settings.nics if item.identifier != nic.identifier)
        self.settings = replace(self.settings, nics=(*nics, nic))

    def plug_all(self) -> None:
        """Add the netdevs, then the NICs of the settings by QMP: the slot of a NIC follows from the order of these."""
        settings = self.settings
        for netdev in settings.netdevs:
            self.plug(netdev)
        for nic in settings.nics:
            self.plug_nic(nic)

    def remove_nic(self, identifier: str) -> None:
        """Remove a NIC by QMP and from the settings, with the guest's consent.

        :raises DeadlineExceeded: the guest does not release it.
        """
        seen = len(self.qmp.events)
        self.qmp.execute("device_del", {"id": identifier})
        self.wait_removed(identifier, after=seen)

    def wait_removed(self, identifier: str, *, after: int) -> None:
        """Wait until the guest has released a NIC, and remove it from the settings.

        :param after: number of QMP events before.
        :raises DeadlineExceeded: the guest does not release it.
        :raises QemuFailed: QEMU ended.
        """
        self.qmp.wait_event(
            "DEVICE_DELETED",
            deadline=Deadline(20, f"the guest to release {identifier}", Awaited.GUEST),
            accept=lambda event: event.data.get("device") == identifier,
            after=after,
        )
        nics = tuple(item for item in self.settings.nics if item.identifier != identifier)
        self.settings = replace(self.settings, nics=nics)

    def remove_netdev(self, identifier: str) -> None:
        self.qmp.execute("netdev_del", {"id": identifier})
        self.removed.add(identifier)
        self.settings = replace(self.settings, netdevs=self._others(identifier))

    def _others(self, identifier: str) -> tuple[TapNetdev, ...]:
        return tuple(item for item in self.settings.netdevs if item.identifier != identifier)

    def _pass_fds(self, netdev: TapNetdev, passed: PassedFds) -> tuple[list[str], list[str]]:
        """Pass descriptors by getfd; return the names of those of the tap and of vhost."""
        names: dict[str, list[str]] = {"tap": [], "vhost": []}
        for kind, descriptors in (("tap", passed.tap), ("vhost", passed.vhost)):
            for index, descriptor in enumerate(descriptors):
                names[kind].append(f"{netdev.identifier}-{kind}{index}")
                self.qmp.pass_descriptor(names[kind][-1], descriptor)
        return names["tap"], names["vhost"]

    def reset(self) -> None:
        """Reset the machine by QMP, and wait until it is. A QEMU of the suite has -no-reboot: change that before.

        :raises DeadlineExceeded: it is not.
        """
        seen = len(self.qmp.events)
        self.qmp.execute("system_reset")
        self.qmp.wait_event("RESET", deadline=Deadline(10, f"the {self.name} to be reset", Awaited.QEMU), after=seen)

    def quit(self) -> int:
        """Quit QEMU by QMP and wait for its end.

        :returns: its exit status.
        """
        self.quitting = True
        with contextlib.suppress(QemuFailed):  # the connection may break before the reply is read
            self.qmp.execute("quit")
        return self.wait_exit(Deadline(10, f"the end of the {self.name}", Awaited.QEMU))
