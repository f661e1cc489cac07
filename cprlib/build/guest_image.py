"""The guest image: Debian's cloud kernel, busybox, and our init and agent (images/guest/); built without root."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from cprlib.build import expected, store
from cprlib.build.command import first_line_of
from cprlib.build.deb_file import unpack_zstd
from cprlib.build.debian import Archive, Package, with_new_look_ups
from cprlib.build.host_packages import NATIVE_RUN, compile_static, require_programs
from cprlib.build.initramfs import CpioArchive, KernelModule, modules_dep, read_modules
from cprlib.build.progress import Progress
from cprlib.errors import BuildFailed
from cprlib.files import project_folder
from cprlib.guest.image import BZ_IMAGE, GuestImage

SUITE = "trixie"
KERNEL_PACKAGE = "linux-image-cloud-amd64"
BUSYBOX_PACKAGE = "busybox-static"
MODULES = ("virtio_net", "vmxnet3", "8021q", "msr", "button")  # and what they need; virtio_pci is built in
MODULE_FOLDERS = (
    "kernel/arch/x86/kernel",
    "kernel/drivers/acpi",
    "kernel/drivers/net",
    *(f"kernel/net/{name}" for name in ("core", "8021q", "802", "llc")),
)
MODULE_FILES = tuple(f"./*lib/modules/*/{folder}/*.ko*" for folder in MODULE_FOLDERS)
APPLETS = ("ip", "modprobe", "mount", "setsid", "sh")
FORMAT = 4  # raise it when this file makes a different image from the same inputs
KERNEL, INITRAMFS = "vmlinuz", "initramfs"
SECTOR = 512
SETUP_SECTORS = 0x1F1
MAGIC = (0x202, b"HdrS")
PAYLOAD_FIELDS = 0x248  # payload_offset, payload_length, both u32
ZSTD = b"\x28\xb5\x2f\xfd"
ELF = b"\x7fELF"
TRIED = "unpack the guest's kernel"


def build_guest_image(progress: Progress) -> GuestImage:
    """The guest image, from the store when it is there.

    :raises DownloadFailed: a package could not be fetched.
    :raises BuildFailed: the compiler failed, or a package lacks a required file.
    """
    archive = Archive(SUITE, progress)
    return with_new_look_ups([archive], lambda: _build(archive, progress))


def _build(archive: Archive, progress: Progress) -> GuestImage:
    packages = find_cloud_kernel(archive), archive.package(BUSYBOX_PACKAGE)
    sources = project_folder() / "images" / "guest"
    key = store.key_of(
        kernel=packages[0].file.name,
        busybox=packages[1].file.name,
        sources=sources,
        compiler=first_line_of(["gcc", "--version"]),
        modules=" ".join(MODULES),
        applets=" ".join(APPLETS),
        format=FORMAT,
    )

    def make(folder: Path) -> None:
        kernel, busybox = (archive.download(package.name) for package in packages)
        require_programs("build the guest image", NATIVE_RUN)
        with progress.step("build the guest image", expected.GUEST_IMAGE), TemporaryDirectory(dir=folder) as name:
            scratch = Path(name)
            archive.extract(kernel, scratch / "kernel", "./boot/vmlinuz-*", *MODULE_FILES)
            archive.extract(busybox, scratch / "busybox")
            image = find_file(kernel, scratch / "kernel", "boot/vmlinuz-*")
            data = pack_initramfs(
                release=image.name.removeprefix("vmlinuz-"),
                modules=read_modules(scratch / "kernel", MODULES),
                busybox=find_file(busybox, scratch / "busybox", "**/busybox").read_bytes(),
                init=(sources / "init").read_bytes(),
                agent=compile_agent(sources, scratch).read_bytes(),
            )
            (folder / INITRAMFS).write_bytes(data)
            (folder / BZ_IMAGE).write_bytes(image.read_bytes())
            (folder / KERNEL).write_bytes(unpack_kernel(image.read_bytes()))

    note = "another run is building the guest image; waiting"
    folder = store.entry("guest", key, make, progress=progress, note=note)
    return GuestImage(folder / KERNEL, folder / INITRAMFS, key)


def download_packages(progress: Progress) -> None:
    """Download the packages of the kernel and of busybox.

    :raises DownloadFailed: a package could not be fetched.
    """
    archive = Archive(SUITE, progress)

    def download() -> None:
        archive.download(find_cloud_kernel(archive).name)
        archive.download(BUSYBOX_PACKAGE)

    with_new_look_ups([archive], download)


def find_cloud_kernel(archive: Archive) -> Package:
    """The kernel package that the meta package depends on.

    :raises NotSupported: the suite does not have it.
    :raises BuildFailed: the meta package depends on no kernel.
    """
    for dependency in archive.package(KERNEL_PACKAGE).depends:
        name = dependency.split()[0]
        if re.fullmatch(r"linux-image-[0-9][\w.+~-]*-cloud-amd64", name):
            return archive.package(name)
    raise BuildFailed("find the guest's kernel", f"{KERNEL_PACKAGE} depends on no kernel image")


def compile_agent(sources: Path, out: Path) -> Path:
    """Compile the agent.

    :param sources: images/guest.
    :param out: an existing folder for the program.
    :raises BuildFailed: holds the compiler's messages.
    """
    compile_static(["make", "-C", str(sources), "CC=gcc", f"OUT={out}"], "compile the guest's agent")
    return out / "agent.bin"


def find_file(package: Path, root: Path, pattern: str) -> Path:
    """The first file of an extracted package that matches a pattern.

    :param package: for the error.
    :param root: folder with the content of the package.
    :raises BuildFailed: there is none.
    """
    found = min((path for path in root.glob(pattern) if path.is_file()), default=None)
    if found is None:
        raise BuildFailed(f"find {pattern} in {package.name}", "the package has none")
    return found


def pack_initramfs(
    *, release: str, modules: Sequence[KernelModule], busybox: bytes, init: bytes, agent: bytes
) -> bytes:
    """The initramfs, uncompressed: an emulated guest reads it faster than it unpacks it."""
    archive = CpioArchive()
    for name in ("bin", "sbin", "dev", "proc", "sys", "lib", "lib/modules", f"lib/modules/{release}"):
        archive.folder(name)
    archive.console_devices()
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


def unpack_kernel(image: bytes) -> bytes:
    """The ELF kernel in a bzImage that is compressed with zstd.

    QEMU starts it by its PVH entry, and the guest does not unpack itself: under emulation that saves about a second of
    each boot and 25 MiB of touched guest memory. Layout of the bzImage: Linux, Documentation/arch/x86/boot.rst
    (setup_sects, payload_offset, payload_length).

    :raises BuildFailed: the file has another format.
    """
    try:
        elf = unpack_zstd(_kernel_payload(image))
    except ValueError as error:
        raise BuildFailed(TRIED, str(error)) from error
    if not elf.startswith(ELF):
        raise BuildFailed(TRIED, f"the payload begins with {elf[:4].hex()}: no ELF file")
    return elf


def _kernel_payload(image: bytes) -> bytes:
    """The compressed kernel in a bzImage, without the four bytes of its unpacked size at the end."""
    at, magic = MAGIC
    if len(image) < 2 * SECTOR or image[at : at + len(magic)] != magic:
        raise BuildFailed(TRIED, "the file is no bzImage")
    offset, length = struct.unpack_from("<II", image, PAYLOAD_FIELDS)
    begin = (image[SETUP_SECTORS] + 1) * SECTOR + offset
    payload = image[begin : begin + length - 4]
    if len(payload) != length - 4 or not payload.startswith(ZSTD):
        raise BuildFailed(TRIED, f"the payload begins with {payload[:4].hex()}: not compressed with zstd")
    return payload
