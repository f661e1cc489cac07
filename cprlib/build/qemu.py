"""Build the project's own QEMU: Debian's source of a base, the series on it, few devices."""

from __future__ import annotations

import functools
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cprlib.build import expected, store
from cprlib.build.command import build_environment, first_line_of, run_logged
from cprlib.build.debian import Archive, with_new_look_ups
from cprlib.build.host_packages import QEMU_BUILD, require_programs
from cprlib.build.precompiled import discard_precompiled, ensure_precompiled
from cprlib.build.progress import Progress
from cprlib.build.python_env import find_build_python
from cprlib.build.series import Base, Series, find_base, find_series
from cprlib.build.source_tree import SourceTree
from cprlib.errors import OF_MACHINE, BuildFailed, CprlibError, EnvironmentFailure, PatchFailed
from cprlib.files import cache_folder, locked, project_folder, write_json
from cprlib.linux.cgroup import usable_jobs
from cprlib.qemu.binary import QemuBinary

TARGET = "qemu-system-x86_64"
DEVICES = "cprlib"  # name of the device file in configs/devices/x86_64-softmmu/ of QEMU
COMPILE_SECONDS = 1800.0
CONFIGURE_SECONDS = 300.0
COMPILER_ERROR = re.compile(r"^(?:.* )?(\S+?):\d+(?::\d+)?: (?:fatal )?error: ", re.MULTILINE)  # gcc's, with the file
STEP = re.compile(r"^\[(\d+)/(\d+)\]")

FIRMWARE_SUITE = "trixie"
FIRMWARE = {  # package -> files; what the machines and devices of images/qemu/devices.mak load
    "seabios": ("usr/share/seabios/bios-256k.bin", "usr/share/seabios/bios-microvm.bin", "usr/share/seabios/bios.bin"),
    "ipxe-qemu": ("usr/share/qemu/efi-virtio.rom", "usr/share/qemu/pxe-virtio.rom"),
    "qemu-system-data": tuple(
        f"usr/share/qemu/{name}"
        for name in ("kvmvapic.bin", "linuxboot.bin", "linuxboot_dma.bin", "multiboot_dma.bin", "pvh.bin", "qboot.rom")
    ),
}

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
class Instrumentation:
    """Additional code that is compiled into a QEMU.

    :param key: digest of everything that it depends on.
    :param link: makes the instrumented program in the tree of the compiled one, adds other files to the folder of the
        build, and returns the program.
    """

    key: str
    link: Callable[[SourceTree, Series, Path, Progress], Path]


def build_qemu(
    base: str,
    series: bool,
    progress: Progress,
    *,
    leave_out: Sequence[str] = (),
    extra: Sequence[Path] = (),
    instrumentation: Instrumentation | None = None,
) -> QemuBinary:
    """Build a base with a series, or return the build that the store has.

    :param base: a name of images/qemu/bases.toml.
    :param series: whether to apply the project's own series.
    :param leave_out: patches of the series to leave out, by the beginning of their names.
    :param extra: patches to apply after the series.
    :param instrumentation: additional code of the program.
    :returns: the binary, and the folder of its firmware, which it also finds by itself.
    :raises DownloadFailed: packages could not be fetched.
    :raises NotSupported: the suite does not have the source of the base.
    :raises BuildFailed: a patch does not apply, or the compiler failed; names the log.
    """
    chosen = find_base(base)
    own = find_series(base) if series else Series()
    patches = Series((*own.without(leave_out).patches, *(patch.absolute() for patch in extra)))
    archive, firmware = Archive(chosen.suite, progress), Archive(FIRMWARE_SUITE, progress)
    build = functools.partial(_build, chosen, patches, archive, firmware, instrumentation, progress)
    return with_new_look_ups([archive, firmware], build)


def _build(
    chosen: Base,
    patches: Series,
    archive: Archive,
    firmware_archive: Archive,
    instrumentation: Instrumentation | None,
    progress: Progress,
) -> QemuBinary:
    source = archive.source("qemu", chosen.version)
    tree_key = store.key_of(
        source="\n".join(file.sha256 for file in source.files),
        devices=_device_file(),
        options=" ".join((*OPTIONS, *chosen.options)),
        compiler=first_line_of(["gcc", "--version"]),
        host=_release(),
    )
    firmware = find_firmware(firmware_archive, progress)
    added = {"instrumentation": instrumentation.key} if instrumentation else {}
    key = store.key_of(tree=tree_key, series=patches.digest, firmware=firmware.name, **added)

    def make(temporary: Path) -> None:
        require_programs(f"build QEMU {chosen.name}", QEMU_BUILD)
        folder = cache_folder() / "trees" / f"qemu-{chosen.stand_in_on or chosen.name}-{tree_key[:12]}"
        with locked(folder.with_name(f".{folder.name}.lock"), waiting=progress.raise_if_stopped):
            tree = SourceTree(folder)
            binary = _compile(tree, chosen, patches, archive, progress)
            if instrumentation:
                binary = instrumentation.link(tree, patches, temporary, progress)
            (temporary / "bin").mkdir()
            shutil.copy2(binary, temporary / "bin" / TARGET)
        shutil.copytree(firmware, temporary / "share" / "qemu", ignore=shutil.ignore_patterns(store.LISTING))
        write_json(
            temporary / "build.json",
            {
                "base": chosen.name,
                "source": f"qemu {source.version}",
                "suite": chosen.suite,
                "series": patches.digest,
                "patches": list(patches.names),
                "options": [*OPTIONS, *chosen.options],
                "compiler": first_line_of(["gcc", "--version"]),
            },
        )

    note = f"another run is building QEMU {chosen.name}; waiting"
    entry = store.entry("qemu", key, make, progress=progress, note=note)
    return QemuBinary(entry / "bin" / TARGET, entry / "share" / "qemu")


def find_firmware(archive: Archive, progress: Progress) -> Path:
    """A folder with the firmware files; QEMU's source package has none, so they come from binary packages.

    :raises DownloadFailed: a package could not be fetched.
    """
    digests = {package.replace("-", "_"): archive.package(package).file.sha256 for package in FIRMWARE}
    key = store.key_of(files=repr(FIRMWARE), **digests)

    def make(temporary: Path) -> None:
        for package, files in FIRMWARE.items():
            deb = archive.download(package)
            with tempfile.TemporaryDirectory(dir=temporary) as name:
                archive.extract(deb, Path(name))
                for file in files:
                    if not (Path(name) / file).is_file():
                        raise BuildFailed("collect QEMU's firmware", f"{deb.name} has no {file}")
                    shutil.copyfile(Path(name) / file, temporary / Path(file).name)

    return store.entry("firmware", key, make, progress=progress)


def _compile(tree: SourceTree, base: Base, series: Series, archive: Archive, progress: Progress) -> Path:
    """Compile the base with the series; a source tree that turns out broken is discarded once."""
    reused = tree.is_ready
    try:
        return _compile_once(tree, base, series, archive, progress)
    except (CprlibError, OSError, ValueError) as error:
        if not reused or not _may_be_broken(tree, series, error):
            raise
        progress.note(f"the build in the existing tree failed ({error}); starting from the beginning")
        tree.discard()
        return _compile_once(tree, base, series, archive, progress)


def _may_be_broken(tree: SourceTree, series: Series, error: Exception) -> bool:
    """Whether a tree that failed may be broken; what it has compiled is kept on a slow host, or on a full disk.

    An error in a file that the series changes is its own: that file is as the series has it, in any tree.
    """
    try:
        tree.compile_commands()
    except EnvironmentFailure:
        return True
    if isinstance(error, OSError):
        return error.errno not in OF_MACHINE
    if not isinstance(error, CprlibError):
        return True
    return (
        isinstance(error, BuildFailed)
        and not isinstance(error, PatchFailed)
        and not store.no_space_message(error)
        and not _is_in(error, tree, series)
    )


def _is_in(error: BuildFailed, tree: SourceTree, series: Series) -> bool:
    """Whether the compiler found an error in a file that the series changes."""
    files = COMPILER_ERROR.findall(f"{error.happened}\n{error.details}")
    found = {os.path.normpath(tree.build / file) for file in files}
    return any(os.path.normpath(tree.source / name) in found for name in series.touched())


def _compile_once(tree: SourceTree, base: Base, series: Series, archive: Archive, progress: Progress) -> Path:
    log = tree.log
    environment = build_environment()
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("", encoding="utf-8")

    def run_step(command: Sequence[str], what: str, seconds: float, work: float) -> None:
        with progress.step(what, work) as say:

            def show(line: str) -> None:
                found = STEP.match(line)
                if found:
                    say(found.group(), expected.qemu_work(int(found[1]) / int(found[2])))

            run_logged(command, purpose=what, log=log, seconds=seconds, cwd=tree.build, env=environment, on_line=show)

    def run_quietly(command: Sequence[str]) -> None:
        purpose = "compile QEMU's common header"
        run_logged(command, purpose=purpose, log=log, seconds=CONFIGURE_SECONDS, cwd=tree.build, env=environment)

    def unpack(folder: Path) -> None:
        source, dsc = archive.download_source("qemu", base.version)
        with progress.step(f"unpack QEMU {source.version}", expected.UNPACK_QEMU):
            archive.unpack_source(dsc, folder)
        shutil.copyfile(_device_file(), folder / "configs" / "devices" / "x86_64-softmmu" / f"{DEVICES}.mak")

    def configure(_folder: Path) -> None:
        python = find_build_python(progress)
        tree.switch_to(series)  # before, because a series that touches meson's files would let ninja configure again
        command = [str(tree.source / "configure"), f"--python={python}", *OPTIONS, *base.options]
        command += [f"--with-pkgversion=cprlib {base.stand_in_on or base.name}", "--cc=gcc"]
        command += ["--extra-cflags=-Wno-invalid-pch"]  # a compiled header that does not fit is no problem
        run_step(command, f"configure QEMU {base.name}", CONFIGURE_SECONDS, expected.CONFIGURE_QEMU)

    if not tree.is_ready:
        tree.prepare(unpack, configure)
    tree.switch_to(series)
    with progress.step("compile QEMU's common header", expected.QEMU_HEADER):
        try:
            ensure_precompiled(tree, run_quietly)
        except BuildFailed as error:  # the build takes longer without it
            discard_precompiled(tree)
            progress.note(f"without a compiled common header: {error.happened}")
    command = ["ninja", "-C", str(tree.build), f"-j{usable_jobs()}", TARGET]
    what = f"compile QEMU {base.name} with {len(series.patches) or 'no'} patches"
    run_step(command, what, COMPILE_SECONDS, expected.COMPILE_QEMU)
    return tree.build / TARGET


def _device_file() -> Path:
    return project_folder() / "images" / "qemu" / "devices.mak"


def _release() -> str:
    """The distribution whose libraries the binary is linked with: ``"debian 12"``."""
    try:
        system = platform.freedesktop_os_release()
    except OSError:
        return ""
    return f"{system.get('ID', '')} {system.get('VERSION_ID', '')}"
