"""Avocado as cprlib runs it: it starts in half the time, and reports tests while they run.

Avocado finds its plugins through ``pkg_resources``, whose import takes longer than all of Avocado that a run needs. The
replacement has the names that Avocado 113 uses, and plugins from :mod:`importlib.metadata`, or none.

Usage: ``python -m cprlib.lab.avocado_main run|list ARGUMENTS``. ``avocado`` itself runs the suite too.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import signal
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import EntryPoint, PackageNotFoundError, distributions, version
from pathlib import Path
from typing import Any

GROUP = "avocado.plugins."
COMMANDS = {"run", "list"}
LEFT_OUT = {"beaker", "fetchasset", "lxc", "podman", "tmt", "vmimage", "zip_archive"}
"""Plugins for tests and results of other kinds. They take a third of the start, with HTTP, XML and package managers."""
EVENTS = EntryPoint("cprlib-events", "cprlib.lab.events_plugin:JobEvents", f"{GROUP}result_events")


def pkg_resources_of(plugins: Callable[[], Iterable[EntryPoint]]) -> types.ModuleType:
    """A stub module for ``pkg_resources``.

    :param plugins: all that Avocado shall find; called when it looks for some.
    """
    module = types.ModuleType("pkg_resources", "stub by cprlib.lab.avocado_main")

    def iter_entry_points(group: str, name: str | None = None) -> Iterator[EntryPoint]:
        return (point for point in plugins() if point.group == group and name in (None, point.name))

    def get_entry_map(_: str) -> dict[str, dict[str, EntryPoint]]:
        groups: dict[str, dict[str, EntryPoint]] = {}
        for point in plugins():
            groups.setdefault(point.group, {})[point.name] = point
        return groups

    def get_distribution(name: str) -> types.SimpleNamespace:
        return types.SimpleNamespace(location=str(_folder_of("avocado").parent), version=version(name))

    def resource_filename(package: str, name: str) -> str:
        return str(_folder_of(package) / name)

    def require(*_: Any) -> Any:
        raise PackageNotFoundError

    module.__dict__.update(
        iter_entry_points=iter_entry_points,
        get_entry_map=get_entry_map,
        get_distribution=get_distribution,
        resource_filename=resource_filename,
        require=require,
        DistributionNotFound=PackageNotFoundError,
        VersionConflict=PackageNotFoundError,
    )
    return module


def _folder_of(package: str) -> Path:
    found = importlib.util.find_spec(package)
    return Path(found.origin).parent if found and found.origin else Path("/nonexistent")


def stub_modules(plugins: Callable[[], Iterable[EntryPoint]]) -> dict[str, types.ModuleType | None]:
    """Stub modules, by name, for modules that Avocado imports and no test of the suite needs; None for no stub at all.

    :param plugins: as for :func:`pkg_resources_of`.
    """
    return {
        "pkg_resources": pkg_resources_of(plugins),
        "jsonschema": None,  # for recipes
        "avocado.utils.asset": types.ModuleType("avocado.utils.asset"),  # for downloads; imports an HTTP client
    }


@contextlib.contextmanager
def stubs_imported(modules: dict[str, types.ModuleType | None]) -> Iterator[None]:
    """In this context, imports get these stub modules; a module without a stub, None, cannot be imported."""
    before = {name: sys.modules[name] for name in modules if name in sys.modules}
    sys.modules.update(modules)  # type: ignore[arg-type]  # None makes an import fail
    try:
        yield
    finally:
        for name in modules:
            sys.modules.pop(name, None)
        sys.modules.update(before)


@functools.cache
def plugins() -> tuple[EntryPoint, ...]:
    """Avocado's plugins that a run or a list of tests may need, and ours."""
    found: dict[tuple[str, str], EntryPoint] = {}
    for point in (point for distribution in distributions() for point in distribution.entry_points):
        other_command = point.group == f"{GROUP}cli.cmd" and point.name not in COMMANDS
        if point.group.startswith(GROUP) and point.name not in LEFT_OUT and not other_command:
            found.setdefault((point.group, point.name), point)  # the first on Python's path counts
    return (*found.values(), EVENTS)


def main() -> int:
    """Run Avocado; returns its exit status."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores what ends Avocado
    with stubs_imported(stub_modules(plugins)):
        from avocado.core.main import main as avocado  # noqa: PLC0415 - after the stubs

        return int(avocado() or 0)


if __name__ == "__main__":
    sys.exit(main())
