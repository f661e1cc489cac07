"""Debian's control records, versions, and files of the archive, as apt prints them and lists have them."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Remote:
    """A file of the archive: its path below the mirror, bytes, sha256."""

    path: str
    size: int
    sha256: str

    @property
    def name(self) -> str:
        """The file's own name."""
        return self.path.rpartition("/")[2]


def stanzas(text: str) -> Iterator[dict[str, str]]:
    """The stanzas of a control file as dictionaries; continuation lines keep their line ends."""
    for stanza in text.split("\n\n"):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.splitlines():
            if line[:1].isspace():
                fields[name] = f"{fields[name]}\n{line.strip()}"
            elif ":" in line:
                name, _, value = line.partition(":")
                fields[name] = value.strip()
        if fields:
            yield fields


def newest(found: Iterable[dict[str, str]]) -> dict[str, str] | None:
    """The record with the highest version, in dpkg's order."""

    def compare(first: dict[str, str], second: dict[str, str]) -> int:
        return compare_versions(first["Version"], second["Version"])

    return max(found, key=functools.cmp_to_key(compare), default=None)


def compare_versions(first: str, second: str) -> int:
    """Negative, 0 or positive: the first Debian version is older than, equal to or newer than the second.

    As deb-version(7) has it: epoch, upstream version and revision, each compared in parts without digits and numbers.
    """
    one, other = _version_key(first), _version_key(second)
    return (one > other) - (one < other)


def _version_key(version: str) -> tuple[int, list[tuple[list[int], int]], list[tuple[list[int], int]]]:
    epoch, colon, rest = version.partition(":")
    upstream, dash, revision = (rest if colon else version).rpartition("-")
    if not dash:
        upstream, revision = revision, "0"
    return int(epoch) if colon else 0, _parts(upstream), _parts(revision)


def _parts(text: str) -> list[tuple[list[int], int]]:
    """Pairs of a part without digits and a number; the tilde sorts before the end, letters before other characters."""

    def order(character: str) -> int:
        return -1 if character == "~" else ord(character) if character.isalpha() else ord(character) + 256

    found = re.findall(r"(\D*)(\d*)", text)
    return [([*map(order, words), 0], int(number or 0)) for words, number in found]


def is_version(version: str, prefix: str) -> bool:
    """True when the upstream part of a Debian version is ``prefix`` or begins with it at a boundary."""
    upstream = version.partition(":")[2] or version
    rest = upstream[len(prefix) :]
    return upstream.startswith(prefix) and (not prefix or not rest[:1].isdigit())


def comma_list(field: str) -> list[str]:
    """The parts of a comma-separated field."""
    return [part.strip() for part in field.split(",") if part.strip()]
