"""The differences that a comparison of two states allows: data, with a reason for each (fixtures/equivalence.toml).

The file has one table per difference::

    [[allowed]]
    path = "qmp/query-migrate/**"
    reason = "the source has migrated, the target has received"
    comparisons = ["update", "chain"]

In a path, ``*`` stands for any text without ``/``, and ``**`` for any text. ``comparisons`` and ``mechanisms`` restrict
an entry to some; an entry without them is for all.
"""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from cprlib import files
from cprlib.codec import BadValue, decode
from cprlib.errors import UsageError
from cprlib.evidence.records import Comparison
from cprlib.update.mechanism import Mechanism

TABLE = "allowed"
WILDCARDS = {"*": "[^/]*", "**": ".*"}
ADVICE = "docs/reading-a-report.md describes the file"


@dataclass(frozen=True, slots=True)
class AllowedDifference:
    """One entry of the file.

    :param path: pattern of the paths of the values.
    :param reason: why the difference is none that a guest or an operator would mind.
    :param comparisons, mechanisms: to which the entry is restricted; empty for all.
    """

    path: str
    reason: str
    comparisons: tuple[Comparison, ...] = ()
    mechanisms: tuple[Mechanism, ...] = ()

    def applies_to(self, comparison: Comparison, mechanism: Mechanism) -> bool:
        """Whether the entry is for this comparison and mechanism."""
        return (not self.comparisons or comparison in self.comparisons) and (
            not self.mechanisms or mechanism in self.mechanisms
        )

    def matches(self, path: str) -> bool:
        """Whether the entry is for the value of this path."""
        return _pattern(self.path).fullmatch(path) is not None


@functools.cache
def _pattern(path: str) -> re.Pattern[str]:
    """The pattern of an entry."""
    text = "".join(WILDCARDS.get(word) or re.escape(word) for word in re.split(r"(\*+)", path))
    return re.compile(text, re.DOTALL)


def allowed_differences(path: Path | None = None) -> tuple[AllowedDifference, ...]:
    """The entries of a file.

    :param path: fixtures/equivalence.toml when None.
    :raises UsageError: it is missing or invalid; the message has file and line.
    """
    path = path or files.project_folder() / "fixtures" / "equivalence.toml"
    tried = f"use the allowed differences in {path}"
    try:
        text = path.read_text(encoding="utf-8")
        value = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(tried, str(error), ADVICE) from error
    entries = value.pop(TABLE, [])
    if value or not isinstance(entries, list):
        happened = f"unknown key {next(iter(value))!r}" if value else f"{TABLE} must be tables: [[{TABLE}]]"
        raise UsageError(tried, f"{happened} (known: [[{TABLE}]])", ADVICE)
    lines = [number for number, line in enumerate(text.splitlines(), 1) if line.strip() == f"[[{TABLE}]]"]
    return tuple(
        _entry(entry, tried, lines[index] if index < len(lines) else 1, entries[:index])
        for index, entry in enumerate(entries)
    )


def _entry(value: object, tried: str, line: int, earlier: Sequence[object]) -> AllowedDifference:
    """The entry of one table.

    :param line: of its header.
    """
    known = [item.name for item in fields(AllowedDifference)]

    def error(happened: str) -> UsageError:
        return UsageError(tried, f"line {line}: {happened}", ADVICE)

    if not isinstance(value, dict):
        raise error("an entry must be a table")
    if unknown := [name for name in value if name not in known]:
        raise error(f"unknown key {unknown[0]!r} (known: {', '.join(known)})")
    try:
        entry = decode(AllowedDifference, value)
    except BadValue as bad:
        raise error(str(bad)) from bad
    side = entry.path.partition("/")[0]
    if not entry.reason.strip():
        raise error(f"{entry.path} has no reason")
    if not side or "*" in side:
        raise error(f"{entry.path!r} does not begin with a side, such as qom/")
    if value in earlier:
        raise error(f"{entry.path} is there twice")
    return entry
