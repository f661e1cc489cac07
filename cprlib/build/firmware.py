"""Firmware for the QEMU built here: its source package has none, so it comes from Debian's packages."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from cprlib.build import store
from cprlib.build.debian import Archive
from cprlib.errors import BuildFailed

SUITE = "trixie"
FILES = {  # package -> files in it; what the machines and devices of images/qemu/devices.mak load
    "seabios": ("usr/share/seabios/bios-256k.bin", "usr/share/seabios/bios-microvm.bin", "usr/share/seabios/bios.bin"),
    "ipxe-qemu": ("usr/share/qemu/efi-virtio.rom", "usr/share/qemu/pxe-virtio.rom"),
    "qemu-system-data": tuple(
        f"usr/share/qemu/{name}"
        for name in ("kvmvapic.bin", "linuxboot.bin", "linuxboot_dma.bin", "multiboot_dma.bin", "pvh.bin", "qboot.rom")
    ),
}


def find_firmware(archive: Archive) -> Path:
    """A folder with the firmware files, all at its top.

    :raises DownloadFailed: a package could not be fetched.
    """
    digests = {package.replace("-", "_"): archive.package(package, SUITE).file.sha256 for package in FILES}
    key = store.key_of(files=repr(FILES), **digests)

    def make(aside: Path) -> None:
        for package, files in FILES.items():
            deb = archive.download(package, SUITE)
            with tempfile.TemporaryDirectory(dir=aside) as name:
                archive.extract(deb, Path(name))
                for file in files:
                    if not (Path(name) / file).is_file():
                        raise BuildFailed("collect QEMU's firmware", f"{deb.name} has no {file}")
                    shutil.copyfile(Path(name) / file, aside / Path(file).name)

    return store.entry("firmware", key, make)
