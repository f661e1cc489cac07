"""Kernel and initramfs of the lab that is a virtual machine: Debian's cloud kernel, its modules, our first process."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from cprlib.build import store
from cprlib.build.cpio import CpioArchive
from cprlib.build.debian import Archive
from cprlib.build.guest_image import SUITE, read_modules
from cprlib.build.kernel import unpack_kernel
from cprlib.errors import BuildFailed
from cprlib.files import project_folder
from cprlib.process import run

MODULES = (
    *("virtio_blk", "overlay", "tun", "tap", "vhost_net", "kvm_amd", "kvm_intel", "bridge", "8021q", "veth"),
    *("macvtap", "dummy", "sch_netem", "ifb", "af_packet"),
)
BUILT_IN = ("af_packet",)  # in some kernels
FORMAT = 1


@dataclass(frozen=True, slots=True)
class KvmImage:
    """What QEMU starts."""

    kernel: Path
    initramfs: Path


def build_kvm_image(kernel_package: Path | None = None) -> KvmImage:
    """The image, from the store when it is there.

    :param kernel_package: Debian package of a kernel; the newest cloud kernel of the guest's suite when None.
    :raises DownloadFailed: the package is out of reach.
    :raises BuildFailed: it has not what is needed.
    """
    source = project_folder() / "images" / "lab" / "init.c"
    archive = Archive(SUITE)
    package = kernel_package or archive.download(_real_kernel(archive))
    key = store.key_of(kernel=package.name, source=source, modules=" ".join(MODULES), format=FORMAT)

    def make(folder: Path) -> None:
        with TemporaryDirectory(dir=folder.parent, prefix=".kvm-") as name:
            scratch = Path(name)
            archive.extract(package, scratch)
            image = next(iter(sorted(scratch.glob("boot/vmlinuz-*"))), None)
            if image is None:
                raise BuildFailed(f"find a kernel in {package.name}", "the package has none")
            init = scratch / "init"
            compiler = os.environ.get("CC", "cc")
            command = [compiler, "-O2", "-DLAB_KVM", "-static", "-s", "-o", str(init), str(source)]
            run(command, purpose="compile the lab's first process", advice="install the packages gcc and libc6-dev")
            (folder / "initramfs").write_bytes(_initramfs(init, scratch))
            (folder / "vmlinuz").write_bytes(unpack_kernel(image.read_bytes(), scratch))

    entry = store.entry("lab-kvm", key, make)
    return KvmImage(entry / "vmlinuz", entry / "initramfs")


def _real_kernel(archive: Archive) -> str:
    """The package that the meta package of the cloud kernel stands for."""
    from cprlib.build import guest_image  # noqa: PLC0415

    return guest_image._real_kernel(archive)


def _initramfs(init: Path, root: Path) -> bytes:
    archive = CpioArchive()
    for name in ("dev", "proc", "sys", "run", "modules"):
        archive.folder(name)
    archive.character_device("dev/console", 5, 1)
    archive.character_device("dev/null", 1, 3, 0o666)
    archive.file("init", init.read_bytes(), 0o755)
    for index, module in enumerate(read_modules(root, [name for name in MODULES if name not in BUILT_IN])):
        archive.file(f"modules/{index:02}-{module.name}.ko", module.content)
    return archive.data()
