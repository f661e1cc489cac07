"""Debian's control files, as apt shows them: stanzas, versions and lists in them."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Iterable, Iterator


def stanzas(text: str) -> Iterator[dict[str, str]]:
    """The stanzas of a control file as dictionaries; lines that go on keep their line ends."""
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
    """Below, at or above 0 as the first Debian version is older than, equal to or newer than the second."""
    if first == second:
        return 0
    command = ["dpkg", "--compare-versions", first, "lt", second]
    return -1 if subprocess.run(command, check=False).returncode == 0 else 1


def is_version(version: str, wanted: str) -> bool:
    """True when the upstream part of a Debian version is ``wanted`` or begins with it at a boundary."""
    upstream = version.partition(":")[2] or version
    rest = upstream[len(wanted) :]
    return upstream.startswith(wanted) and (not wanted or not rest[:1].isdigit())


def comma_list(field: str) -> list[str]:
    """The parts of a field that commas separate."""
    return [part.strip() for part in field.split(",") if part.strip()]
