"""A matrix of parameters: read by Avocado's varianter yaml-to-mux, filtered, split into shards, and run.

Avocado accepts either ``-p`` or ``-m``, not both. So each run gets a generated file, ``matrix.yaml`` in its results
folder: the parameters that all points share, then each point under its name with all its parameters and the path of its
QEMU. ``avocado run -m results/.../matrix.yaml`` repeats exactly that run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cprlib.build.series import find_base
from cprlib.campaign.job import choose_names
from cprlib.errors import UsageError
from cprlib.files import project_folder, write_text
from cprlib.qemu.binary import QemuBinary
from cprlib.report.environment import Environment
from cprlib.report.matrix import NOT_IN_NAMES, MatrixRecord, Shard, point_name, shard_points

YAML_FILE = "matrix.yaml"
MATRIX_TEST = "tests/functional/test_matrix.py"
BASE = "base"
SHARED_PATHS = ("/", "/run")
LONGEST_NAME = 100  # it becomes a part of a folder's name
SHARD = re.compile(r"([1-9][0-9]{0,3})/([1-9][0-9]{0,3})")
HEAD = """\
# The points of one run, made by `cprlib run --matrix`. To repeat it:
#   avocado run -m THIS_FILE --spawner=lab tests/functional/test_matrix.py
"""


@dataclass(frozen=True, slots=True)
class Point:
    """One combination of parameters.

    :param values: the parameters in which it differs from other points, as texts.
    """

    name: str
    values: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Matrix:
    """All points of a file, in Avocado's order.

    :param shared: parameters of every point.
    """

    name: str
    points: tuple[Point, ...]
    shared: Mapping[str, str] = field(default_factory=dict)

    def only(self, patterns: Sequence[str]) -> tuple[Point, ...]:
        """The points whose name matches one of the patterns (``fnmatch``); all of them without patterns.

        :raises UsageError: a pattern matches none.
        """
        names = [point.name for point in self.points]
        advice = f"the first ones are {', '.join(names[:3])}"
        chosen = choose_names(names, patterns, "point", f"matrix {self.name}", advice)
        return tuple(point for point in self.points if point.name in chosen)


def _find_matrix(name: str) -> Path:
    """The file of a matrix: a path, or a name in ``fixtures/matrix``.

    :raises UsageError: there is no such file.
    """
    folder = project_folder() / "fixtures" / "matrix"
    if Path(name).suffix in (".yaml", ".yml") or "/" in name:
        path = Path(name)
        advice = "give the path of a yaml-to-mux file"
    else:
        path = folder / f"{name}.yaml"
        advice = f"there are: {', '.join(sorted(item.stem for item in folder.glob('*.yaml')))}; or give a path"
    if not path.is_file():
        raise UsageError(f"read matrix {name}", f"no such file: {path}", advice)
    return path.resolve()


def load_matrix(name: str) -> Matrix:
    """Read a matrix.

    :raises UsageError: no such file, no YAML, no points, two points of one name.
    """
    path = _find_matrix(name)
    tried = f"read matrix {path}"
    points: dict[str, Point] = {}
    shared: dict[str, str] = {}
    for variant in _variants(path, tried):
        common, own = _values(variant, tried)
        shared |= common
        point = Point(point_name(own), own)
        if not own:
            raise UsageError(tried, "a variant sets no parameter of its own", "see docs/matrix.md")
        if len(point.name) > LONGEST_NAME:
            happened = f"the name of point {point.name[:40]}... is longer than {LONGEST_NAME} characters"
            raise UsageError(tried, happened, "set fewer parameters in a point")
        if point.name in points:
            raise UsageError(tried, f"two variants are point {point.name}", "leave one of them out")
        points[point.name] = point
    if not points:
        raise UsageError(tried, "its filters leave no variant", "`avocado variants -m FILE` lists the variants")
    return Matrix(path.stem, tuple(points.values()), shared)


def without(matrix: Matrix, parameter: str) -> Matrix:
    """The matrix without one of its axes; points that become equal are merged."""
    reduced: dict[str, Point] = {}
    for point in matrix.points:
        values = {key: value for key, value in point.values.items() if key != parameter}
        if values:
            reduced.setdefault(point_name(values), Point(point_name(values), values))
    return Matrix(matrix.name, tuple(reduced.values()), {k: v for k, v in matrix.shared.items() if k != parameter})


def parse_shard(text: str) -> tuple[int, int]:
    """Number and count of a shard: ``2/3``.

    :raises UsageError: the text is no shard.
    """
    found = SHARD.fullmatch(text)
    number, count = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= number <= count:
        raise UsageError(f"run shard {text!r}", "it is not NUMBER/COUNT", "the first of three shards is 1/3")
    return number, count


def shard_of(points: Sequence[Point], number: int, count: int) -> tuple[Point, ...]:
    """The points of a shard, the same on every machine.

    :raises UsageError: the shard is empty.
    """
    names = set(shard_points(tuple(point.name for point in points), number, count))
    if not names:
        raise UsageError(f"run shard {number}/{count}", f"there are only {len(points)} points", "take fewer shards")
    return tuple(point for point in points if point.name in names)


def write_matrix(path: Path, points: Iterable[Point], shared: Mapping[str, str]) -> None:
    """Write the file for Avocado.

    :raises EnvironmentFailure: the folder cannot be written.
    """
    above = yaml.safe_dump(dict(shared)) if shared else ""
    below = yaml.safe_dump({point.name: dict(point.values) for point in points}, sort_keys=False, indent=2)
    inside = "".join(f"  {line}\n" for line in below.splitlines())
    write_text(path, f"{HEAD}{above}points: !mux\n{inside}")


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
            if base := point.values.get(BASE, self.matrix.shared.get(BASE)):
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

    def record(self, results: Path, environment: Environment) -> None:
        """Write the record of the points to cover, so that a missing point makes the run inconclusive."""
        shard = Shard(
            number=self.number,
            points=tuple(point.name for point in self.own),
            environment=environment,
        )
        names = tuple(point.name for point in self.points)
        MatrixRecord(self.matrix.name, names, (shard,), self.count).write(results)


def plan_matrix(name: str, patterns: Sequence[str], shard: str | None, *, own_qemu: bool) -> MatrixRun:
    """Choose the points of a run.

    :param name: of a matrix in ``fixtures/matrix``, or a path.
    :param patterns: ``fnmatch`` patterns of points' names; all points without patterns.
    :param shard: ``2/3``.
    :param own_qemu: the run tests a QEMU of the user's, so the matrix has no bases.
    :raises UsageError: one of them is invalid.
    """
    matrix = load_matrix(name)
    if own_qemu:
        matrix = without(matrix, BASE)
        if not matrix.points:
            raise UsageError(f"run matrix {name}", "its points differ in their base alone", "run it without --qemu")
    points = matrix.only(patterns)
    number, count = parse_shard(shard) if shard else (1, 1)
    shard_of(points, number, count)  # refuses an empty one
    return MatrixRun(matrix, points, number, count)


def _variants(path: Path, tried: str) -> list[list[Any]]:
    """The variants of a file, each a list of leaves of Avocado's tree.

    :raises UsageError: with YAML's own message and the line.
    """
    # Imported here because Avocado loads all its plugins with it; and before the plugin, which needs it.
    import avocado.core.varianter  # noqa: F401, PLC0415
    from avocado_varianter_yaml_to_mux.mux import MuxTree  # noqa: PLC0415
    from avocado_varianter_yaml_to_mux.varianter_yaml_to_mux import create_from_yaml  # noqa: PLC0415

    try:
        return list(MuxTree(create_from_yaml([f"/run:{path}"])))
    except (AttributeError, TypeError) as error:  # raised by the plugin for a list or a text
        raise UsageError(tried, "it is not a tree of nodes with parameters", "see docs/matrix.md") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        said = str(getattr(error, "strerror", None) or error).removeprefix(f"Invalid multiplex file '/run:{path}': ")
        raise UsageError(tried, " ".join(said.split()), "see docs/matrix.md") from error


def _values(leaves: Sequence[Any], tried: str) -> tuple[dict[str, str], dict[str, str]]:
    """Parameters of a variant: those that all variants share, and its own.

    :raises UsageError: a parameter has more than one value.
    """
    shared: dict[str, str] = {}
    own: dict[str, str] = {}
    origins: dict[str, str] = {}
    for leaf in leaves:
        for key, value in leaf.environment.items():
            origin = leaf.environment.origin[key].path
            if origins.setdefault(key, origin) != origin:
                raise UsageError(tried, f"{key} is set at {origins[key]} and at {origin}", "set it in one place")
            (shared if origin in SHARED_PATHS else own)[key] = _text(key, value, tried)
    return shared, own


def _text(key: str, value: object, tried: str) -> str:
    """A value as on a command line; YAML reads ``on`` as a Boolean, and 10.10 as a number."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float) and key == "base":
        raise UsageError(tried, f"base {value} is a number in YAML, and 10.10 would be 10.1", 'write base: "10.0"')
    if not isinstance(value, str | int | float):
        raise UsageError(tried, f"{key} is {value!r}, not a single value", "make a node for each value")
    return str(value)
