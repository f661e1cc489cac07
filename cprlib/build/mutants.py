"""Mutants: QEMU builds with a known defect, which the suite must kill (docs/adding-a-mutant.md).

A mutant is one file ``images/qemu/mutants/<group>/<name>.patch``: its subject and body are its documentation, trailers
name the cases that kill it, and its diff is applied after the series. This module reads the files and builds a mutant.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cprlib.build.progress import Progress
from cprlib.build.series import DIFF_START, find_series, load_bases, releases
from cprlib.errors import UsageError
from cprlib.files import project_folder

if TYPE_CHECKING:
    from cprlib.qemu.binary import QemuBinary

NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
SUBJECT = re.compile(r"Subject: \[PATCH\] (\S.*)")
HEADER = re.compile(r"From: \S.*")
TRAILER = re.compile(r"([A-Z][a-z]+(?:-[a-z]+)*):(.*)")
TRAILERS = ("Killed-by", "Message", "Bases", "Leaves-out")


@dataclass(frozen=True, slots=True)
class Mutant:
    """A QEMU build with a known defect.

    :param name: name of its file, without ``.patch``: ``"packet-lost-at-stop"``.
    :param group: folder of the file: ``"traffic"``.
    :param subject: what it changes, in one line.
    :param body: what is wrong with this QEMU and what a user would see.
    :param killed_by: ids of the cases each of which must kill it; at least one.
    :param message: regular expression that must match a failing finding (``property: text``) of these cases.
    :param bases: QEMU releases on which it can be built; the first is the default.
    :param leaves_out: patches of the series that it lacks, by the beginning of their names.
    :param patches: its own file when that has a diff, else empty.
    """

    name: str
    group: str
    subject: str
    body: str
    killed_by: tuple[str, ...]
    message: str
    bases: tuple[str, ...]
    leaves_out: tuple[str, ...] = ()
    patches: tuple[Path, ...] = ()


def mutants_folder() -> Path:
    """Folder of the project's mutants."""
    return project_folder() / "images" / "qemu" / "mutants"


def load_mutants(folder: Path | None = None) -> tuple[Mutant, ...]:
    """All mutants in the order of their names.

    :param folder: holds ``*.patch`` files, also in folders of it; the project's when None.
    :raises UsageError: a file is malformed; says file and line.
    """
    files = _files(folder or mutants_folder())
    for one, next_one in itertools.pairwise(files):
        if one.stem == next_one.stem:
            raise UsageError(f"read {next_one}", f"{one} has the same name", "rename one of them")
    return tuple(read_mutant(file) for file in files)


def find_mutant(name: str, folder: Path | None = None) -> Mutant:
    """One mutant by its name.

    :raises UsageError: there is none of that name, or its file is malformed.
    """
    top = folder or mutants_folder()
    files = _files(top)
    for file in files:
        if file.stem == name:
            return read_mutant(file)
    known = ", ".join(file.stem for file in files) or "none"
    raise UsageError(f"find mutant {name!r}", f"no such file below {top}", f"there are: {known}")


def build_mutant(mutant: Mutant, base: str, progress: Progress) -> QemuBinary:
    """Build a mutant on a base, or return the build that the store has.

    :raises UsageError: the mutant cannot be built on this base.
    :raises BuildFailed: its diff does not apply, or a compiler failed.
    """
    if base not in mutant.bases:
        bases = ", ".join(mutant.bases)
        raise UsageError(f"build mutant {mutant.name} of QEMU {base}", f"it is made for: {bases}")
    from cprlib.build.qemu import build_qemu  # noqa: PLC0415 - slow import, and completion needs names only

    return build_qemu(base, True, progress, leave_out=mutant.leaves_out, extra=mutant.patches)


def read_mutant(file: Path) -> Mutant:
    """The mutant of a file.

    :raises UsageError: the file cannot be read or is malformed; says file and line.
    """
    if not NAME.fullmatch(file.stem):
        raise UsageError(f"read {file}", f"bad name {file.stem!r}", "use small letters, digits and dashes")
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"read {file}", str(error)) from error
    diff = DIFF_START.search(text)
    lines = text[: diff.start() if diff else None].splitlines()
    subject, body_start = _read_header(file, lines)
    end = lines.index("---") if "---" in lines else len(lines)
    if diff and end == len(lines):
        raise _bad(file, len(lines), "no line '---' between the trailers and the diff")
    trailers_start = max((number for number in range(end) if not lines[number].strip()), default=end) + 1
    body = "\n".join(lines[body_start : trailers_start - 1]).strip()
    if not body:
        raise _bad(file, body_start, "the body is empty", "say what is wrong with this QEMU")
    _refuse_trailers_in_body(file, lines, body_start, trailers_start)
    values = _read_trailers(file, lines, trailers_start, end)
    mutant = Mutant(
        name=file.stem,
        group=file.parent.name,
        subject=subject,
        body=body,
        killed_by=tuple(text for _, text in values["Killed-by"]),
        message=values["Message"][0][1],
        bases=_split(file, values["Bases"]) or releases(),
        leaves_out=_split(file, values["Leaves-out"]),
        patches=(file,) if diff else (),
    )
    _check(file, mutant, values)
    return mutant


def _files(top: Path) -> list[Path]:
    if not top.is_dir():
        raise UsageError(f"read mutants in {top}", "no such folder", "give a folder of *.patch files")
    return sorted(top.rglob("*.patch"), key=lambda file: (file.stem, file))


def _read_header(file: Path, lines: Sequence[str]) -> tuple[str, int]:
    """The subject, and the index of the line after the header."""
    subject = ""
    for number, line in enumerate(lines):
        found = SUBJECT.fullmatch(line)
        if found and not subject:
            subject = found[1]
        elif not line and subject:
            return subject, number + 1
        elif not HEADER.fullmatch(line):
            raise _bad(file, number, f"{line!r} in the header", "it holds 'From: ...' and 'Subject: [PATCH] ...'")
    raise _bad(file, len(lines), "no subject followed by an empty line")


def _refuse_trailers_in_body(file: Path, lines: Sequence[str], start: int, end: int) -> None:
    for number in range(start, end):
        found = TRAILER.fullmatch(lines[number])
        if found and found[1] in TRAILERS:
            raise _bad(file, number, f"{found[1]} outside of the last paragraph", "put all trailers there")


def _read_trailers(file: Path, lines: Sequence[str], start: int, end: int) -> Mapping[str, list[tuple[int, str]]]:
    """For each trailer the line indices and values."""
    values: dict[str, list[tuple[int, str]]] = {key: [] for key in TRAILERS}
    for number in range(start, end):
        found = TRAILER.fullmatch(lines[number])
        if not found or found[1] not in TRAILERS:
            raise _bad(file, number, f"{lines[number]!r} is no trailer", f"trailers are {', '.join(TRAILERS)}")
        key, value = found[1], found[2].strip()
        if not value:
            raise _bad(file, number, f"{key} is empty")
        if value in (text for _, text in values[key]):
            raise _bad(file, number, f"{key}: {value} twice")
        if values[key] and key != "Killed-by":
            raise _bad(file, number, f"a second {key}")
        values[key].append((number, value))
    for key in ("Killed-by", "Message"):
        if not values[key]:
            raise _bad(file, end - 1, f"no {key} in the last paragraph")
    return values


def _split(file: Path, values: Iterable[tuple[int, str]]) -> tuple[str, ...]:
    """The parts of a comma-separated trailer."""
    for number, text in values:
        parts = tuple(part.strip() for part in text.split(","))
        if not all(parts) or len(set(parts)) != len(parts):
            raise _bad(file, number, f"{text!r} is no list of different names", "separate them by commas")
        return parts
    return ()


def _check(file: Path, mutant: Mutant, values: Mapping[str, list[tuple[int, str]]]) -> None:
    """Check values that depend on others: bases, patches of the series, the regular expression."""
    if not mutant.leaves_out and not mutant.patches:
        raise _bad(file, 0, "no diff and no Leaves-out: this is the good build")
    try:
        re.compile(mutant.message)
    except re.error as error:
        raise _bad(file, values["Message"][0][0], f"no regular expression: {error}") from error
    for base in mutant.bases:
        if base not in load_bases():
            raise _bad(file, values["Bases"][0][0], f"no base {base!r} in images/qemu/bases.toml")
        if not mutant.leaves_out:
            continue
        series = find_series(base)  # without one, the file is not to blame
        try:
            series.without(mutant.leaves_out)
        except UsageError as error:
            happened = f"on base {base}, {error.happened}"
            raise _bad(file, values["Leaves-out"][0][0], happened, error.advice) from error


def _bad(file: Path, index: int, happened: str, advice: str = "") -> UsageError:
    return UsageError(f"read {file}, line {index + 1}", happened, advice)
