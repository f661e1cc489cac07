"""Which of the host's files a virtual machine needs to run a command of this project, and the disk made of them.

A virtual machine does not see the host's files (the cloud kernel has no 9p), so they are carried along: the
programs of a small shell, this Python with its packages, the checkout, what was built, and the shared libraries
that all of these are linked with. Each set becomes an ext4 image, made without root and kept by content.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from cprlib.build import store
from cprlib.files import import_folder, project_folder
from cprlib.process import run

PROGRAMS = (
    *("sh", "bash", "env", "cat", "cp", "mv", "rm", "ls", "mkdir", "mount", "umount", "ln", "stat", "touch", "chmod"),
    *("tar", "true", "false", "echo", "test", "sleep", "date", "id", "seq", "head", "tail", "wc", "grep", "sed", "dd"),
    *("ps", "kill", "dmesg", "ip", "uname", "sort", "tr", "od", "find", "setpriv", "strace"),
)
LEFT_OUT = {"test", "tests", "idlelib", "turtledemo", "tkinter", "ensurepip", "mypy", "ruff", "pip", ".git", "results"}
LEFT_OUT |= {".mypy_cache", ".ruff_cache", ".pytest_cache", ".tox", "node_modules"}
SPECIAL = ((), *((name,) for name in ("dev", "proc", "sys", "usr", "bin", "sbin", "lib", "lib64")))
ELF = b"\x7fELF"
SLACK_MIB = 16
UNUSED_SECONDS = 24 * 3600


def python_files() -> list[Path]:
    """This Python: its program, standard library, and the environment with the project's packages."""
    standard = [path for path in Path(os.__file__).parent.iterdir() if path.name not in LEFT_OUT | {"site-packages"}]
    return [
        *_links(Path(sys.executable)),
        *sorted(standard),
        Path(sysconfig.get_path("purelib")),
        Path(sys.prefix, "pyvenv.cfg"),
    ]


def _links(path: Path) -> Iterator[Path]:
    """A path and all that it leads to through symbolic links."""
    while True:
        yield path
        if not path.is_symlink():
            return
        path = path.parent / os.readlink(path)


def system_files() -> list[Path]:
    """A small shell and the few files of /etc that programs ask for."""
    found = [
        Path(program) for name in PROGRAMS if (program := shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin"))
    ]
    files = [Path(f"/etc/{name}") for name in ("passwd", "group", "nsswitch.conf", "hosts", "ld.so.cache", "protocols")]
    top = [Path(f"/{name}") for name in ("bin", "sbin", "lib", "lib64") if Path(f"/{name}").is_symlink()]
    return [*top, *(link for path in [*found, *files] if path.exists() for link in _links(path))]


def project_files() -> list[Path]:
    """The checkout, or what is installed of it, as far as tests use it."""
    paths = [import_folder() / "cprlib", *(project_folder() / name for name in ("fixtures", "images", "tests"))]
    return [path for path in [*paths, project_folder() / "pyproject.toml"] if path.exists()]


def named_files(argv: Sequence[str]) -> list[Path]:
    """What a command's arguments name outside the checkout: a brought QEMU, its firmware, a test of the user's own."""
    words = {word for argument in argv for word in re.findall(r"/[^\s\"':,=]+", argument)}
    paths = [Path(word) for word in sorted(words)]
    outside = [path for path in paths if not path.is_relative_to(project_folder()) and path.parts[1:2] not in SPECIAL]
    return [path for path in outside if path.is_file() or (path.is_dir() and any(path.glob("bios*.bin")))]


def walk(roots: Iterable[Path]) -> Iterator[Path]:
    """Files and symbolic links below the given paths, without what no test needs."""
    for root in roots:
        if root.is_symlink() or root.is_file():
            yield root
            continue
        for folder, folders, files in os.walk(root):
            folders[:] = [name for name in sorted(folders) if name not in LEFT_OUT and not name.startswith("config-3")]
            links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
            for name in [*sorted(files), *links]:
                path = Path(folder, name)
                if path.suffix not in (".a", ".o") and (path.is_symlink() or path.is_file()):
                    yield path


def libraries(files: Iterable[Path]) -> set[Path]:
    """The shared libraries that these files are linked with, with the links that lead to them."""
    linked = [str(path) for path in files if not path.is_symlink() and _is_elf(path)]
    found: set[Path] = set()
    for start in range(0, len(linked), 200):
        done = subprocess.run(["ldd", *linked[start : start + 200]], capture_output=True, text=True, check=False)
        for path in re.findall(r"(?:=> |^\t)(/\S+) \(0x", done.stdout, re.MULTILINE):
            found.update(_links(Path(path)))
    return found


def _is_elf(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(4) == ELF
    except OSError:
        return False


def disk_of(kind: str, roots: Sequence[Path]) -> Path:
    """An ext4 image with these paths and all that they are linked with, at the host's places; kept by content.

    :param kind: a word for the entry in the store.
    :raises EnvironmentFailure: no space.
    :raises ProcessFailed: mke2fs refused.
    """
    files = list(dict.fromkeys(walk(roots)))
    listing = "\n".join(
        f"{path} {(state := path.lstat()).st_size} {state.st_mtime_ns} {state.st_mode}"
        for path in files
        if path.suffix != ".pyc"  # carried along, but written anew all the time
    )

    def make(folder: Path) -> None:
        files.extend(sorted(libraries(files) - set(files)))
        image = folder / "disk.ext4"
        with TemporaryDirectory(dir=folder, prefix="tree-") as tree:
            byte_count = sum(_copy(path, Path(tree)) for path in files)
            with image.open("wb") as stream:
                stream.truncate((byte_count * 5 // 4 + (SLACK_MIB << 20)) // 4096 * 4096)
            inodes = str(len(files) * 2 + 1024)
            options = ["-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-N", inodes, "-E", "root_owner=0:0"]
            program = shutil.which("mke2fs", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin") or "mke2fs"
            command = [program, *options, "-d", tree, str(image)]
            run(command, purpose="make a disk", seconds=300, advice="install the package e2fsprogs")

    linker = str(Path("/etc/ld.so.cache").stat().st_mtime_ns)  # changes with the libraries that can be found
    key = store.key_of(kind=kind, listing=listing, linker=linker)
    if store.lookup("lab-disk", key) is None:
        _remove_unused()
    entry = store.entry("lab-disk", key, make)
    os.utime(entry)
    return entry / "disk.ext4"


def _remove_unused() -> None:
    """Remove the disks that no lab has used for a day: each change of a package makes a new one of 500 MB."""
    for entry in store.entry_path("lab-disk", "any").parent.glob("[0-9a-f]*"):
        if entry.stat().st_mtime < time.time() - UNUSED_SECONDS:
            shutil.rmtree(entry, ignore_errors=True)


def _copy(path: Path, tree: Path) -> int:
    """Put one path into the tree, below the same folders, by a hard link where that is possible; bytes taken."""
    target = tree / _without_links(path).relative_to("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(target):
        return 0
    if path.is_symlink():
        os.symlink(os.readlink(path), target)
        return 4096
    try:
        os.link(path, target)
    except OSError:
        shutil.copy2(path, target)
    return (path.stat().st_size + 4095) // 4096 * 4096 + 512


def _without_links(path: Path) -> Path:
    """The same file by a path whose folders are no symbolic links (/lib -> usr/lib is one itself in the tree)."""
    return path.parent.resolve() / path.name
