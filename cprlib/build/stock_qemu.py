"""QEMU as Debian ships it: its binary package with all its libraries and firmware, unpacked into the store.

Nothing is installed. The program is started by the packages' own loader, so that a QEMU of Debian 13 runs on any host
of the same architecture. A script does that; it also names the folder of QEMU's modules.
"""

from __future__ import annotations

import operator
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from cprlib.build import store
from cprlib.build.control import compare_versions
from cprlib.build.debian import Archive, Package, with_new_look_ups
from cprlib.build.progress import Progress
from cprlib.errors import BuildFailed, NotSupported
from cprlib.qemu.binary import QemuBinary

PACKAGE = "qemu-system-x86"
STABLE = "trixie"
FORMAT = 1  # raise it when this file unpacks the same packages in another way
PROGRAM = "qemu-system-x86_64"
FIRMWARE = ("usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu")
UNUSED = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/bug", "usr/share/lintian")
NEEDED = re.compile(r"lib.+|zlib1g|qemu-system-(common|data)|seabios|ipxe-qemu")  # no accounts, no configuration
DEPENDENCY = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9+.-]*)(?::\w+)?(?: \((?P<relation><<|<=|=|>=|>>) (?P<version>[^)]+)\))?"
)
RELATIONS: Mapping[str, Callable[[int, int], bool]] = {
    "<<": operator.lt,
    "<=": operator.le,
    "=": operator.eq,
    ">=": operator.ge,
    ">>": operator.gt,
}
START = """\
#!/bin/sh
# The QEMU of Debian's package, with the libraries and modules that were unpacked beside it.
top=${0%/*}
export QEMU_MODULE_DIR="$top/usr/lib/x86_64-linux-gnu/qemu"
exec "$top/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2" --library-path "$top/usr/lib/x86_64-linux-gnu" \\
    "$top/usr/bin/qemu-system-x86_64" "$@"
"""


def stock_qemu(suite: str, progress: Progress) -> QemuBinary:
    """The QEMU of a suite, from the store when it is there.

    :param suite: ``trixie``, ``trixie-backports``, ``sid``.
    :returns: the script that starts it, and its firmware.
    :raises NotSupported: the suite has no QEMU, or a library is in no suite.
    :raises DownloadFailed: packages could not be fetched.
    :raises BuildFailed: the package has no such program.
    """
    archives = [Archive(name, progress) for name in dict.fromkeys((STABLE, suite))]
    return with_new_look_ups(archives, lambda: _unpack(archives, suite, progress))


def _unpack(archives: Sequence[Archive], suite: str, progress: Progress) -> QemuBinary:
    own = archives[-1].package(PACKAGE)
    packages = [own, *dependencies(own, archives)]
    key = store.key_of(format=FORMAT, **{item.name: item.file.sha256 for item in packages})

    def make(folder: Path) -> None:
        for item in packages:
            archive = next(archive for archive in archives if archive.suite == item.suite)
            archive.extract(archive.download(item.name), folder)
        for name in UNUSED:
            shutil.rmtree(folder / name, ignore_errors=True)
        if not (folder / "usr/bin" / PROGRAM).is_file():
            raise BuildFailed(f"unpack {PACKAGE} of {suite}", f"it has no {PROGRAM}")
        _gather_firmware(folder)
        (folder / PROGRAM).write_text(START, encoding="utf-8")
        (folder / PROGRAM).chmod(0o755)

    note = f"another run is unpacking Debian's QEMU of {suite}; waiting"
    entry = store.entry("stock-qemu", key, make, progress=progress, note=note)
    return QemuBinary(entry / PROGRAM, entry / "firmware")


def dependencies(package: Package, archives: Sequence[Archive]) -> tuple[Package, ...]:
    """The packages that a program needs to run, each once: libraries, modules, firmware.

    :param archives: preferred ones first.
    :raises NotSupported: none of them has a package that fits.
    """
    found: dict[str, Package] = {}
    waiting = [package]
    while waiting:
        one = waiting.pop()
        for dependency in one.depends:
            names = [match["name"] for match in _alternatives(dependency)]
            if not any(NEEDED.fullmatch(name) for name in names) or any(name in found for name in names):
                continue
            fitting = _choose(dependency, archives)
            if fitting is None:
                suites = ", ".join(archive.suite for archive in archives)
                raise NotSupported(
                    f"unpack {package.name} {package.version}", f"{one.name} needs {dependency}; not in {suites}"
                )
            found[fitting.name] = fitting
            waiting.append(fitting)
    return tuple(found[name] for name in sorted(found))


def _choose(dependency: str, archives: Sequence[Archive]) -> Package | None:
    """The first package that satisfies a dependency."""
    for match in _alternatives(dependency):
        for archive in archives:
            package = archive.find_package(match["name"])
            if package is None:
                continue
            relation = match["relation"]
            if not relation or RELATIONS[relation](compare_versions(package.version, match["version"]), 0):
                return package
    return None


def _alternatives(dependency: str) -> Iterator[re.Match[str]]:
    """The packages of ``a (>= 1) | b``, each with its condition."""
    for part in dependency.split("|"):
        if match := DEPENDENCY.match(part.strip()):
            yield match


def _gather_firmware(folder: Path) -> None:
    """Copy the firmware into one folder, for QEMU's option -L: its own folders are those of an installed package."""
    (folder / "firmware").mkdir()
    for name in FIRMWARE:
        for path in sorted((folder / name).glob("*")):
            if path.is_file() and not (folder / "firmware" / path.name).exists():
                shutil.copyfile(path, folder / "firmware" / path.name)
