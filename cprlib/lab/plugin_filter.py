"""Imports Avocado without its search for plugins.

Importing ``avocado`` loads every installed plugin of its command line (spawners, results, varianters) by way of
pkg_resources: two thirds of the second that a test's start takes in a lab. A process that runs one test needs
none of them, so while Avocado is imported a stand-in says that there are none. It is gone afterwards: a test
that imports pkg_resources or jsonschema itself gets the real ones.
"""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Iterator
from typing import Any


class _NoDistribution(Exception):
    """pkg_resources.DistributionNotFound of the stand-in."""


def _stand_in() -> types.ModuleType:
    """A pkg_resources that knows of no plugin; the names are those that Avocado 113 uses."""
    module = types.ModuleType("pkg_resources", "stand-in of cprlib.lab.plugin_filter")

    def no_distribution(*_: Any) -> Any:
        raise _NoDistribution

    module.__dict__.update(
        iter_entry_points=lambda *_: iter(()),
        get_entry_map=lambda *_: {},
        get_distribution=lambda _: types.SimpleNamespace(location="/", version="0.0"),
        resource_filename=lambda *_: "/nonexistent",
        require=no_distribution,
        DistributionNotFound=_NoDistribution,
        VersionConflict=_NoDistribution,
    )
    return module


@contextlib.contextmanager
def no_plugins() -> Iterator[None]:
    """While this holds, Avocado finds no plugins and no jsonschema (which it wants for recipes only)."""
    hidden: dict[str, types.ModuleType | None] = {"pkg_resources": _stand_in(), "jsonschema": None}
    before = {name: sys.modules[name] for name in hidden if name in sys.modules}
    sys.modules.update(hidden)  # type: ignore[arg-type]  # None makes an import fail
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
        sys.modules.update(before)
