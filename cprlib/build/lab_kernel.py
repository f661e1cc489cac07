"""The lab's kernel: user-mode Linux from Debian's kernel source, a program that any user can run."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from cprlib.build import expected, store
from cprlib.build.command import build_environment, first_line_of, run_logged
from cprlib.build.control import compare_versions
from cprlib.build.debian import Archive, Package, with_new_look_ups
from cprlib.build.host_packages import LAB_KERNEL, require_programs
from cprlib.build.progress import Progress
from cprlib.build.signed_lists import MIRROR_VARIABLE
from cprlib.errors import BuildFailed, NotSupported
from cprlib.files import cache_folder, project_folder
from cprlib.linux.cgroup import usable_jobs
from cprlib.process import run

# In order of preference. Seccomp mode, much faster than ptrace, exists since 6.16; 6.12 of stable is the fallback.
SOURCES = (
    ("linux-source-7.2", "trixie-backports"),
    ("linux-source-7.2", "sid"),
    ("linux-source-7.*", "trixie-backports"),
    ("linux-source-6.12", "trixie"),
)
BINARY = "linux"
COMPILE_SECONDS = 3600.0
FILES = 788  # that the compiler is called for, to show how far it is; of 7.2

# Files that a build of user-mode Linux does not read; unpacking them would take longer than all the rest.
# Only C and assembler files are excluded, because Kconfig reads its own files in these folders.
UNUSED_DRIVERS = (
    *("accel", "clk", "comedi", "crypto", "gpu", "hid", "hwmon", "i2c", "iio", "infiniband", "leds", "md", "media"),
    *("mfd", "mmc", "mtd", "net/ethernet", "net/wireless", "phy", "pinctrl", "platform", "power", "regulator", "rtc"),
    *("scsi", "soc", "spi", "staging", "thermal", "usb", "video", "watchdog"),
)
UNUSED_ARCHITECTURES = (
    *("alpha", "arc", "arm", "arm64", "csky", "hexagon", "loongarch", "m68k", "microblaze", "mips", "nios2"),
    *("openrisc", "parisc", "powerpc", "riscv", "s390", "sh", "sparc", "xtensa"),
)
UNUSED = (
    *(f"drivers/{name}/*.[chS]" for name in UNUSED_DRIVERS),
    *(f"arch/{name}/*.[chS]" for name in UNUSED_ARCHITECTURES),
    *(f"{name}/*.[chS]" for name in ("fs/btrfs", "fs/xfs", "sound", "tools/perf", "tools/testing")),
    *("Documentation/*.rst", "Documentation/*.yaml", "*.dts", "*.dtsi"),
)


def build_lab_kernel(progress: Progress) -> Path:
    """Build user-mode Linux, or return the build that the store has.

    :returns: the program; ``linux mem=4G rootfstype=hostfs rootflags=/ init=...`` boots it.
    :raises DownloadFailed: the source could not be fetched.
    :raises BuildFailed: the compiler failed; names the log.
    """
    archives = _archives(progress)
    return with_new_look_ups(archives.values(), lambda: _build(archives, progress))


def _build(archives: Mapping[str, Archive], progress: Progress) -> Path:
    package = _find_source(archives)
    archive = archives[package.suite]
    key = store.key_of(
        source=package.file.sha256, config=_config_file(), compiler=first_line_of(["gcc", "--version"]), recipe=1
    )

    def make(temporary: Path) -> None:
        deb = archive.download(package.name)
        require_programs("build the lab's kernel", LAB_KERNEL)
        log = cache_folder() / "trees" / "lab-kernel.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=temporary) as name:
            folder = Path(name)
            with progress.step(f"unpack {package.name} {package.version}", expected.UNPACK_KERNEL):
                source = _unpack(archive, deb, folder)
            _compile(source, folder / "build", log, progress)
            shutil.copy2(folder / "build" / BINARY, temporary / BINARY)
            shutil.copyfile(folder / "build" / ".config", temporary / "config")

    note = "another run is building the lab kernel; waiting"
    return store.entry("lab-kernel", key, make, progress=progress, note=note) / BINARY


def download_source(progress: Progress) -> Path:
    """The package with the source of the kernel.

    :raises DownloadFailed: it could not be fetched.
    """
    archives = _archives(progress)

    def download() -> Path:
        package = _find_source(archives)
        return archives[package.suite].download(package.name)

    return with_new_look_ups(archives.values(), download)


def _archives(progress: Progress) -> Mapping[str, Archive]:
    """The archives of the preferred kernel sources, by suite."""
    return {suite: Archive(suite, progress) for _, suite in SOURCES}


def _find_source(archives: Mapping[str, Archive]) -> Package:
    """The first of the preferred kernel sources that Debian has."""
    for pattern, suite in SOURCES:
        archive = archives[suite]
        names = archive.names(pattern.rstrip("*")) if "*" in pattern else (pattern,)
        newest = max(names, key=functools.cmp_to_key(compare_versions), default=None)
        if newest and (package := archive.find_package(newest)):
            return package
    refused = "; ".join(f"Debian {suite} has no {pattern}" for pattern, suite in SOURCES)
    advice = f"set {MIRROR_VARIABLE} to a mirror that has one, or {store.KERNEL_VARIABLE} to a user-mode Linux"
    raise NotSupported("find the source of a kernel for the lab", refused, advice)


def _unpack(archive: Archive, deb: Path, folder: Path) -> Path:
    """Unpack the required part of the kernel source; returns its top folder."""
    archive.extract(deb, folder, "./usr/src/*.tar.xz")
    packed = next((folder / "usr" / "src").glob("linux-source-*.tar.xz"), None)
    if packed is None:
        raise BuildFailed("unpack the kernel's source", f"{deb.name} has no usr/src/linux-source-*.tar.xz")
    excluded = [f"--exclude=*/{pattern}" for pattern in UNUSED]
    source = folder / "source"
    source.mkdir()
    command = ["tar", "-xf", str(packed), "-C", str(source), "--strip-components=1", "--use-compress-program=xz -T0"]
    run(
        [*command, "--no-same-owner", *excluded],
        purpose=f"unpack {packed.name}",
        seconds=600,
        advice="install xz-utils",
    )
    packed.unlink()
    return source


def _compile(source: Path, build: Path, log: Path, progress: Progress) -> None:
    build.mkdir()
    log.write_text("", encoding="utf-8")
    environment = {**build_environment(), "KBUILD_BUILD_USER": "cprlib", "KBUILD_BUILD_HOST": "lab"}
    common = ["make", "-C", str(source), "ARCH=um", f"O={build}", f"-j{usable_jobs()}"]
    compiled = 0

    with progress.step("configure the lab's kernel", expected.CONFIGURE_KERNEL):
        command = [*common, f"KCONFIG_ALLCONFIG={_config_file()}", "allnoconfig"]
        run_logged(command, purpose="configure the lab's kernel", log=log, seconds=300, env=environment)
    _check_config(build / ".config")
    with progress.step("compile the lab's kernel", expected.COMPILE_KERNEL) as say:

        def show(line: str) -> None:
            nonlocal compiled
            if line.startswith("  CC "):
                compiled += 1
                say(f"[{compiled}/{FILES}]", min(compiled / FILES, 1.0))

        purpose = "compile the lab's kernel"
        command = [*common, BINARY]
        run_logged(command, purpose=purpose, log=log, seconds=COMPILE_SECONDS, env=environment, on_line=show)
    run(["strip", "--strip-debug", str(build / BINARY)], purpose="strip the lab's kernel")


def _check_config(config: Path) -> None:
    """Check that every line of the fragment is in effect: Kconfig drops unknown options silently.

    :raises BuildFailed: names the dropped lines.
    """
    known = set(config.read_text(encoding="utf-8").splitlines())
    requested = [line for line in _config_file().read_text(encoding="utf-8").splitlines() if line.startswith("CONFIG_")]
    dropped = [line for line in requested if line not in known and not line.endswith("=n")]
    if dropped:
        happened = f"this kernel drops {', '.join(dropped)}"
        advice = f"correct {_config_file()}, or set {store.KERNEL_VARIABLE} to a user-mode Linux"
        raise BuildFailed("configure the lab's kernel", happened, advice)


def _config_file() -> Path:
    return project_folder() / "images" / "lab" / "kernel.config"
