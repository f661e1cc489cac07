"""The folder of a session: its request, its results, a lock, and how a session is resumed.

Layout that prove, soak, compare and scoreboard share::

    session.json          the request; fixed when the session begins
    .partial/             jobs that run; thrown away when the session is resumed
    .lock                 held by the process that works on the session (flock: the kernel drops it with the process)

A result appears complete or not at all: its folder is renamed from ``.partial/``.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from cprlib import files
from cprlib.codec import BadValue, decode, dump_json
from cprlib.errors import EnvironmentFailure, UsageError

REQUEST_FILE = "session.json"
STORE_VERSION = 4
PARTIAL = ".partial"
LOCK = ".lock"


Request = TypeVar("Request")
Record = TypeVar("Record")


@dataclass(frozen=True, slots=True)
class Store(Generic[Request]):
    """The sessions of one command.

    :param command: ``prove``, ``soak``, ``compare`` or ``scoreboard``.
    :param request: type of its requests: frozen dataclasses with the members ``started_ns`` (CLOCK_REALTIME) and
        ``version`` (:data:`STORE_VERSION`).
    :param result: file of a session that has ended and is not resumed; empty where any session may be resumed.
    """

    command: str
    request: type[Request]
    result: str = ""

    def begin(self, base: Path, request: Request) -> Path:
        """Make the folder of a new session, named by the UTC time.

        :param base: folder of all sessions of this command.
        :raises EnvironmentFailure: it cannot be made.
        """
        try:
            folder = files.numbered_folder(base, files.utc_name())
        except OSError as error:
            raise EnvironmentFailure(f"make a folder in {base}", str(error), "choose another with --out") from error
        files.write_text(folder / REQUEST_FILE, dump_json(request, indent=1), mode=0o600)
        return folder

    def latest(self, base: Path) -> Path:
        """The unfinished session that began last; the last one where all have ended.

        :raises UsageError: there is none.
        """
        found = [path for path in base.glob(f"*/{REQUEST_FILE}") if not path.parent.is_symlink()]
        if not found:
            advice = "start one without --resume, or give its --out"
            raise UsageError(f"resume cprlib {self.command}", f"no session in {base}", advice)
        unfinished = [path for path in found if not (self.result and (path.parent / self.result).exists())]
        return max(unfinished or found, key=_age).parent

    def read(self, folder: Path) -> Request:
        """The request of a session.

        :raises UsageError: its file is broken or of another version of this program.
        """
        path, advice = folder / REQUEST_FILE, f"start cprlib {self.command} without --resume"
        try:
            return read_versioned(self.request, path, STORE_VERSION, "store version")
        except (OSError, ValueError) as error:
            raise UsageError(f"resume {path}", str(error), advice) from error

    @contextlib.contextmanager
    def locked(self, folder: Path) -> Iterator[Path]:
        """Keep other processes off this session while the body runs.

        Yields an empty folder for jobs that run; the rest of a killed session is thrown away first.

        :raises UsageError: another process works on the session.
        :raises EnvironmentFailure: the folder cannot be written.
        """
        partial = folder / PARTIAL
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(files.locked(folder / LOCK, wait=False))
            except BlockingIOError:
                happened = f"another cprlib {self.command} runs in it"
                raise UsageError(f"work on {folder}", happened, "wait for its end, or stop it") from None
            except (OSError, EnvironmentFailure) as error:
                happened = error.happened if isinstance(error, EnvironmentFailure) else str(error)
                raise EnvironmentFailure(f"work on {folder}", happened, "choose another folder with --out") from error
            shutil.rmtree(partial, ignore_errors=True)
            yield partial
            shutil.rmtree(partial, ignore_errors=True)


def read_versioned(kind: type[Record], path: Path, version: int, word: str = "version") -> Record:
    """The record in a JSON file.

    :param word: for people; its last word is the member with the version.
    :raises ValueError: it is broken, or of another version of this program.
    :raises OSError: there is none.
    """
    value = json.loads(path.read_text(encoding="utf-8"))
    found = value.get(word.rpartition(" ")[2]) if isinstance(value, dict) else None
    if found != version:
        raise BadValue(f"{word} {found or 'missing'}, this program reads {version}")
    return decode(kind, value)


def move_into_place(temporary: Path, final: Path) -> None:
    """Rename a complete folder to its place; an older one there is thrown away.

    :raises EnvironmentFailure: the folder cannot be written.
    """
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        if final.exists():
            shutil.rmtree(final)
        temporary.rename(final)
    except OSError as error:
        raise EnvironmentFailure(f"store {final}", str(error), "choose another folder with --out") from error


def _age(path: Path) -> tuple[int, str]:
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        return int(json.loads(path.read_text(encoding="utf-8"))["started_ns"]), path.parent.name
    return 0, path.parent.name
