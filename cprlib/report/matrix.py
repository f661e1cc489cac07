"""Points of a matrix of parameters: their names, which are part of case ids, and what became of them.

``matrix.json`` in a results folder tells which points a run was to cover, so that none of them is lost silently: a
point without a case is no pass. One run may be a shard of several; :mod:`cprlib.report.merge` joins them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cprlib import files
from cprlib.codec import BadValue, decode, encode
from cprlib.errors import InstrumentError
from cprlib.evidence.case import CaseEvidence
from cprlib.report.environment import Environment

MATRIX_FILE = "matrix.json"
POINT = "point"  # in a case's further parameters
AXES = ("queues", "vhost", "machine", "mechanism", "base", "ip_version")
"""Parameters that a name tells first, in this order; others follow, sorted."""
NOT_TOLD = ("qemu", "firmware")
"""Paths, which differ from machine to machine: the base stands for them."""


def point_name(values: Mapping[str, str]) -> str:
    """A name made of parameters: ``q4-vhost-q35-cpr-10.0-ip6``; the same ones have the same name everywhere.

    :param values: parameters as texts; those that are not there are not told.
    """
    words = [_word(name, values[name]) for name in AXES if name in values]
    words += [
        f"{name}-{values[name]}" for name in sorted(values) if name not in (*AXES, *NOT_TOLD) and values[name] != ""
    ]
    return "-".join(re.sub(r"[^a-z0-9.]+", "-", word.lower()).strip("-.") for word in words)


def _word(name: str, value: str) -> str:
    match name:
        case "queues":
            return f"q{value}"
        case "vhost":
            return "vhost" if value == "on" else "tap"
        case "ip_version":
            return f"ip{value}"
    return value


@dataclass(frozen=True, slots=True)
class Shard:
    """What one run covers of a matrix.

    :param number: from 1.
    :param points: names of its points.
    :param command: the command line of the run; :param folder: its results, by name.
    """

    number: int
    points: tuple[str, ...]
    command: str = ""
    folder: str = ""
    environment: Environment = field(default_factory=Environment)


@dataclass(frozen=True, slots=True)
class MatrixRecord:
    """Which points a run was to cover.

    :param name: of the matrix: ``push``.
    :param points: names of all points, in the matrix's order, whichever shard they belong to.
    :param count: how many shards the points were dealt to.
    :param shards: those that this folder holds: one, or all that were merged.
    :param merged: this folder has to hold every point, else only those of its shard.
    :param differences: why merged shards are not one run.
    """

    name: str
    points: tuple[str, ...]
    shards: tuple[Shard, ...]
    count: int = 1
    merged: bool = False
    differences: tuple[str, ...] = ()
    schema: int = 1

    def write(self, folder: Path) -> None:
        """Write ``matrix.json``."""
        files.write_text(folder / MATRIX_FILE, json.dumps(encode(self), indent=2) + "\n", mode=0o600)

    @classmethod
    def read(cls, folder: Path) -> MatrixRecord | None:
        """Read ``matrix.json``; None where there is none, as in the results of any other run.

        :raises InstrumentError: it is broken.
        """
        path = folder / MATRIX_FILE
        try:
            return decode(cls, json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, BadValue) as error:
            raise InstrumentError(f"read {path}", str(error)) from error

    def problems(self, covered: Iterable[str]) -> Iterator[str]:
        """What is missing, each as a reason for which the run is inconclusive.

        :param covered: points of the cases that left evidence.
        """
        yield from self.differences
        present = {shard.number for shard in self.shards}
        for number in range(1, self.count + 1) if self.merged else ():
            if number not in present:
                lost = share(self.points, number, self.count)
                yield f"shard {number}/{self.count} is missing: {_counted(lost)} never ran: {_some(lost)}"
        there = set(covered)
        without = [point for shard in self.shards for point in shard.points if point not in there]
        if without:
            yield f"{_counted(without)} of the matrix left no evidence: {_some(without)}"


def points_of(cases: Iterable[CaseEvidence]) -> Iterator[str]:
    """The points that cases with evidence are of."""
    return (str(case.parameters.more[POINT]) for case in cases if POINT in case.parameters.more)


def share(points: tuple[str, ...], number: int, count: int) -> tuple[str, ...]:
    """The points of a shard: every ``count``-th from the ``number``-th on, so that all take about the same time.

    :param number: from 1.
    """
    return points[number - 1 :: count]


def _counted(points: tuple[str, ...] | list[str]) -> str:
    return f"{len(points)} point{'' if len(points) == 1 else 's'}"


def _some(points: tuple[str, ...] | list[str]) -> str:
    return ", ".join(points[:4]) + (f" and {len(points) - 4} more" if points[4:] else "")
