"""The folder of long work (a proof, a soak): begun, found again, and worked on by one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, TypeVar

from cprlib import files
from cprlib.codec import BadValue, decode, encode
from cprlib.errors import EnvironmentFailure, UsageError

ASIDE = ".aside"
LOCK = ".lock"


class Wish(Protocol):
    """What was asked for when work was begun; a dataclass.

    :param started_ns: when that was.
    :param version: of its layout.
    """

    @property
    def started_ns(self) -> int: ...

    @property
    def version(self) -> int: ...


WishKind = TypeVar("WishKind", bound=Wish)


def begin_work(base: Path, name: str, wish: Wish) -> Path:
    """Make the folder of new work, named by the UTC time.

    :param base: folder of all works of the kind.
    :param name: of the file that says what was asked for.
    :raises EnvironmentFailure: it cannot be made.
    """
    try:
        folder = files.numbered_folder(base, files.utc_name())
    except OSError as error:
        raise EnvironmentFailure(f"make a folder in {base}", str(error), "choose another with --out") from error
    files.write_text(folder / name, json.dumps(encode(wish), indent=2) + "\n", mode=0o600)
    return folder


def read_wish(kind: type[WishKind], folder: Path, name: str, version: int, advice: str) -> WishKind:
    """What was asked for.

    :raises UsageError: its file is broken or of another version of this program.
    """
    path = folder / name
    try:
        wish = decode(kind, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, BadValue) as error:
        raise UsageError(f"read {path}", str(error), advice) from error
    if wish.version != version:
        raise UsageError(f"read {path}", f"version {wish.version}, this program reads {version}", advice)
    return wish


def latest_work(base: Path, name: str, what: str) -> Path:
    """The folder of the work that was begun last.

    :param what: the work is: ``a proof``.
    :raises UsageError: there is none.
    """
    found = [path.parent for path in base.glob(f"*/{name}") if not path.parent.is_symlink()]
    if not found:
        raise UsageError(f"resume {what}", f"there is none in {base}", "start one without --resume, or give its --out")
    return max(found, key=lambda folder: _age(folder / name))


def _age(path: Path) -> tuple[int, str]:
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        return int(json.loads(path.read_text(encoding="utf-8"))["started_ns"]), path.parent.name
    return 0, path.parent.name


@contextlib.contextmanager
def at_work(folder: Path, command: str) -> Iterator[Path]:
    """Nobody else works on this folder while the body runs; what a killed one left half done is thrown away.

    Yields the folder for what is not whole yet.

    :param command: whose work it is, for the message.
    :raises UsageError: somebody else does.
    :raises EnvironmentFailure: the folder cannot be written.
    """
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise EnvironmentFailure(f"work on {folder}", str(error), "choose another folder with --out") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"work on {folder}", f"another {command} does", "wait for its end") from None
        aside = folder / ASIDE
        shutil.rmtree(aside, ignore_errors=True)
        yield aside
        shutil.rmtree(aside, ignore_errors=True)
    finally:
        os.close(descriptor)
