"""Files and folders that are written as a whole, locks, and the project's own folders.

Only the standard library: :mod:`cprlib.bootstrap` needs this before the environment exists.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import itertools
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cprlib.errors import EnvironmentFailure

CACHE_VARIABLE = "CPRLIB_CACHE"
CACHE_ADVICE = f"set {CACHE_VARIABLE} to a path without spaces, colons and quotes"
LOCK_PERIOD_S = 0.1  # between attempts to get a lock, while the wait can be ended
INSTALLED_PROJECT = "_project"  # in the package; made for a wheel (pyproject.toml), absent in a checkout


def cache_folder() -> Path:
    """The project's folder below the user's cache folder ($XDG_CACHE_HOME, else ~/.cache); safe to delete."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base).absolute() / "cprlib"


def require_plain_cache() -> None:
    """Check the path of the cache folder, which becomes part of command lines, search paths and first lines of scripts.

    :raises EnvironmentFailure: they cannot hold it.
    """
    if not is_plain(cache_folder()):
        raise EnvironmentFailure(
            f"use the cache folder '{cache_folder()}'", "builds cannot hold its path", CACHE_ADVICE
        )


def is_plain(path: Path) -> bool:
    """Whether a path has no character that ends a word on a command line, or a folder of a search path."""
    return not any(character.isspace() or character in ":\"'" for character in str(path))


def _make_parent(path: Path) -> None:
    """Create the folder of a file; in the cache other users may read it, whatever the caller's umask is."""
    folders = [folder for folder in path.parents if folder.is_relative_to(cache_folder()) and not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    for folder in folders:
        with contextlib.suppress(PermissionError):  # another user has created it meanwhile
            folder.chmod(0o755)


def import_folder() -> Path:
    """The folder that contains the package :mod:`cprlib`: a checkout or site-packages."""
    return Path(__file__).resolve().parent.parent


def project_folder() -> Path:
    """The folder that holds images/, fixtures/, tests/ and docs/.

    A checkout, or the folder in an installed package that the wheel carries them in (pyproject.toml, force-include).
    """
    installed = Path(__file__).resolve().parent / INSTALLED_PROJECT
    return installed if installed.is_dir() else import_folder()


def write_text(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file as a whole: into a temporary file, flushed to disk, then renamed.

    :raises EnvironmentFailure: the folder cannot be written or the disk is full.
    """
    try:
        _make_parent(path)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(name, mode)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise EnvironmentFailure(f"write {path}", str(error), "free some space or choose another folder") from error


def write_json(path: Path, value: Any, mode: int = 0o644) -> None:
    """Write ``value`` as indented JSON; see :func:`write_text`."""
    write_text(path, json.dumps(value, indent=2) + "\n", mode)


@contextlib.contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """Fill a temporary folder that is renamed to ``final`` when the body has succeeded.

    Yields the temporary folder, on the same file system. When another process has created ``final`` meanwhile, that one
    stays: entries are named by content, so both are the same.

    :raises EnvironmentFailure: the folder cannot be created or the disk is full.
    """
    try:
        _make_parent(final)
        temporary = Path(tempfile.mkdtemp(dir=final.parent, prefix=f".{final.name}."))
    except OSError as error:
        raise EnvironmentFailure(f"make {final}", str(error), "free some space or choose another folder") from error
    try:
        yield temporary
        os.chmod(temporary, 0o755)  # noqa: S103 - mkdtemp makes it 0700; other users may read a cache
        try:
            os.rename(temporary, final)
        except OSError:
            if not final.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def numbered_folder(base: Path, name: str) -> Path:
    """Create a new private folder (0700): ``name``, or ``name-2`` and so on when it exists.

    :param base: created when missing.
    :raises OSError: it cannot be created.
    """
    base.mkdir(parents=True, exist_ok=True)
    for attempt in itertools.count(1):
        folder = base / (name if attempt == 1 else f"{name}-{attempt}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
            return folder
    raise AssertionError("count() does not end")


def utc_name() -> str:
    """Current UTC time as a folder's name: ``2026-01-31T08-00-00Z``."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H-%M-%SZ")


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold an exclusive flock(2) on ``path`` (created when missing); the kernel drops it when the holder dies.

    :param wait: for another holder to drop it.
    :param waiting: called every 0.1 s while another holder has it; an exception of it ends the wait. Without it only
        a signal does, and in a thread nothing.
    :raises BlockingIOError: another process has it, and ``wait`` is False.
    :raises EnvironmentFailure: the file may not be written.
    :raises OSError: the file cannot be opened for another reason.
    """
    try:
        _make_parent(path)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EROFS):
            raise
        advice = f"use a folder that you may write; {CACHE_VARIABLE} names that of builds"
        raise EnvironmentFailure(f"lock {path}", str(error), advice) from error
    try:
        while waiting is not None and not _has_locked(descriptor):
            waiting()
            time.sleep(LOCK_PERIOD_S)
        if waiting is None:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _has_locked(descriptor: int) -> bool:
    """Take a lock that is free; False when another holder has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
