"""What a QEMU is started with: settings that source and target share, files, and the command line made of them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cprlib.errors import UsageError
from cprlib.qemu.binary import QemuBinary
from cprlib.qemu.netdev import TapNetdev, VirtioNet
from cprlib.qemu.passed_files import PassedFiles
from cprlib.qemu.trace_log import UPDATE_EVENTS

AGENT_PORT = "org.cprlib.agent"
ACCELERATORS = ("tcg", "kvm")
MACHINE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")  # no comma: what follows one would be an option


@dataclass(frozen=True, slots=True)
class MachineSettings:
    """What source and target of an update have in common.

    :param memory_mib: guest RAM in MiB; every page touched is dear in a user-mode Linux lab.
    :param processors: virtual CPUs.
    :param tcg_buffer_mib: size of TCG's translation buffer in MiB.
    :param plugged: netdevs and NICs are not on the command line but added by QMP, before the guest runs: see
        :meth:`Machine.plug_all`. NICs want a bus that takes them then, as machine ``pc`` has.
    :param prefix: words before QEMU's own, of a program that becomes QEMU with other rights.
    """

    qemu: QemuBinary
    kernel: Path
    initramfs: Path
    kernel_arguments: str
    netdevs: tuple[TapNetdev, ...]
    nics: tuple[VirtioNet, ...]
    machine: str = "q35"
    accelerator: str = "tcg"
    memory_mib: int = 128
    processors: int = 1
    tcg_buffer_mib: int = 48
    extra: tuple[str, ...] = ()
    plugged: bool = False
    prefix: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not MACHINE_NAME.fullmatch(self.machine):
            raise UsageError(f"use machine type {self.machine!r}", "it is no name of one")
        if self.accelerator not in ACCELERATORS:
            raise UsageError(f"use accelerator {self.accelerator!r}", f"it is none of {', '.join(ACCELERATORS)}")


@dataclass(frozen=True, slots=True)
class MachineFiles:
    """Where one QEMU's evidence goes."""

    folder: Path
    name: str

    @property
    def console(self) -> Path:
        """What the guest wrote to its serial console."""
        return self.folder / f"console-{self.name}.log"

    @property
    def qmp(self) -> Path:
        """The QMP transcript."""
        return self.folder / f"qmp-{self.name}.log"

    @property
    def trace(self) -> Path:
        """QEMU's log with the trace events."""
        return self.folder / f"trace-{self.name}.log"

    @property
    def output(self) -> Path:
        """Standard output and error of the process."""
        return self.folder / f"stderr-{self.name}.log"

    @property
    def command(self) -> Path:
        """The command line, ready to paste (its descriptors aside)."""
        return self.folder / f"command-{self.name}.txt"


Passed = Mapping[str, PassedFiles]
"""What a manager passes, by identifier of the netdev."""


def command_line(
    settings: MachineSettings,
    files: MachineFiles,
    qmp_descriptor: int,
    agent_descriptor: int,
    passed: Passed | None = None,
    *,
    incoming: bool = False,
) -> list[str]:
    """The command line that source and target share; a target adds its ``-incoming`` channels.

    :param passed: files that QEMU inherits, by the same numbers.
    :param incoming: for the target of a CPR, in which netdevs with ``cpr=on`` inherit their descriptors.
    """
    accelerator = settings.accelerator
    if accelerator == "tcg":
        accelerator += f",tb-size={settings.tcg_buffer_mib}"
    command = [
        *settings.qemu.command(),
        *("-name", f"cprlib-{files.name}"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-machine", f"{settings.machine},memory-backend=ram0,aux-ram-share=on"),
        *("-accel", accelerator),
        *("-cpu", "max" if settings.accelerator == "tcg" else "host"),
        *("-smp", str(settings.processors)),
        *("-m", f"{settings.memory_mib}M"),
        *("-object", f"memory-backend-memfd,id=ram0,share=on,size={settings.memory_mib}M"),
        *(
            "-kernel",
            str(settings.kernel.absolute()),
            "-initrd",
            str(settings.initramfs.absolute()),
            "-append",
            settings.kernel_arguments,
        ),
        *("-chardev", f"file,id=console,path={option_value(files.console)}", "-serial", "chardev:console"),
        *("-chardev", f"socket,id=qmp,fd={qmp_descriptor}", "-mon", "chardev=qmp,mode=control"),
        *("-device", "virtio-serial-pci,id=serial0"),
        *("-chardev", f"socket,id=agent,fd={agent_descriptor}"),
        *("-device", f"virtserialport,name={AGENT_PORT},chardev=agent"),
        *("-msg", "timestamp=on", "-D", str(files.trace)),
    ]
    for pattern in UPDATE_EVENTS:
        command += ["-trace", pattern]
    if not settings.plugged:
        for netdev in settings.netdevs:
            given = (passed or {}).get(netdev.identifier, PassedFiles())
            command += ["-netdev", json.dumps(netdev_options(netdev, numbers_of(given), incoming=incoming))]
        for nic in settings.nics:
            command += ["-device", json.dumps(nic.options())]
    return [*command, *settings.extra]


def option_value(value: object) -> str:
    """A value in an option string of QEMU, where a comma ends it unless it is doubled (QEMU util/keyval.c)."""
    return str(value).replace(",", ",,")


Names = tuple[tuple[str, ...], tuple[str, ...]]
"""Of the tap's and vhost's descriptors: numbers, or what they were called with getfd."""


def numbers_of(given: PassedFiles) -> Names:
    """Descriptors as numbers, for a command line."""
    return tuple(str(number) for number in given.tap), tuple(str(number) for number in given.vhost)


def netdev_options(netdev: TapNetdev, names: Names, *, incoming: bool) -> dict[str, object]:
    """Arguments of a netdev; the target of a CPR is told nothing of descriptors that it inherits."""
    return netdev.handed_over_options() if incoming and netdev.cpr else netdev.options(*names)
