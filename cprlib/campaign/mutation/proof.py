"""The folder of a proof: what was asked for, the cells, and a lock; made anew or continued.

Layout::

    proof.json            what was asked for (:class:`Wanted`)
    cells/good/run-1/<test>/      cells (:mod:`cprlib.campaign.mutation.cell`)
    cells/variants/<name>/<test>/
    builds.log            what building said
    .aside/               cells that are not whole; whatever is left there is thrown away
    matrix.json matrix.html matrix.md
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cprlib.campaign.work_folder import begin_work, latest_work, read_wish

PROOF_FILE = "proof.json"
CELLS = "cells"
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
    return begin_work(base, PROOF_FILE, wanted)


def latest_proof(base: Path) -> Path:
    """The folder of the proof that was begun last.

    :raises UsageError: there is none.
    """
    return latest_work(base, PROOF_FILE, "a proof")


def read_wanted(folder: Path) -> Wanted:
    """What a proof is to show.

    :raises UsageError: its file is broken or of another version of this program.
    """
    return read_wish(Wanted, folder, PROOF_FILE, PROOF_VERSION, "start a proof without --resume")
