"""Files of the host that a virtual machine needs to run a command of this project, and disks made from them.

A virtual machine does not see files of the host (the cloud kernel has no 9p). Its disks contain the programs of a
small shell, this Python with its packages, the checkout, build results, and the shared libraries of all these. Each
set is an ext4 image, made without root and stored under a hash of its content.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
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
EXCLUDED = {"test", "tests", "idlelib", "turtledemo", "tkinter", "ensurepip", "mypy", "ruff", "pip", ".git", "results"}
EXCLUDED |= {".mypy_cache", ".ruff_cache", ".pytest_cache", ".tox", "node_modules"}
MEMUSAGE = "libmemusage.so"  # memusage(1) preloads it, as a test does; Debian: in libc6, Fedora: in glibc-utils
LIBRARY_FOLDERS = ("/usr/lib64", f"/usr/lib/{sysconfig.get_config_var('MULTIARCH')}")
KERNEL_FOLDERS = ("dev", "proc", "sys")  # a virtual machine has its own
ELF = b"\x7fELF"
SLACK_MIB = 16
UNUSED_SECONDS = 24 * 3600  # a disk has 500 MB, and each change of a package makes another


def python_files() -> list[Path]:
    """Program and standard library of this Python, and its packages."""
    standard = [path for path in Path(os.__file__).parent.iterdir() if path.name not in EXCLUDED | {"site-packages"}]
    return [
        *_links(Path(sys.executable)),
        *sorted(standard),
        Path(sysconfig.get_path("purelib")),
        Path(sys.prefix, "pyvenv.cfg"),
    ]


def _links(path: Path) -> Iterator[Path]:
    """A path and all targets of its symbolic links."""
    while True:
        yield path
        if not path.is_symlink():
            return
        path = path.parent / os.readlink(path)


def system_files() -> list[Path]:
    """A small shell, a few files of /etc, and libraries that no program names."""
    found = [
        Path(program) for name in PROGRAMS if (program := shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin"))
    ]
    files = [Path(f"/etc/{name}") for name in ("passwd", "group", "nsswitch.conf", "hosts", "ld.so.cache", "protocols")]
    top = [Path(f"/{name}") for name in ("bin", "sbin", "lib", "lib64") if Path(f"/{name}").is_symlink()]
    preloaded = [Path(folder, MEMUSAGE) for folder in LIBRARY_FOLDERS]
    return [*top, *(link for path in [*found, *files, *preloaded] if path.exists() for link in _links(path))]


def project_files() -> list[Path]:
    """The part of the checkout, or of the installed package, that tests use."""
    paths = [import_folder() / "cprlib", *(project_folder() / name for name in ("fixtures", "images", "tests"))]
    return [path for path in [*paths, project_folder() / "pyproject.toml"] if path.exists()]


def named_files(argv: Sequence[str]) -> list[Path]:
    """Files that are arguments of a command and on no other disk: a QEMU, its firmware, a test."""
    words = {word for argument in argv for word in re.findall(r"/[^\s\"':,=]+", argument)}
    programs = set(system_files())
    folders = [project_folder(), *(Path("/", name) for name in KERNEL_FOLDERS), *python_files()]
    paths = [_without_links(Path(word)) for word in sorted(words)]
    named = [path for path in paths if path not in programs and not any(path.is_relative_to(one) for one in folders)]
    found = [path for path in named if path.is_file() or (path.is_dir() and any(path.glob("bios*.bin")))]
    return list(dict.fromkeys(link for path in walk(found) for link in _links(path)))


def walk(roots: Iterable[Path]) -> Iterator[Path]:
    """Files and symbolic links below the given paths that tests need."""
    for root in roots:
        if root.is_symlink() or root.is_file():
            yield root
            continue
        for folder, folders, files in os.walk(root):
            folders[:] = [name for name in sorted(folders) if name not in EXCLUDED and not name.startswith("config-3")]
            links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
            for name in [*sorted(files), *links]:
                path = Path(folder, name)
                if path.suffix not in (".a", ".o") and (path.is_symlink() or path.is_file()):
                    yield path


def libraries(files: Iterable[Path]) -> set[Path]:
    """The shared libraries of files, and symbolic links to them."""
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
    """An ext4 image with these paths and their shared libraries, under the same paths.

    :param kind: distinguishes entries of the store.
    :raises EnvironmentFailure: no space.
    :raises ProcessFailed: mke2fs failed.
    """
    files = list(dict.fromkeys(walk(roots)))
    listing = "\n".join(
        f"{path} {(state := path.lstat()).st_size} {state.st_mtime_ns} {state.st_mode}"
        for path in files
        if path.suffix != ".pyc"  # included, but rewritten often
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
            run(command, purpose="create a disk", seconds=300, advice="install the package e2fsprogs")

    linker = str(Path("/etc/ld.so.cache").stat().st_mtime_ns)  # changes with the libraries that can be found
    key = store.key_of(kind=kind, listing=listing, linker=linker)
    if store.lookup("lab-disk", key) is None:
        store.remove_older("lab-disk", UNUSED_SECONDS)
    entry = store.entry("lab-disk", key, make)
    with contextlib.suppress(OSError):  # another user's cache
        os.utime(entry)
    return entry / "disk.ext4"


def _copy(path: Path, tree: Path) -> int:
    """Put a path into the tree, by a hard link where possible; returns the size in bytes."""
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
    """The path without symbolic links in its folders (/lib -> usr/lib is a link in the tree too)."""
    return path.parent.resolve() / path.name
