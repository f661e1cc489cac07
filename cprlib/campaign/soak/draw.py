"""Which case comes next: a test and its parameters, drawn by a seed. The n-th draw depends on seed and n alone.

Every value is picked by a hash of its own (seed, n, and what it is for), so that no draw depends on those before it,
nor on Python's own generators, and a soak that was cut off goes on with exactly the cases that it would have had.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cprlib.errors import UsageError
from cprlib.files import project_folder


@dataclass(frozen=True, slots=True)
class Choices:
    """What is drawn from.

    :param values: of each parameter, as Avocado takes them.
    :param vary: ids of tests, and the parameters that are drawn for them; a test that is not in it is run as it is.
    """

    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    vary: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def without(self, *names: str) -> Choices:
        """The same with these parameters left as they are."""
        vary = {test: tuple(name for name in given if name not in names) for test, given in self.vary.items()}
        return Choices(self.values, vary)


@dataclass(frozen=True, slots=True)
class Draw:
    """One case of a soak.

    :param number: from 1.
    :param test: id of the test's case.
    """

    number: int
    test: str
    parameters: Mapping[str, str]


def read_choices(path: Path | None = None) -> Choices:
    """The choices in a TOML file; fixtures/soak.toml when None.

    :raises UsageError: it is none: missing, malformed, or a test takes a parameter that has no values.
    """
    source = path or project_folder() / "fixtures" / "soak.toml"
    try:
        value = tomllib.loads(source.read_text(encoding="utf-8"))
        values = {name: tuple(str(item) for item in items) for name, items in value["values"].items()}
        vary = {test: tuple(str(name) for name in names) for test, names in value["vary"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"read {source}", f"{type(error).__name__}: {error}", "see docs/soak.md") from error
    for test, names in vary.items():
        for name in names:
            if not values.get(name):
                raise UsageError(f"read {source}", f"{test} takes {name}, which has no values", "add them to [values]")
    return Choices(values, vary)


def draw(seed: int, number: int, tests: Sequence[str], choices: Choices) -> Draw:
    """The draw of that number.

    :param tests: ids to draw from, in an order that does not change.
    """
    test = _pick(seed, number, "test", tests)
    parameters = {name: _pick(seed, number, name, choices.values[name]) for name in choices.vary.get(test, ())}
    return Draw(number, test, parameters)


def _pick(seed: int, number: int, what: str, items: Sequence[str]) -> str:
    digest = hashlib.sha256(f"{seed}/{number}/{what}".encode()).digest()
    return items[int.from_bytes(digest) % len(items)]
