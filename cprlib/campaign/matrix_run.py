"""One run of a matrix: its points, their QEMUs, and the record that is written before the first test starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cprlib.build.series import find_base
from cprlib.campaign.matrix import (
    YAML_FILE,
    Matrix,
    Point,
    load_matrix,
    parse_shard,
    shard_of,
    without,
    write_matrix,
)
from cprlib.errors import UsageError
from cprlib.files import project_folder
from cprlib.qemu.binary import QemuBinary
from cprlib.report.environment import Environment
from cprlib.report.matrix import NOT_IN_NAMES, MatrixRecord, Shard

MATRIX_TEST = "tests/functional/test_matrix.py"
BASE = "base"


@dataclass(frozen=True, slots=True)
class MatrixRun:
    """The points that one run covers.

    :param points: chosen of the matrix, of all shards.
    :param number, count: the shard of this run.
    """

    matrix: Matrix
    points: tuple[Point, ...]
    number: int = 1
    count: int = 1

    @property
    def test(self) -> str:
        """The test of a matrix where the command line names none."""
        return str(project_folder() / MATRIX_TEST)

    @property
    def own(self) -> tuple[Point, ...]:
        """The points of this shard."""
        return shard_of(self.points, self.number, self.count)

    def bases(self, default: str) -> tuple[str, ...]:
        """The bases of this shard's points, each once.

        :param default: of points that name none.
        """
        shared = self.matrix.shared.get(BASE, default)
        return tuple(dict.fromkeys(point.values.get(BASE, shared) for point in self.own))

    def check(self, given: Mapping[str, str], check: Callable[[Mapping[str, str]], None]) -> None:
        """Refuse invalid parameters before anything is built.

        :param given: parameters of the command line, for every point.
        :param check: raises UsageError for parameters that a test would refuse.
        :raises UsageError: also when the command line sets a parameter of the points.
        """
        for point in self.points:
            for name in given:
                if name in point.values:
                    raise UsageError(
                        f"run matrix {self.matrix.name} with {name}={given[name]}",
                        f"each of its points sets {name}",
                        f"choose points instead, e.g. --points '{point.name}'",
                    )
            try:
                check({**self.matrix.shared, **given, **point.values})
            except UsageError as error:
                tried = f"run point {point.name} of matrix {self.matrix.name}"
                raise UsageError(tried, f"{error.tried}: {error.happened}", error.advice) from error
            if base := point.values.get(BASE):
                find_base(base)

    def write(self, results: Path, shared: Mapping[str, str], qemus: Mapping[str, QemuBinary], default: str) -> Path:
        """Write the file for Avocado into the results folder.

        :param shared: parameters of every point; without a QEMU where the points have their own.
        :param qemus: by base; empty where the user gave a QEMU, which is in ``shared``.
        :param default: base of points that name none.
        """
        left_out = NOT_IN_NAMES if qemus else ()
        above = {**self.matrix.shared, **{name: value for name, value in shared.items() if name not in left_out}}
        base = self.matrix.shared.get(BASE, default)
        points = []
        for point in self.own:
            qemu = qemus.get(point.values.get(BASE, base))
            points.append(Point(point.name, {**point.values, **(qemu.parameters() if qemu else {})}))
        path = results / YAML_FILE
        write_matrix(path, points, above)
        return path

    def record(self, results: Path, command: str, environment: Environment) -> None:
        """Write the record of the points to cover, so that a missing point makes the run inconclusive."""
        shard = Shard(
            number=self.number,
            points=tuple(point.name for point in self.own),
            command=command,
            folder=results.name,
            environment=environment,
        )
        names = tuple(point.name for point in self.points)
        MatrixRecord(self.matrix.name, names, (shard,), self.count).write(results)


def plan_matrix(name: str, patterns: Sequence[str], shard: str | None, *, brought: bool) -> MatrixRun:
    """Choose the points of a run.

    :param name: of a matrix in ``fixtures/matrix``, or a path.
    :param patterns: ``fnmatch`` patterns of points' names; all points without patterns.
    :param shard: ``2/3``.
    :param brought: the run tests a QEMU of the user's, so the matrix has no bases.
    :raises UsageError: one of them is invalid.
    """
    matrix = load_matrix(name)
    if brought:
        matrix = without(matrix, BASE)
    number, count = parse_shard(shard) if shard else (1, 1)
    run = MatrixRun(matrix, matrix.only(patterns), number, count)
    if not run.own:
        raise UsageError(f"run matrix {name}", "it has no points")
    return run
