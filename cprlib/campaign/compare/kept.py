"""What a comparison keeps after each round, so that one that was interrupted goes on where it was.

The looks that it has had are kept as well: going on is no way to get more of the allowance for false alarms.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from cprlib import files
from cprlib.campaign.compare.findings import MIN_EFFECT
from cprlib.codec import BadValue, decode, encode
from cprlib.errors import UsageError

KEPT_FILE = "session.json"
KEPT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for on the command line; paths are absolute.

    :param budget: minutes; :param min_effect: a part of A.
    :param engine: of the lab; None to run natively.
    """

    b: str
    a: str | None = None
    a_firmware: str | None = None
    b_firmware: str | None = None
    base: str = ""
    budget: float = 10.0
    min_effect: float = MIN_EFFECT
    noise: bool = False
    crossing: bool = True
    whole: bool = False
    policy: str = "default"
    engine: str | None = None
    seed: int = 0
    tests: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    command: str = ""
    started_ns: int = 0


@dataclass(frozen=True, slots=True)
class KeptRound:
    """A round without its chains, which are in its cells."""

    number: int
    order: tuple[tuple[str, ...], ...]
    seconds: float
    started_ns: int


@dataclass(frozen=True, slots=True)
class Kept:
    """Where a comparison is.

    :param qemus: sha256 of A and B.
    :param looks: rounds after which there was a look; :param used: share of the allowance that they had.
    :param elapsed_s: of the budget.
    :param ended: nothing is left to do.
    """

    asked: Asked
    qemus: tuple[str, ...] = ()
    rounds: tuple[KeptRound, ...] = ()
    looks: tuple[int, ...] = ()
    used: float = 0.0
    elapsed_s: float = 0.0
    ended: bool = False
    version: int = KEPT_VERSION

    def write(self, folder: Path) -> None:
        """Write ``session.json``.

        :raises EnvironmentFailure: the folder cannot be written.
        """
        files.write_text(folder / KEPT_FILE, json.dumps(encode(self), indent=1) + "\n", mode=0o600)


def read_kept(folder: Path) -> Kept:
    """Where the comparison of that folder is.

    :raises UsageError: its file is missing, broken, or of another version of this program.
    """
    path = folder / KEPT_FILE
    tried, advice = f"read {path}", "start a comparison without --resume"
    try:
        kept = decode(Kept, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, BadValue) as error:
        raise UsageError(tried, str(error), advice) from error
    if kept.version != KEPT_VERSION:
        raise UsageError(tried, f"version {kept.version}, this program reads {KEPT_VERSION}", advice)
    return kept


def latest_kept(top: Path) -> tuple[Path, Kept]:
    """The comparison of a folder of such that was begun last.

    :raises UsageError: there is none, or it has ended.
    """
    found = [path.parent for path in top.glob(f"*/{KEPT_FILE}") if not path.parent.is_symlink()]
    if not found:
        raise UsageError("resume a comparison", f"there is none in {top}", "start one with --b, or give its --out")
    folder, kept = max(((path, read_kept(path)) for path in found), key=lambda item: item[1].asked.started_ns)
    if kept.ended:
        raise UsageError(
            f"resume {folder}", "it has ended: its budget is used up, or everything was decided", "start another one"
        )
    return folder, kept
