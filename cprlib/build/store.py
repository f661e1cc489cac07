"""A store of build results, each in a folder named by a hash of its inputs.

An entry is made in a temporary folder that is renamed when complete. A list of its files is checked on every use: an
entry with a missing, truncated or changed file is removed and made again. A file lock allows one maker per entry; the
kernel drops it when the holder dies. The store is safe to delete at any time.

Layout below :func:`cprlib.files.cache_folder`::

    store/<kind>/<key>/...            the entry
    store/<kind>/<key>/.files.json    its files: name -> [bytes, mtime in ns, sha256 of content or of a link's target]
    store/<kind>/.<key>.XXXXXXXX/     one being made; stale when no process holds the lock
    store/.locks/<kind>-<key>
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from cprlib.build.progress import Progress
from cprlib.errors import CprlibError, EnvironmentFailure, UsageError
from cprlib.files import CACHE_VARIABLE, cache_folder, locked, new_folder, require_plain_cache

KERNEL_VARIABLE = "CPRLIB_LAB_KERNEL"  # names a user-mode Linux to use instead of the store's
LISTING = ".files.json"
KEY_LENGTH = 40  # hexadecimal digits of the sha256 kept in a folder's name
ADVICE_SPACE = "free some space there, or set CPRLIB_CACHE to a folder on another file system"
NO_SPACE_ERRORS = (errno.ENOSPC, errno.EDQUOT)

Make = Callable[[Path], object]


def key_of(**inputs: str | bytes | int | Path | None) -> str:
    """A key from named inputs: texts, bytes, numbers, files and folders (names and content, not times).

    :raises EnvironmentFailure: a file cannot be read.
    """
    total = hashlib.sha256()
    for name in sorted(inputs):
        total.update(f"{name}\0".encode())
        total.update(_digest(inputs[name]))
    return total.hexdigest()[:KEY_LENGTH]


def entry(kind: str, key: str, make: Make, *, progress: Progress | None = None, note: str = "") -> Path:
    """The folder of an entry; ``make(folder)`` fills it when the entry does not exist.

    :param kind: folder of the store: ``"qemu"``, ``"deb"``.
    :param key: from :func:`key_of`.
    :param make: fills an empty folder; its exceptions pass through, and the folder is removed.
    :param progress: ends a wait for another process that makes the same entry.
    :param note: printed there when such a wait begins; without one nothing is printed.
    :raises EnvironmentFailure: no space, the cache folder cannot be written, or its path is not plain.
    """
    require_plain_cache()
    final = entry_path(kind, key)
    if is_complete(final):
        return final
    with disk_full_as_error(f"make {final}"):
        with locked(_lock_path(kind, key), waiting=_waiting(progress or Progress(), note)):
            if is_complete(final):
                return final
            remove_stale(kind, held=key)
            _remove(final)
            with new_folder(final) as temporary:
                make(temporary)
                _readable(temporary)
                write_listing(temporary)
            if not is_complete(final):
                happened = "it is incomplete, and you may not remove its files"
                raise EnvironmentFailure(f"replace {final}", happened, f"remove it, or set {CACHE_VARIABLE}")
        return final


def chosen_lab_kernel() -> Path | None:
    """The lab kernel that ``$CPRLIB_LAB_KERNEL`` names, if any.

    :raises UsageError: there is no such file.
    """
    chosen = os.environ.get(KERNEL_VARIABLE)
    if not chosen:
        return None
    if not Path(chosen).is_file():
        raise UsageError(f"use {chosen} as lab kernel", "no such file", f"correct or unset ${KERNEL_VARIABLE}")
    return Path(chosen).resolve()


def lookup(kind: str, key: str) -> Path | None:
    """The folder of an entry when it exists and is complete, else None."""
    final = entry_path(kind, key)
    return final if is_complete(final) else None


def entry_path(kind: str, key: str) -> Path:
    """The folder of an entry, which need not exist."""
    return store_folder() / kind / key


def store_folder() -> Path:
    """The folder of all entries."""
    return cache_folder() / "store"


def is_complete(folder: Path) -> bool:
    """True when a folder has its list of files and every file in it is unchanged.

    Sizes and times are compared; a file whose time differs (a copied cache) is read and hashed. Of a symbolic link its
    target counts: many tools copy a link with another time.
    """
    try:
        listing = json.loads((folder / LISTING).read_bytes())
        for name, (size, mtime_ns, digest) in listing.items():
            path = folder / name
            status = path.lstat()
            if status.st_size != size:
                return False
            if stat.S_ISLNK(status.st_mode):
                if digest not in (_link_digest(path), ""):  # lists of earlier versions have none
                    return False
            elif status.st_mtime_ns != mtime_ns and _file_digest(path).hex() != digest:
                return False
    except (OSError, ValueError, AttributeError, TypeError):
        return False
    return True


def write_listing(folder: Path) -> None:
    """Write the list of files that :func:`is_complete` checks."""
    listing = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            digest = _link_digest(path)
        elif stat.S_ISREG(status.st_mode):
            digest = _file_digest(path).hex()
        else:
            continue
        listing[str(path.relative_to(folder))] = (status.st_size, status.st_mtime_ns, digest)
    (folder / LISTING).write_text(json.dumps(listing), encoding="utf-8")


def discard(kind: str, key: str) -> None:
    """Remove an entry, complete or not; a process that uses it keeps the files that it has opened."""
    with locked(_lock_path(kind, key)):
        _remove(entry_path(kind, key))


def remove_older(kind: str, seconds: float) -> None:
    """Remove entries whose folders have an older time; a user of an entry may renew that."""
    for folder in (store_folder() / kind).glob("[0-9a-f]*"):
        with contextlib.suppress(OSError):  # another process removes it too
            if folder.stat().st_mtime < time.time() - seconds:
                shutil.rmtree(folder, ignore_errors=True)


def remove_stale(kind: str, held: str) -> None:
    """Remove temporary folders that killed makers left: those of entries whose lock no other process holds.

    :param held: key of the entry whose lock the caller holds. It must not have begun to make that entry.
    """
    for temporary in (store_folder() / kind).glob(".*.*"):
        key = temporary.name[1:].rpartition(".")[0]
        if key == held:  # a second lock on the same file would be refused
            _remove(temporary)
            continue
        # Not one that is being made, or whose lock belongs to another user.
        with contextlib.suppress(BlockingIOError, EnvironmentFailure), locked(_lock_path(kind, key), wait=False):
            _remove(temporary)


@contextlib.contextmanager
def disk_full_as_error(tried: str) -> Iterator[None]:
    """Turn every form of "No space left on device" in the body into :class:`EnvironmentFailure`."""
    try:
        yield
    except OSError as error:
        if error.errno not in (*NO_SPACE_ERRORS, errno.EROFS, errno.EACCES):
            raise
        raise EnvironmentFailure(tried, str(error), ADVICE_SPACE) from error
    except CprlibError as error:
        happened = no_space_message(error)
        if happened and error.advice != ADVICE_SPACE:
            text = f"{error.happened}\n{error.details}"
            raise EnvironmentFailure(tried, happened, ADVICE_SPACE, details=text) from error
        raise


def no_space_message(error: CprlibError) -> str:
    """The message of a full disk in the output of a tool that failed; empty for another failure."""
    text = f"{error.happened}\n{error.details}"
    return next((message for number in NO_SPACE_ERRORS if (message := os.strerror(number)) in text), "")


def _waiting(progress: Progress, note: str) -> Callable[[], None]:
    """A function for a wait: prints the note at its first call, and ends the work that is to stop."""
    notes = [note] if note else []

    def wait() -> None:
        progress.raise_if_stopped()
        if notes:
            progress.note(notes.pop())

    return wait


def _lock_path(kind: str, key: str) -> Path:
    return store_folder() / ".locks" / f"{kind}-{key}"


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    elif path.exists() or path.is_symlink():
        path.unlink()


def _readable(folder: Path) -> None:
    """Let other users read an entry and run its programs, because a cache may be shared."""
    for path in folder.rglob("*"):
        if not path.is_symlink():
            mode = path.stat().st_mode & 0o777
            path.chmod(mode | 0o444 | (0o111 if mode & 0o100 else 0))


def _digest(value: str | bytes | int | Path | None) -> bytes:
    if isinstance(value, Path):
        if value.is_dir():
            total = hashlib.sha256(b"folder\0")
            for path in sorted(value.rglob("*")):
                if path.is_file():
                    total.update(f"{path.relative_to(value)}\0".encode() + _file_digest(path))
            return total.digest()
        return _file_digest(value)
    data = value if isinstance(value, bytes) else f"{type(value).__name__}\0{value}".encode()
    return hashlib.sha256(data).digest()


def _link_digest(path: Path) -> str:
    return hashlib.sha256(os.fsencode(os.readlink(path))).hexdigest()


def _file_digest(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").digest()
    except OSError as error:
        raise EnvironmentFailure(f"read {path}", error.strerror or str(error)) from error
