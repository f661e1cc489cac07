"""A QEMU of the project's own: Debian's source of a base, the series on it, compiled small, kept by content."""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cprlib.build import store
from cprlib.build.command import first_line_of, processors, run_logged
from cprlib.build.debian import Archive
from cprlib.build.firmware import find_firmware
from cprlib.build.progress import Progress
from cprlib.build.series import Base, Series, find_base, find_series
from cprlib.build.source_tree import SourceTree, kept_tree
from cprlib.build.tools import find_build_python
from cprlib.errors import BuildFailed, CprlibError
from cprlib.files import cache_folder, project_folder, write_json

TARGET = "qemu-system-x86_64"
DEVICES = "cprlib"  # name of the device file in QEMU's configs/devices/x86_64-softmmu/
COMPILE_SECONDS = 1800.0
CONFIGURE_SECONDS = 300.0
STEP = re.compile(r"^\[\d+/\d+\]")

OPTIONS = (
    "--target-list=x86_64-softmmu",
    "--without-default-features",
    "--without-default-devices",
    f"--with-devices-x86_64={DEVICES}",
    "--enable-system",
    "--disable-user",
    "--disable-docs",
    "--disable-tools",
    "--disable-guest-agent",
    "--enable-kvm",
    "--enable-tcg",
    "--enable-fdt=system",
    "--enable-vhost-kernel",
    "--enable-vhost-net",
    "--enable-vhost-user",
    "--enable-trace-backends=log",
    "--disable-debug-info",
    "--disable-werror",
    "--disable-install-blobs",
    "--disable-download",
)


@dataclass(frozen=True, slots=True)
class QemuBuild:
    """A compiled QEMU.

    :param folder: its entry in the store; ``build.json`` in it says what it was made of.
    :param binary: qemu-system-x86_64.
    :param firmware: the folder to give as ``-L``; the binary finds it by itself too.
    :param base: name of the base, ``"10.0"``.
    :param version: version of Debian's source package.
    :param series_digest: names the patches' content.
    :param patches: file names of the patches, in order.
    """

    folder: Path
    binary: Path
    firmware: Path
    base: str
    version: str
    series_digest: str
    patches: tuple[str, ...]


def build_qemu(
    base: str,
    series: bool | Path | Sequence[Path],
    progress: Progress,
    *,
    leave_out: Sequence[str] = (),
    extra: Sequence[Path] = (),
    refresh: bool = False,
) -> QemuBuild:
    """Build a base with a series, or find it built.

    :param base: a name of images/qemu/bases.toml.
    :param series: True for the project's own, False for none, a folder of patches, or patches in order.
    :param leave_out: patches of the series to leave out, by the beginning of their names: a mutant.
    :param extra: patches to apply after the series (a defect): a mutant.
    :param refresh: look for a newer source package of the base in Debian.
    :raises DownloadFailed: packages are out of reach.
    :raises NotSupported: the suite no longer has the base's source.
    :raises BuildFailed: a patch does not apply, or a compiler refused; names the log.
    """
    chosen = find_base(base)
    patches = Series((*find_series(base, series).without(leave_out).patches, *(patch.absolute() for patch in extra)))
    archive = Archive(chosen.suite, progress=progress, refresh=refresh)
    source = archive.source("qemu", chosen.version)
    tree_key = store.key_of(
        source="\n".join(file.sha256 for file in source.files),
        devices=_device_file(),
        options=" ".join(OPTIONS),
        compiler=first_line_of(["gcc", "--version"]),
        host=_release(),
    )
    firmware = find_firmware(archive)
    key = store.key_of(tree=tree_key, series=patches.digest, firmware=firmware.name)

    def make(aside: Path) -> None:
        folder = cache_folder() / "trees" / f"qemu-{chosen.name}-{tree_key[:12]}"
        with kept_tree(folder) as tree:
            binary = _compile(tree, chosen, patches, archive, progress)
            (aside / "bin").mkdir()
            shutil.copy2(binary, aside / "bin" / TARGET)
        shutil.copytree(firmware, aside / "share" / "qemu", ignore=shutil.ignore_patterns(store.LISTING))
        write_json(
            aside / "build.json",
            {
                "base": chosen.name,
                "source": f"qemu {source.version}",
                "suite": chosen.suite,
                "series": patches.digest,
                "patches": list(patches.names),
                "options": list(OPTIONS),
                "compiler": first_line_of(["gcc", "--version"]),
            },
        )

    def waiting() -> None:
        progress.note(f"another run is building QEMU {chosen.name}; waiting for it")

    entry = store.entry("qemu", key, make, waiting=waiting)
    return QemuBuild(
        entry,
        entry / "bin" / TARGET,
        entry / "share" / "qemu",
        chosen.name,
        source.version,
        patches.digest,
        patches.names,
    )


def _compile(tree: SourceTree, base: Base, series: Series, archive: Archive, progress: Progress) -> Path:
    """The binary of the base with the series; a kept tree that turns out broken is made anew once."""
    kept = tree.is_ready
    try:
        return _compile_once(tree, base, series, archive, progress)
    except (CprlibError, OSError, ValueError) as error:
        if not kept or (isinstance(error, BuildFailed) and error.tried.startswith("apply ")):
            raise
        progress.note(f"building in the kept tree failed ({error}); starting from the beginning")
        tree.discard()
        return _compile_once(tree, base, series, archive, progress)


def _compile_once(tree: SourceTree, base: Base, series: Series, archive: Archive, progress: Progress) -> Path:
    log = tree.folder.with_name(f"{tree.folder.name}.log")
    environment = _environment()
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("", encoding="utf-8")

    def run_step(command: Sequence[str], what: str, seconds: float) -> None:
        with progress.step(what) as say:

            def show(line: str) -> None:
                found = STEP.match(line)
                if found:
                    say(found.group())

            run_logged(command, purpose=what, log=log, seconds=seconds, cwd=tree.build, env=environment, on_line=show)

    def unpack(folder: Path) -> None:
        source, dsc = archive.download_source("qemu", base.version)
        with progress.step(f"unpack QEMU {source.version}"):
            archive.unpack_source(dsc, folder)
        shutil.copyfile(_device_file(), folder / "configs" / "devices" / "x86_64-softmmu" / f"{DEVICES}.mak")

    def configure(_folder: Path) -> None:
        command = [str(tree.source / "configure"), f"--python={find_build_python(progress)}", *OPTIONS]
        command += [f"--with-pkgversion=cprlib {base.name}", "--cc=gcc"]
        run_step(command, f"configure QEMU {base.name}", CONFIGURE_SECONDS)

    if not tree.is_ready:
        tree.prepare(unpack, configure)
    tree.switch_to(series)
    command = ["ninja", "-C", str(tree.build), f"-j{processors()}", TARGET]
    run_step(command, f"compile QEMU {base.name} with {len(series.patches) or 'no'} patches", COMPILE_SECONDS)
    return tree.build / TARGET


def _environment() -> dict[str, str]:
    """The environment of configure and ninja: no flags of the caller's.

    No compiler cache: it makes the first build a fifth slower, and later ones use the kept tree anyway.
    """
    dropped = ("CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS", "CC", "CXX", "MAKEFLAGS", "NINJA_STATUS", "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return {**kept, "LC_ALL": "C.UTF-8", "CCACHE_DISABLE": "1"}


def _device_file() -> Path:
    return project_folder() / "images" / "qemu" / "devices.mak"


def _release() -> str:
    """The distribution whose libraries the binary is linked with: ``"debian 12"``."""
    try:
        system = platform.freedesktop_os_release()
    except OSError:
        return ""
    return f"{system.get('ID', '')} {system.get('VERSION_ID', '')}"
