"""The cases of a soak: the n-th draw of a test and its parameters depends on the seed and on n alone.

Each value is picked by its own hash of seed, n and name, so that no draw depends on earlier ones or on Python's
generators, and an interrupted soak continues with the same cases.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cprlib.codec import load_toml
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
class _ChoicesFile:
    values: Mapping[str, tuple[str | int, ...]]
    vary: Mapping[str, tuple[str, ...]]


def read_choices(path: Path | None = None) -> Choices:
    """The choices in a TOML file; fixtures/soak.toml when None.

    :raises UsageError: it is missing or malformed, or a test varies a parameter that has no values.
    """
    source = path or project_folder() / "fixtures" / "soak.toml"
    found = load_toml(_ChoicesFile, source, "see docs/soak.md")
    values = {name: tuple(map(str, items)) for name, items in found.values.items()}
    for test, names in found.vary.items():
        for name in names:
            if not values.get(name):
                raise UsageError(f"read {source}", f"{test} varies {name}, which has no values", "add them to [values]")
    return Choices(values, found.vary)


def draw(seed: int, number: int, tests: Sequence[str], choices: Choices) -> tuple[str, Mapping[str, str]]:
    """The draw of that number: a test and its parameters.

    :param number: from 1.
    :param tests: ids to draw from; their order decides.
    """
    test = _pick(seed, number, "test", tests)
    parameters = {name: _pick(seed, number, name, choices.values[name]) for name in choices.vary.get(test, ())}
    return test, parameters


def _pick(seed: int, number: int, name: str, items: Sequence[str]) -> str:
    digest = hashlib.sha256(f"{seed}/{number}/{name}".encode()).digest()
    return items[int.from_bytes(digest) % len(items)]
