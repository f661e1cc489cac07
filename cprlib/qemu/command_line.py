"""The command line of a QEMU: settings that source and target share, evidence files, migration channels."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cprlib.errors import UsageError
from cprlib.qemu.binary import QemuBinary
from cprlib.qemu.netdev import PassedFds, TapNetdev, VirtioNet
from cprlib.qemu.trace_log import UPDATE_EVENTS

COUNTERS_FILE = "coverage.counters"
AGENT_PORT = "org.cprlib.agent"
MEMORY = "ram0"  # id of the memory backend
ACCELERATORS = ("tcg", "kvm")
TCG_BUFFER_MIB = 48  # of translated code
WAIT_FOR_CONT = "-S"  # as management gives it to each QEMU
MACHINE, MEMORY_MIB = "q35", 128  # of a guest that asks for nothing else
DISK = {"driver": "null-co", "node-name": "disk0", "size": 1 << 20}
"""A disk without a file: a source must be able to write to its disks after a failed update."""
MACHINE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")  # no comma: it would start another option


@dataclass(frozen=True, slots=True)
class MachineSettings:
    """The settings that source and target of an update have in common.

    :param memory_mib: guest RAM in MiB; in a user-mode Linux lab each touched page costs time.
    :param memory_file: descriptor of a file of that size that holds the RAM, for mode ``normal``; in other modes each
        QEMU makes a memfd, which CPR hands over.
    :param vcpus: CPUs of the guest.
    :param plugged: netdevs and NICs are not on the command line but added by QMP, before the guest runs: see
        :meth:`Machine.plug_all`. NICs want a bus that takes them then, as machine ``pc`` has.
    :param prefix: words before QEMU's own, of a program that becomes QEMU with other rights.
    :param mutant: numbers of the generated mutants to choose in a QEMU that has them, with commas; 0 for none, but note
        which are reached.
    """

    qemu: QemuBinary
    kernel: Path
    initramfs: Path
    kernel_arguments: str
    netdevs: tuple[TapNetdev, ...]
    nics: tuple[VirtioNet, ...]
    machine: str = MACHINE
    accelerator: str = ACCELERATORS[0]
    memory_mib: int = MEMORY_MIB
    vcpus: int = 1
    extra: tuple[str, ...] = ()
    plugged: bool = False
    prefix: tuple[str, ...] = ()
    mutant: str = ""
    memory_file: int | None = None

    def __post_init__(self) -> None:
        check_machine(self.machine, self.accelerator)

    @property
    def locks_memory(self) -> bool:
        """Whether QEMU locks all its memory (``-overcommit mem-lock=on``)."""
        return any("mem-lock=on" in word.split(",") for word in self.extra)


def check_machine(machine: str, accelerator: str) -> None:
    """Refuse what would be more than a name on QEMU's command line.

    :raises UsageError: it is not a machine type, or not an accelerator.
    """
    if accelerator not in ACCELERATORS:
        raise UsageError(f"use accelerator={accelerator}", f"it is not {' or '.join(ACCELERATORS)}")
    if not MACHINE_NAME.fullmatch(machine):
        raise UsageError(f"use machine={machine!r}", "it is not the name of a machine type")


class MachineFiles:
    """Paths of one QEMU's evidence.

    :param name: the QEMU's name, part of its files' names.
    :param process_name: name of the QEMU that has executed this one in its place, part of the names of the files that
        belong to the process; ``name`` when empty.
    """

    def __init__(self, folder: Path, name: str, process_name: str = "") -> None:
        self.folder = folder
        self.name = name
        self.process_name = process_name or name
        self.console = folder / f"console-{name}.log"  # the guest's serial console
        self.qmp = folder / f"qmp-{self.process_name}.log"  # the transcript
        self.trace = folder / f"trace-{name}.log"  # QEMU's log with trace events
        self.output = folder / f"stderr-{self.process_name}.log"  # standard output and error of the process
        self.counters = folder / COUNTERS_FILE  # of all QEMUs of the case; a coverage build makes it
        self.command = folder / f"command-{name}.txt"  # the command line, ready to paste except for its descriptors
        self.reached = folder / f"reached-{name}.bin"  # a byte for each generated mutant: whether its code was executed

    def environment(self, mutant: str) -> dict[str, str]:
        """Variables that choose generated mutants (images/qemu/cprlib-mutant.h); none without a number."""
        if not mutant:
            return {}
        return {"CPRLIB_MUTANT": mutant, "CPRLIB_MUTANT_REACHED": str(self.reached)}


def name_option(machine: str) -> str:
    """QEMU's option ``-name``.

    :param machine: its name in the case: ``source``, ``target``.
    """
    return f"cprlib-{machine}"


@dataclass(frozen=True, slots=True)
class MigrationChannels:
    """Names of an update's two channels: abstract unix sockets in the QEMUs' namespace, with no file to clean up.

    A name that begins with ``/`` is the path of an ordinary unix socket, which is a file.

    :param cpr: empty in mode ``normal``.
    :param deferred: the target's main channel is set later by QMP's migrate-incoming.
    :param waits_for_cont: the target does not run the guest by itself when it has loaded the state.
    """

    cpr: str
    main: str
    deferred: bool = False
    waits_for_cont: bool = False

    @classmethod
    def fresh(cls) -> MigrationChannels:
        token = secrets.token_hex(8)
        return cls(f"cprlib-{token}-cpr", f"cprlib-{token}-main")

    def descriptions(self) -> list[dict[str, object]]:
        """The value of ``channels`` for ``migrate`` (QAPI MigrationChannel)."""
        return [self._describe("main", self.main), *([self._describe("cpr", self.cpr)] if self.cpr else [])]

    def incoming_arguments(self) -> list[str]:
        """``-incoming`` of a target's command line, one for each channel."""
        main = "defer" if self.deferred else json.dumps(self._describe("main", self.main))
        waits = [WAIT_FOR_CONT] if self.waits_for_cont else []
        cpr = ["-incoming", json.dumps(self._describe("cpr", self.cpr))] if self.cpr else []
        return [*waits, *cpr, "-incoming", main]

    @staticmethod
    def _describe(kind: str, name: str) -> dict[str, object]:
        address = {"transport": "socket", "type": "unix", "path": name, "abstract": not name.startswith("/")}
        return {"channel-type": kind, "addr": address}


def file_channel(path: Path | str) -> dict[str, object]:
    """A migration's main channel to a file (QAPI MigrationChannel)."""
    return {"channel-type": "main", "addr": {"transport": "file", "filename": str(path), "offset": 0}}


FdsByNetdev = Mapping[str, PassedFds]
"""Descriptors that a manager passes, by id of the netdev."""


def command_line(
    settings: MachineSettings,
    files: MachineFiles,
    qmp_descriptor: int,
    agent_descriptor: int,
    passed: FdsByNetdev | None = None,
    *,
    incoming: bool = False,
) -> list[str]:
    """The command line without the ``-incoming`` of a target.

    :param passed: descriptors that QEMU inherits under the same numbers.
    :param incoming: for the target of a CPR, whose netdevs with ``cpr=on`` get their descriptors from the source.
    """
    accelerator = settings.accelerator
    if accelerator == "tcg":
        accelerator += f",tb-size={TCG_BUFFER_MIB}"
    command = [
        *settings.qemu.command(),
        *("-name", name_option(files.name)),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-machine", f"{settings.machine},memory-backend={MEMORY},aux-ram-share=on"),
        *("-accel", accelerator),
        *("-cpu", "max" if settings.accelerator == "tcg" else "host"),
        *("-smp", str(settings.vcpus)),
        *("-m", f"{settings.memory_mib}M"),
        *(
            "-object",
            f"{_memory_backend(settings.memory_file)},id={MEMORY},share=on,dump=off,size={settings.memory_mib}M",
        ),
        *("-kernel", str(settings.kernel.absolute())),
        *("-initrd", str(settings.initramfs.absolute())),
        *("-append", settings.kernel_arguments),
        *("-chardev", f"file,id=console,path={option_value(files.console)}", "-serial", "chardev:console"),
        *("-chardev", f"socket,id=qmp,fd={qmp_descriptor}", "-mon", "chardev=qmp,mode=control"),
        *("-blockdev", json.dumps(DISK)),
        *("-device", "virtio-serial-pci,id=serial0"),
        *("-chardev", f"socket,id=agent,fd={agent_descriptor}"),
        *("-device", f"virtserialport,name={AGENT_PORT},chardev=agent"),
        *("-msg", "timestamp=on", "-D", str(files.trace)),
    ]
    for pattern in UPDATE_EVENTS:
        command += ["-trace", pattern]
    if not settings.plugged:
        for netdev in settings.netdevs:
            given = (passed or {}).get(netdev.identifier, PassedFds())
            names = ([str(number) for number in numbers] for numbers in (given.tap, given.vhost))
            command += ["-netdev", json.dumps(netdev.options(*names, incoming=incoming))]
        for number, nic in enumerate(settings.nics):
            if nic.port:
                command += ["-device", f"pcie-root-port,id={nic.port},chassis={number + 1}"]
            command += ["-device", json.dumps(nic.options())]
    return [*command, *settings.extra]


def _memory_backend(file: int | None) -> str:
    """Capability x-ignore-shared needs a file with a name (ramblock_is_ignored(), QEMU migration/ram.c)."""
    return "memory-backend-memfd" if file is None else f"memory-backend-file,mem-path=/proc/self/fd/{file}"


def global_properties(driver: str, values: Mapping[str, str]) -> tuple[str, ...]:
    """Arguments that set properties of all devices of a type, also of one that is added later."""
    return tuple(word for name, value in values.items() for word in ("-global", f"{driver}.{name}={value}"))


def option_value(value: object) -> str:
    """A value in an option string of QEMU; a comma is doubled, or it would end the value (QEMU util/keyval.c)."""
    return str(value).replace(",", ",,")
