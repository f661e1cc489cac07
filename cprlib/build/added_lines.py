"""Which patch of a series wrote which line of the source that the series results in.

A line belongs to the last patch that added it: a line that a later patch changes is that patch's. Lines of the base
belong to none.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cprlib.build.series import Series, diff_of
from cprlib.errors import PatchFailed

HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+\d+(?:,(\d+))? @@")
FILE = re.compile(r"(?:---|\+\+\+) (?:[ab]/)?([^\t\n]+)")


@dataclass(slots=True)
class PatchedFile:
    """A file as patches leave it.

    :param lines: without line ends.
    :param patches: for each line the name of the patch that added it; None for a line of the base.
    """

    lines: list[str]
    patches: list[str | None]

    @property
    def added(self) -> dict[int, str]:
        """Number of each added line, from 1, and the patch that added it."""
        return {number: patch for number, patch in enumerate(self.patches, 1) if patch is not None}


@dataclass(frozen=True, slots=True)
class _Hunk:
    """A change of one file.

    :param start: index of its first line before the patch.
    :param body: its lines, each after a blank (context), ``-`` or ``+``.
    """

    start: int
    body: list[str]

    @property
    def old(self) -> list[str]:
        """The lines before the change."""
        return [line[1:] for line in self.body if line[:1] != "+"]


def patched_files(series: Series, pristine: Path) -> dict[str, PatchedFile]:
    """The files that a series touches, with the patch that wrote each line.

    :param pristine: a folder with the files of the base, at least those that the series touches; the folder
        ``pristine`` of :class:`cprlib.build.source_tree.SourceTree` is one.
    :returns: by name, relative to the source; without files that the series removes.
    :raises PatchFailed: a patch does not apply.
    """
    files: dict[str, PatchedFile] = {}
    for patch in series.patches:
        for old_name, new_name, hunks in _sections(diff_of(patch).decode(errors="surrogateescape").splitlines()):
            name = old_name if new_name == "/dev/null" else new_name
            if name not in files:
                files[name] = _read(pristine / name)
            for hunk, offset in _located(files[name], hunks, f"find the lines of {patch.name} in {name}"):
                _replace(files[name], hunk, offset, patch.name)
            if new_name == "/dev/null":
                del files[name]
    return files


def _read(path: Path) -> PatchedFile:
    lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines() if path.exists() else []
    return PatchedFile(lines, [None] * len(lines))


def _sections(lines: Sequence[str]) -> Iterator[tuple[str, str, list[_Hunk]]]:
    """For each file of a diff its old and new name, and its hunks."""
    names: list[str] = []
    hunks: list[_Hunk] = []
    position = 0
    while position < len(lines):
        line = lines[position]
        position += 1
        header, hunk = FILE.match(line), HUNK.match(line)
        if header:
            if line.startswith("---"):
                if hunks:
                    yield names[0], names[1], hunks
                names, hunks = [], []
            names.append(header[1].strip())
        elif hunk:
            body = list(_body(lines[position:], int(hunk[2] or 1), int(hunk[3] or 1)))
            position += len(body)
            hunks.append(_Hunk(max(0, int(hunk[1]) - 1), body))
    if hunks:
        yield names[0], names[1], hunks


def _body(lines: Sequence[str], old: int, new: int) -> Iterator[str]:
    """The lines of a hunk, whose header has the numbers of old and new lines."""
    for line in lines:
        if old <= 0 and new <= 0:
            return
        kind = line[:1]
        old -= kind in (" ", "-", "")
        new -= kind in (" ", "+", "")
        yield line


def _located(file: PatchedFile, hunks: Sequence[_Hunk], tried: str) -> Iterator[tuple[_Hunk, int]]:
    """Each hunk with the index of its first line, which may have moved, as patch(1) finds it.

    The caller replaces the lines before it takes the next one.
    """
    shift = 0
    for hunk in hunks:
        expected = hunk.start + shift
        span = range(max(expected, len(file.lines)) + 1)
        candidates = itertools.chain.from_iterable((expected + step, expected - step) for step in span)
        found = next((at for at in candidates if at >= 0 and file.lines[at : at + len(hunk.old)] == hunk.old), None)
        if found is None:
            raise PatchFailed(tried, f"no such lines near line {hunk.start + 1}", "fix the patch")
        yield hunk, found
        shift = found - hunk.start + len(hunk.body) - len(hunk.old) - sum(line[:1] == "-" for line in hunk.body)


def _replace(file: PatchedFile, hunk: _Hunk, at: int, patch: str) -> None:
    position, lines, patches = at, list[str](), list[str | None]()
    for line in hunk.body:
        if line[:1] != "-":
            lines.append(line[1:])
            patches.append(patch if line[:1] == "+" else file.patches[position])
        position += line[:1] != "+"
    file.lines[at:position] = lines
    file.patches[at:position] = patches
