"""Why no test runs a line: the list of reasons, fixtures/coverage.toml.

Each entry names a file, consecutive lines of it as the series leaves them, and a reason. It applies to those of the
lines that the series adds and no test runs; the others say where the place is. Indentation does not matter, so that an
entry serves all bases. An entry may fit several places.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cprlib import codec
from cprlib.codec import Name
from cprlib.errors import EnvironmentFailure, UsageError
from cprlib.files import project_folder

REASONS_FILE = "coverage.toml"


@dataclass(frozen=True, slots=True)
class Reason:
    """An entry.

    :param file: relative to QEMU's source.
    :param lines: consecutive lines, one text; some of them are of the series.
    :param reason: a sentence.
    :param bases: for which it holds; empty for all.
    """

    file: Name
    lines: Name
    reason: Name
    bases: tuple[str, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """Its lines without indentation."""
        return tuple(line.strip() for line in self.lines.strip().splitlines())


@dataclass(frozen=True, slots=True)
class _ReasonsFile:
    reason: tuple[Reason, ...] = ()


def load_reasons(base: str, path: Path | None = None) -> tuple[Reason, ...]:
    """The entries for a base.

    :param path: the project's own list when None.
    :raises UsageError: the file is malformed.
    """
    file = path or project_folder() / "fixtures" / REASONS_FILE
    try:
        value = tomllib.loads(file.read_text(encoding="utf-8"))
        entries = codec.decode(_ReasonsFile, value).reason
    except OSError as error:
        raise EnvironmentFailure(f"read {file}", error.strerror or str(error)) from error
    except (tomllib.TOMLDecodeError, codec.BadValue) as error:
        raise UsageError(f"read {file}", str(error)) from error
    return tuple(entry for entry in entries if not entry.bases or base in entry.bases)


def places_of(reason: Reason, sources: Mapping[str, Sequence[str]]) -> list[tuple[str, int]]:
    """File and number of every line that an entry fits.

    :param sources: lines of each file, with the series applied.
    """
    texts = [line.strip() for line in sources.get(reason.file, ())]
    count = len(reason.texts)
    starts = [start for start in range(len(texts) - count + 1) if tuple(texts[start : start + count]) == reason.texts]
    return [(reason.file, start + offset + 1) for start in starts for offset in range(count)]


def explain(reasons: Sequence[Reason], sources: Mapping[str, Sequence[str]]) -> Mapping[tuple[str, int], Reason]:
    """The entry of each line that has one."""
    return {place: reason for reason in reversed(reasons) for place in places_of(reason, sources)}
