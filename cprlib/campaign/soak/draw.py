"""The cases of a soak: the n-th draw of a test and its parameters depends on the seed and on n alone.

Each value is picked by its own hash of seed, n and name, so that no draw depends on earlier ones or on Python's
generators, and an interrupted soak continues with the same cases.
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
    :param vary: by the test's id, the parameters that are drawn for it; other tests run with their defaults.
    """

    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    vary: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def without(self, *names: str) -> Choices:
        """The same, with the defaults of these parameters."""
        vary = {test: tuple(name for name in drawn if name not in names) for test, drawn in self.vary.items()}
        return Choices(self.values, vary)


@dataclass(frozen=True, slots=True)
class Draw:
    """One case.

    :param number: from 1.
    :param test: id of the test's case.
    """

    number: int
    test: str
    parameters: Mapping[str, str]


def read_choices(path: Path | None = None) -> Choices:
    """The choices in a TOML file; fixtures/soak.toml when None.

    :raises UsageError: it is missing or malformed, or a test varies a parameter that has no values.
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
                raise UsageError(f"read {source}", f"{test} varies {name}, which has no values", "add them to [values]")
    return Choices(values, vary)


def draw(seed: int, number: int, tests: Sequence[str], choices: Choices) -> Draw:
    """The draw of that number.

    :param tests: ids to draw from; their order decides.
    """
    test = _pick(seed, number, "test", tests)
    parameters = {name: _pick(seed, number, name, choices.values[name]) for name in choices.vary.get(test, ())}
    return Draw(number, test, parameters)


def _pick(seed: int, number: int, name: str, items: Sequence[str]) -> str:
    digest = hashlib.sha256(f"{seed}/{number}/{name}".encode()).digest()
    return items[int.from_bytes(digest) % len(items)]
