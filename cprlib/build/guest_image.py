"""The guest image: Debian's cloud kernel, busybox, and an init and agent of ours; built by any user.

Recipe and sources are in images/guest/. The result is kept by content: the same packages, sources and compiler give
the same entry.
"""

from __future__ import annotations

import lzma
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from cprlib.build import store
from cprlib.build.cpio import CpioArchive
from cprlib.build.debian import Archive
from cprlib.build.kernel import unpack_kernel
from cprlib.build.progress import Progress, SilentProgress
from cprlib.errors import BuildFailed, ProcessFailed
from cprlib.files import project_folder
from cprlib.guest.image import GuestImage
from cprlib.process import run

SUITE = "trixie"
KERNEL_PACKAGE = "linux-image-cloud-amd64"
BUSYBOX_PACKAGE = "busybox-static"
MODULES = ("virtio_net", "8021q")  # with what they depend on; virtio_pci and virtio_console are built in
APPLETS = ("ip", "modprobe", "mount", "setsid", "sh")
FORMAT = 2  # raise when this file makes something else of the same inputs
KERNEL, INITRAMFS = "vmlinuz", "initramfs"


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything an image is made from."""

    kernel_package: Path
    busybox_package: Path
    sources: Path
    compiler: str

    def key(self) -> str:
        """The name of what comes out."""
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

    :raises DownloadFailed: a package is out of reach.
    :raises BuildFailed: the compiler, or a package without what is wanted of it.
    """
    shown = progress or SilentProgress()
    archive = Archive(SUITE, progress=shown)
    inputs = Inputs(
        kernel_package=archive.download(_real_kernel(archive)),
        busybox_package=archive.download(BUSYBOX_PACKAGE),
        sources=project_folder() / "images" / "guest",
        compiler=run(["gcc", "--version"], purpose="ask gcc for its version", advice="install gcc").splitlines()[0],
    )
    key = inputs.key()

    def make(folder: Path) -> None:
        with shown.step("build the guest image"), TemporaryDirectory(dir=folder) as scratch:
            _make(archive, inputs, Path(scratch), folder)

    folder = store.entry(
        "guest", key, make, waiting=lambda: shown.note("another process builds the guest image; waiting")
    )
    return GuestImage(folder / KERNEL, folder / INITRAMFS, key)


def _real_kernel(archive: Archive) -> str:
    """The package that the meta package depends on."""
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
    kernel = _only(kernel_root.glob("boot/vmlinuz-*"), "kernel", inputs.kernel_package)
    busybox = _only(
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
    :raises BuildFailed: in the compiler's words.
    """
    try:
        run(["make", "-C", str(sources), f"OUT={out}"], purpose="compile the guest's agent", seconds=120)
    except ProcessFailed as error:
        raise BuildFailed(
            error.tried, error.happened, "install gcc, make and libc6-dev", details=error.details
        ) from error
    return out / "agent.bin"


def module_patterns() -> tuple[str, ...]:
    """Where a kernel package may have the modules wanted, for tar; dependencies are in the same folders."""
    folders = ("kernel/drivers/net", "kernel/net/core", "kernel/net/8021q", "kernel/net/802", "kernel/net/llc")
    return tuple(f"./*lib/modules/*/{folder}/*.ko*" for folder in folders)


@dataclass(frozen=True, slots=True)
class KernelModule:
    """A kernel module, unpacked, and the names of those it needs."""

    name: str
    content: bytes
    depends: tuple[str, ...]


def read_modules(root: Path, names: Sequence[str]) -> tuple[KernelModule, ...]:
    """The modules named and all they depend on, dependencies first.

    :raises BuildFailed: one is not below ``root``.
    """
    found: dict[str, KernelModule] = {}

    def read(name: str) -> None:
        if name in found:
            return
        path = next((path for path in root.rglob("*.ko*") if path.name.split(".")[0].replace("-", "_") == name), None)
        if path is None:
            raise BuildFailed(f"find kernel module {name}", "the kernel package has none")
        content = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
        depends = module_depends(content)
        for dependency in depends:
            read(dependency)
        found[name] = KernelModule(name, content, depends)

    for name in names:
        read(name)
    return tuple(found.values())


def module_depends(content: bytes) -> tuple[str, ...]:
    """What a module says it depends on, in its section .modinfo."""
    match = re.search(rb"\0depends=([\w,-]*)\0", content)
    text = match.group(1).decode() if match else ""
    return tuple(name.replace("-", "_") for name in text.split(",") if name)


def modules_dep(modules: Iterable[KernelModule]) -> str:
    """The content of modules.dep, as modprobe reads it: each module with all it needs, nearest first."""
    known = {module.name: module for module in modules}

    def needed(name: str) -> list[str]:
        direct = list(known[name].depends)
        return direct + [far for near in direct for far in needed(near) if far not in direct]

    lines = [f"{name}.ko:" + "".join(f" {other}.ko" for other in needed(name)) for name in known]
    return "\n".join(lines) + "\n"


def pack_initramfs(
    *, release: str, modules: Sequence[KernelModule], busybox: bytes, init: bytes, agent: bytes
) -> bytes:
    """The initramfs, not compressed: unpacking costs an emulated guest more time than reading it does."""
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
    archive.symlink("sbin/modprobe", "../bin/busybox")  # the kernel calls it by this name
    for module in modules:
        archive.file(f"lib/modules/{release}/{module.name}.ko", module.content)
    archive.file(f"lib/modules/{release}/modules.dep", modules_dep(modules).encode())
    return archive.data()


def _only(paths: Iterable[Path], what: str, package: Path) -> Path:
    found = next(iter(sorted(paths)), None)
    if found is None:
        raise BuildFailed(f"find {what} in {package.name}", "the package has none")
    return found
