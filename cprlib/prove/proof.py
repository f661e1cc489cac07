"""The folder of a proof: what was asked for, the cells, and a lock; made anew or continued.

Layout::

    proof.json            what was asked for (:class:`Wanted`)
    cells/good/run-1/<test>/      cells (:mod:`cprlib.prove.cell`)
    cells/variants/<name>/<test>/
    builds.log            what building said
    .aside/               cells that are not whole; whatever is left there is thrown away
    matrix.json matrix.html matrix.md
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cprlib import files
from cprlib.errors import EnvironmentFailure, UsageError
from cprlib.verdict.codec import BadValue, decode, encode

PROOF_FILE = "proof.json"
CELLS = "cells"
ASIDE = ".aside"
LOCK = ".lock"
PROOF_VERSION = 1


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a proof is to show.

    :param variants: names; empty for all that are made for the base.
    :param variants_folder: where they are; empty for the project's own.
    :param whole: every test on every build; else on a variant those that must catch it.
    :param repeat: runs of the good build.
    :param engine: of the lab; None to run natively.
    :param command: the command line that asked for it first.
    """

    base: str
    variants: tuple[str, ...] = ()
    variants_folder: str = ""
    whole: bool = True
    repeat: int = 1
    engine: str | None = None
    command: str = ""
    started_ns: int = 0
    version: int = PROOF_VERSION

    @property
    def folder(self) -> Path | None:
        """Where the variants are; None for the project's own."""
        return Path(self.variants_folder) if self.variants_folder else None


def new_proof(base: Path, wanted: Wanted) -> Path:
    """Make the folder of a proof, named by the UTC time.

    :raises EnvironmentFailure: it cannot be made.
    """
    try:
        folder = files.numbered_folder(base, files.utc_name())
    except OSError as error:
        raise EnvironmentFailure(f"make a folder in {base}", str(error), "choose another with --out") from error
    files.write_text(folder / PROOF_FILE, json.dumps(encode(wanted), indent=2) + "\n", mode=0o600)
    return folder


def latest_proof(base: Path) -> Path:
    """The folder of the proof that was begun last.

    :raises UsageError: there is none.
    """
    found = [path.parent for path in base.glob(f"*/{PROOF_FILE}") if not path.parent.is_symlink()]
    if not found:
        raise UsageError("resume a proof", f"there is none in {base}", "start one without --resume, or give its --out")
    return max(found, key=_age)


def _age(folder: Path) -> tuple[int, str]:
    with contextlib.suppress(UsageError):
        return read_wanted(folder).started_ns, folder.name
    return 0, folder.name


def read_wanted(folder: Path) -> Wanted:
    """What a proof is to show.

    :raises UsageError: its file is broken or of another version of this program.
    """
    path = folder / PROOF_FILE
    tried, advice = f"read {path}", "start a proof without --resume"
    try:
        wanted = decode(Wanted, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, BadValue) as error:
        raise UsageError(tried, str(error), advice) from error
    if wanted.version != PROOF_VERSION:
        raise UsageError(tried, f"version {wanted.version}, this program reads {PROOF_VERSION}", advice)
    return wanted


@contextlib.contextmanager
def at_work(folder: Path) -> Iterator[Path]:
    """Nobody else works on this proof while the body runs; what a killed one left half done is thrown away.

    Yields the folder for cells that are not whole yet.

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
            raise UsageError(f"work on {folder}", "another cprlib prove does", "wait for its end") from None
        aside = folder / ASIDE
        shutil.rmtree(aside, ignore_errors=True)
        yield aside
        shutil.rmtree(aside, ignore_errors=True)
    finally:
        os.close(descriptor)
