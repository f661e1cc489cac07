"""The guest image: Debian's cloud kernel, busybox, and our init and agent (images/guest/); built without root."""

from __future__ import annotations

import re
import struct
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from cprlib.build import store
from cprlib.build.command import first_line_of
from cprlib.build.debian import Archive
from cprlib.build.initramfs import CpioArchive, KernelModule, modules_dep, read_modules
from cprlib.build.progress import Progress
from cprlib.errors import BuildFailed, ProcessFailed
from cprlib.files import project_folder
from cprlib.guest.image import GuestImage
from cprlib.process import run

SUITE = "trixie"
KERNEL_PACKAGE = "linux-image-cloud-amd64"
BUSYBOX_PACKAGE = "busybox-static"
MODULES = ("virtio_net", "8021q")  # and their dependencies; virtio_pci and virtio_console are built in
APPLETS = ("ip", "modprobe", "mount", "setsid", "sh")
FORMAT = 2  # raise it when this file makes a different image from the same inputs
KERNEL, INITRAMFS = "vmlinuz", "initramfs"
SECTOR = 512
SETUP_SECTORS = 0x1F1
MAGIC = (0x202, b"HdrS")
PAYLOAD_FIELDS = 0x248  # payload_offset, payload_length, both u32
ZSTD = b"\x28\xb5\x2f\xfd"
ELF = b"\x7fELF"
TRIED = "unpack the guest's kernel"


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything an image is made from."""

    kernel_package: Path
    busybox_package: Path
    sources: Path
    compiler: str

    def key(self) -> str:
        """The key of the image in the store."""
        return store.key_of(
            kernel=self.kernel_package.name,
            busybox=self.busybox_package.name,
            sources=self.sources,
            compiler=self.compiler,
            modules=" ".join(MODULES),
            applets=" ".join(APPLETS),
            format=FORMAT,
        )


def build_guest_image(progress: Progress | None = None) -> GuestImage:
    """The guest image, from the store when it is there.

    :raises DownloadFailed: a package could not be fetched.
    :raises BuildFailed: the compiler failed, or a package lacks a required file.
    """
    shown = progress or Progress()
    archive = Archive(SUITE, progress=shown)
    inputs = Inputs(
        kernel_package=archive.download(find_cloud_kernel(archive)),
        busybox_package=archive.download(BUSYBOX_PACKAGE),
        sources=project_folder() / "images" / "guest",
        compiler=first_line_of(["gcc", "--version"]),
    )
    key = inputs.key()

    def make(folder: Path) -> None:
        with shown.step("build the guest image"), TemporaryDirectory(dir=folder) as scratch:
            _make(archive, inputs, Path(scratch), folder)

    folder = store.entry(
        "guest", key, make, waiting=lambda: shown.note("another process builds the guest image; waiting")
    )
    return GuestImage(folder / KERNEL, folder / INITRAMFS, key)


def find_cloud_kernel(archive: Archive) -> str:
    """Name of the kernel package that the meta package depends on."""
    for dependency in archive.package(KERNEL_PACKAGE).depends:
        name = dependency.split()[0]
        if re.fullmatch(r"linux-image-[0-9][\w.+~-]*-cloud-amd64", name):
            return name
    raise BuildFailed("find the guest's kernel", f"{KERNEL_PACKAGE} depends on no kernel image")


def _make(archive: Archive, inputs: Inputs, scratch: Path, folder: Path) -> None:
    kernel_root, busybox_root = scratch / "kernel", scratch / "busybox"
    archive.extract(inputs.kernel_package, kernel_root, "./boot/vmlinuz-*", *module_patterns())
    archive.extract(inputs.busybox_package, busybox_root)
    agent = compile_agent(inputs.sources, scratch)
    kernel = _first(kernel_root.glob("boot/vmlinuz-*"), "kernel", inputs.kernel_package)
    busybox = _first(
        (path for path in busybox_root.rglob("busybox") if path.is_file()), "busybox", inputs.busybox_package
    )
    data = pack_initramfs(
        release=kernel.name.removeprefix("vmlinuz-"),
        modules=read_modules(kernel_root, MODULES),
        busybox=busybox.read_bytes(),
        init=(inputs.sources / "init").read_bytes(),
        agent=agent.read_bytes(),
    )
    (folder / INITRAMFS).write_bytes(data)
    (folder / KERNEL).write_bytes(unpack_kernel(kernel.read_bytes(), scratch))


def compile_agent(sources: Path, out: Path) -> Path:
    """Compile the agent.

    :param sources: images/guest.
    :raises BuildFailed: holds the compiler's messages.
    """
    try:
        run(["make", "-C", str(sources), f"OUT={out}"], purpose="compile the guest's agent", seconds=120)
    except ProcessFailed as error:
        raise BuildFailed(
            error.tried, error.happened, "install gcc, make and libc6-dev", details=error.details
        ) from error
    return out / "agent.bin"


def module_patterns() -> tuple[str, ...]:
    """Patterns for tar of the folders with the required modules and their dependencies."""
    folders = ("kernel/drivers/net", "kernel/net/core", "kernel/net/8021q", "kernel/net/802", "kernel/net/llc")
    return tuple(f"./*lib/modules/*/{folder}/*.ko*" for folder in folders)


def _first(paths: Iterable[Path], kind: str, package: Path) -> Path:
    found = next(iter(sorted(paths)), None)
    if found is None:
        raise BuildFailed(f"find {kind} in {package.name}", "the package has none")
    return found


def pack_initramfs(
    *, release: str, modules: Sequence[KernelModule], busybox: bytes, init: bytes, agent: bytes
) -> bytes:
    """The initramfs, uncompressed: an emulated guest reads it faster than it unpacks it."""
    archive = CpioArchive()
    folders = ("bin", "sbin", "dev", "proc", "sys", "lib", "lib/modules", f"lib/modules/{release}")
    for name in folders:
        archive.folder(name)
    archive.character_device("dev/console", 5, 1)
    archive.character_device("dev/null", 1, 3, 0o666)
    archive.file("init", init, 0o755)
    archive.file("agent", agent, 0o755)
    archive.file("bin/busybox", busybox, 0o755)
    for applet in APPLETS:
        archive.symlink(f"bin/{applet}", "busybox")
    archive.symlink("sbin/modprobe", "../bin/busybox")  # the path that the kernel executes
    for module in modules:
        archive.file(f"lib/modules/{release}/{module.name}.ko", module.content)
    archive.file(f"lib/modules/{release}/modules.dep", modules_dep(modules).encode())
    return archive.data()


def unpack_kernel(image: bytes, scratch: Path) -> bytes:
    """The ELF kernel in a bzImage that is compressed with zstd.

    QEMU starts it by its PVH entry, and the guest does not unpack itself: under emulation that saves about a second of
    each boot and 25 MiB of touched guest memory. Layout of the bzImage: Linux, Documentation/arch/x86/boot.rst
    (setup_sects, payload_offset, payload_length).

    :param scratch: folder for a temporary file.
    :raises BuildFailed: the file has another format.
    """
    elf = _unpack_zstd(kernel_payload(image), scratch)
    if not elf.startswith(ELF):
        raise BuildFailed(TRIED, f"the payload begins with {elf[:4].hex()}: no ELF file")
    return elf


def kernel_payload(image: bytes) -> bytes:
    """The compressed kernel in a bzImage, without the four bytes of its unpacked size at the end.

    :raises BuildFailed: no bzImage, or not compressed with zstd.
    """
    at, magic = MAGIC
    if len(image) < 2 * SECTOR or image[at : at + len(magic)] != magic:
        raise BuildFailed(TRIED, "the file is no bzImage")
    offset, length = struct.unpack_from("<II", image, PAYLOAD_FIELDS)
    begin = (image[SETUP_SECTORS] + 1) * SECTOR + offset
    payload = image[begin : begin + length - 4]
    if len(payload) != length - 4 or not payload.startswith(ZSTD):
        raise BuildFailed(TRIED, f"the payload begins with {payload[:4].hex()}: not compressed with zstd")
    return payload


def _unpack_zstd(packed: bytes, scratch: Path) -> bytes:
    """Unpack zstd with dpkg-deb, which every Debian has: as the data of a package that is made here."""
    package = scratch / "payload.deb"
    members = {"debian-binary": b"2.0\n", "control.tar": b"\0" * 1024, "data.tar.zst": packed}
    package.write_bytes(b"!<arch>\n" + b"".join(_member(name, content) for name, content in members.items()))
    result = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(package)], capture_output=True, check=False)
    package.unlink()
    if result.returncode != 0:
        raise BuildFailed(
            TRIED, result.stderr.decode(errors="replace").strip(), "install dpkg 1.21.18 or newer, which supports zstd"
        )
    return result.stdout


def _member(name: str, content: bytes) -> bytes:
    """One member of an ar(5) archive."""
    head = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n"
    return head.encode() + content + b"\n" * (len(content) % 2)
