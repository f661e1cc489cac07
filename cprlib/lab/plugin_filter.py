"""Import Avocado without its search for plugins.

Importing ``avocado`` loads every installed plugin (spawners, results, varianters) through pkg_resources, which takes
two thirds of the second that the start of a test takes in a lab. A process that runs one test needs no plugin, so a
replacement of pkg_resources without plugins is installed during the import. Later imports get the real modules.
"""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Iterator
from typing import Any


class _NoDistribution(Exception):
    """DistributionNotFound of the replacement."""


def _replacement() -> types.ModuleType:
    """A pkg_resources without plugins, with the names that Avocado 113 uses."""
    module = types.ModuleType("pkg_resources", "replacement by cprlib.lab.plugin_filter")

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
    """In this context, Avocado finds no plugins and no jsonschema, which it needs for recipes only."""
    hidden: dict[str, types.ModuleType | None] = {"pkg_resources": _replacement(), "jsonschema": None}
    before = {name: sys.modules[name] for name in hidden if name in sys.modules}
    sys.modules.update(hidden)  # type: ignore[arg-type]  # None makes an import fail
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
        sys.modules.update(before)
