"""The engine ``kvm``: a virtual machine with KVM, which user-mode Linux lacks.

TCG emulates a processor with AMD's virtualisation, so guests in the lab run under a real KVM with ioeventfd and irqfd,
as vhost does in production. It boots more slowly than user-mode Linux, and files of the host are on disks
(:mod:`cprlib.lab.host_files`).
"""

from __future__ import annotations

import contextlib
import os
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from cprlib.build import store
from cprlib.build.debian import Archive, with_new_look_ups
from cprlib.build.guest_image import SUITE, find_cloud_kernel, find_file, unpack_kernel
from cprlib.build.initramfs import CpioArchive, read_modules
from cprlib.errors import LabFailure, LabLost, UsageError
from cprlib.lab.engine import Attempt, LabCommand, LabStreams
from cprlib.lab.host_files import disk_of, named_files, project_files, python_files, system_files
from cprlib.lab.session import LabSession, compile_init, encode_job, init_source, open_channels
from cprlib.process import spawn
from cprlib.qemu.command_line import option_value

BOOT_SECONDS = 90.0
PORTS = ("stdout", "stderr", "control", "results")  # in the order of images/lab/init.c, from 1
MODULES = (
    *("virtio_blk", "overlay", "tun", "tap", "vhost_net", "kvm_amd", "kvm_intel", "bridge", "8021q", "veth"),
    *("macvtap", "dummy", "sch_netem", "sch_prio", "sch_ingress", "cls_u32", "act_gact", "ifb"),
)
FORMAT = 1


class KvmEngine:
    """Starts labs that are virtual machines.

    :param qemu: start of the command line of the QEMU that emulates the lab (10 or newer).
    :param image: folder with ``vmlinuz`` and ``initramfs``.
    :param disks: images with files of the host; earlier ones hide later ones.
    """

    def __init__(self, qemu: Sequence[str], image: Path, disks: Sequence[Path]) -> None:
        self.qemu = list(qemu)
        self.image = image
        self.disks = list(disks)

    def attempt(self, command: LabCommand, streams: LabStreams) -> Attempt:
        if command.terminal is not None:
            raise UsageError("open a shell in a lab of engine kvm", "this engine has no terminal", "use engine uml")
        for disk in self.disks:  # a run may be longer than disks without a user stay in the store
            with contextlib.suppress(OSError):
                os.utime(disk.parent)
        with open_channels(["console"], PORTS) as channels, tempfile.TemporaryFile() as results:
            with open(channels.theirs["job"], "wb", closefd=False) as stream:
                stream.write(encode_job(command, "-"))
            with spawn(
                self._arguments(command, channels.theirs),
                purpose="start a lab",
                stdout=channels.theirs["console"],
                stderr=channels.theirs["console"],
                pass_fds=list(channels.theirs.values()),
            ) as child:
                channels.close_theirs()
                session = LabSession(command, streams, channels, child, BOOT_SECONDS, results)
                try:
                    attempt = session.run()
                except LabLost as error:
                    if session.boot_ms is None and (child.returncode or 0) > 0:  # a kernel that dies ends it with 0
                        raise _refusal(session.console) from error
                    raise
            if command.results is not None:
                _unpack(results, command.results)
            return attempt

    def _arguments(self, command: LabCommand, descriptors: Mapping[str, int]) -> list[str]:
        named = named_files(command.argv)
        disks = [*([disk_of("named", named)] if named else []), *self.disks]
        # One processor of a fixed model: with more, or with "max", the lab kernel was sometimes corrupted.
        arguments = [*self.qemu, "-accel", "tcg,thread=single,tb-size=512", "-M", "q35", "-cpu", "EPYC,svm=on,npt=on"]
        arguments += ["-smp", "1", "-m", str(command.memory), "-nodefaults", "-nographic", "-no-reboot"]
        arguments += ["-kernel", str(self.image / "vmlinuz"), "-initrd", str(self.image / "initramfs")]
        arguments += ["-append", "console=ttyS0 quiet loglevel=4 panic=-1 no_timer_check mitigations=off"]
        arguments += ["-serial", "stdio"]
        arguments += ["-device", "virtio-serial-pci"]  # the first virtio device: its ports are /dev/vport0p*
        for index, path in enumerate([f"/proc/self/fd/{descriptors['job']}", *disks]):
            arguments += [
                "-blockdev",
                f"file,node-name=f{index},filename={option_value(path)},read-only=on,locking=off",
            ]
            arguments += ["-device", f"virtio-blk-pci,drive=f{index}"]
        for index, name in enumerate(PORTS, 1):
            arguments += ["-chardev", f"socket,id={name},fd={descriptors[name]}"]
            arguments += ["-device", f"virtserialport,chardev={name},nr={index},name={name}"]
        return arguments


def _refusal(console: bytes) -> LabFailure:
    """The error of a QEMU that did not start.

    :param console: its output.
    """
    last = console.decode(errors="replace").strip().rpartition("\n")[2] or "no output from QEMU"
    return LabFailure("start a lab", last, "use engine uml: --lab=uml")


def build_kvm_engine(qemu: Sequence[str], built: Sequence[Path]) -> KvmEngine:
    """Create the engine, and build its image and disks when they are missing (about a minute).

    :param qemu: start of the command line of the QEMU that emulates the lab.
    :param built: build results that tests use: QEMU, firmware, guest image, manifest.
    """
    disks = [
        disk_of("project", project_files()),
        disk_of("built", built),
        disk_of("system", [*system_files(), *python_files()]),
    ]
    return KvmEngine(qemu, build_kvm_image(), disks)


def build_kvm_image() -> Path:
    """A folder with kernel and initramfs of the lab, built when the store has none.

    :raises DownloadFailed: the package could not be fetched.
    :raises BuildFailed: the package lacks a required file.
    """
    archive = Archive(SUITE)
    return with_new_look_ups([archive], lambda: _build_image(archive))


def _build_image(archive: Archive) -> Path:
    kernel = find_cloud_kernel(archive)
    key = store.key_of(kernel=kernel.file.name, source=init_source(), modules=" ".join(MODULES), format=FORMAT)

    def make(folder: Path) -> None:
        package = archive.download(kernel.name)
        with tempfile.TemporaryDirectory(dir=folder) as name:
            scratch = Path(name)
            archive.extract(package, scratch)
            image = find_file(package, scratch, "boot/vmlinuz-*")
            (folder / "initramfs").write_bytes(_initramfs(compile_init(scratch, "-DLAB_KVM"), scratch))
            (folder / "vmlinuz").write_bytes(unpack_kernel(image.read_bytes()))

    return store.entry("lab-kvm", key, make)


def _initramfs(init: Path, root: Path) -> bytes:
    archive = CpioArchive()
    for name in ("dev", "proc", "sys", "run", "modules"):
        archive.folder(name)
    archive.console_devices()
    archive.file("init", init.read_bytes(), 0o755)
    for index, module in enumerate(read_modules(root, MODULES)):
        archive.file(f"modules/{index:02}-{module.name}.ko", module.content)
    return archive.data()


def _safe_members(archive: tarfile.TarFile, folder: Path) -> Iterator[tarfile.TarInfo]:
    """The files and folders of an archive; links are skipped.

    :raises LabFailure: a name leads out of ``folder``.
    """
    inside = folder.resolve()
    for member in archive:
        if not (member.isreg() or member.isdir()):
            continue
        if not (inside / member.name).resolve().is_relative_to(inside):
            raise LabFailure("fetch the results of a lab", f"{member.name!r} is outside the results folder")
        member.mode &= 0o755
        yield member


def _unpack(results: IO[bytes], folder: Path) -> None:
    """Extract the received archive into the results folder.

    :raises LabFailure: there is no archive, it is incomplete, or it has a name outside the folder.
    """
    if results.tell() == 0:
        raise LabFailure("fetch the results of a lab", "the lab has sent none")
    results.seek(0)
    try:
        with tarfile.open(fileobj=results, mode="r:") as archive:
            if hasattr(tarfile, "data_filter"):  # Python 3.11.2 of Debian 12 has none
                archive.extraction_filter = tarfile.data_filter
            archive.extractall(folder, members=_safe_members(archive, folder))  # noqa: S202 - each member is checked
    except tarfile.TarError as error:
        raise LabFailure("fetch the results of a lab", str(error)) from error
