"""Avocado's command line as cprlib runs it: it starts in half the time, and reports tests while they run.

Usage: ``python -m cprlib.lab.avocado_main run|list ARGUMENTS``. ``avocado`` itself runs the suite too.
"""

from __future__ import annotations

import functools
import sys
from importlib.metadata import EntryPoint, distributions

from cprlib.lab.light_avocado import light_modules, replaced

GROUP = "avocado.plugins."
COMMANDS = {"run", "list"}
LEFT_OUT = {"beaker", "fetchasset", "lxc", "podman", "tmt", "vmimage", "zip_archive"}
"""Plugins for tests and results of other kinds. They take a third of the start, with HTTP, XML and package managers."""
EVENTS = EntryPoint("cprlib-events", "cprlib.lab.events_plugin:JobEvents", f"{GROUP}result_events")


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
    with replaced(light_modules(plugins)):
        from avocado.core.main import main as avocado  # noqa: PLC0415 - after the replacement

        return int(avocado() or 0)


if __name__ == "__main__":
    sys.exit(main())
