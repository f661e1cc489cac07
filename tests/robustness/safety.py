"""Run one case and watch what it does to the host: nothing to its network, no listening socket, no file for others.

::

    python -m tests.robustness.safety --mode lab
    python -m tests.robustness.safety --mode native      # under TCG; root and /dev/net/tun

The dump of the host's network before and after is compared, listening sockets of the run's processes are watched all
the time, and the modes of everything that was written are looked at.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cprlib.files import project_folder
from cprlib.process import terminate_on_signals
from tests.robustness.harness import Folders, Harness, running
from tests.robustness.netlink_dump import difference, dump, listening
from tests.robustness.processes import become_subreaper, objects_of

WATCH_INTERVAL_S = 0.1
STATUS_SOCKET = ".status_server.sock"  # Avocado's, in a private folder: the one listener that there has to be


@dataclass(slots=True)
class Seen:
    """What was seen of one run.

    :param looks: how often its sockets were looked at.
    :param listeners: its listening sockets in the host's namespace, but for Avocado's own.
    :param own_listeners: Avocado's status sockets, with the mode of the folder that each is in.
    """

    status: int = -1
    looks: int = 0
    listeners: set[str] = field(default_factory=set)
    own_listeners: set[str] = field(default_factory=set)
    changed: list[str] = field(default_factory=list)
    open_modes: list[str] = field(default_factory=list)
    files: int = 0

    @property
    def faults(self) -> list[str]:
        """All that may not be."""
        bad_status = [f"exit status {self.status}"] if self.status else []
        return [*bad_status, *sorted(self.listeners), *self.changed, *self.open_modes]


def watch(folders: Folders, mode: str) -> Seen:
    """Run a case and look at it."""
    seen = Seen()
    before = dump()
    with running(folders, mode, folders.root / "output.log") as harness:
        while harness.process.poll() is None:
            _look(harness, seen)
            try:
                harness.process.wait(timeout=WATCH_INTERVAL_S)
            except subprocess.TimeoutExpired:
                continue
        seen.status = harness.process.returncode
    seen.changed = difference(before, dump())
    seen.changed += [
        f"{path} was made" for path in (folders.root / "pwned", project_folder() / "pwned") if path.exists()
    ]
    for path in (item for run in folders.results.glob("20*") for item in (run, *run.rglob("*"))):
        if not path.is_symlink():
            seen.files += 1
            if path.stat().st_mode & 0o077:
                seen.open_modes.append(f"{path.relative_to(folders.results)}: {path.stat().st_mode & 0o777:o}")
    return seen


def _look(harness: Harness, seen: Seen) -> None:
    seen.looks += 1
    own = objects_of(process.pid for process in harness.processes()) - objects_of([os.getpid()])
    for line in listening():
        if line.rpartition(" ")[2] not in own:
            continue
        path = Path(line.split(" ")[1])
        if path.name == STATUS_SOCKET and path.is_relative_to(harness.folders.temporary):
            seen.own_listeners.add(f"{STATUS_SOCKET} in a folder of mode {path.parent.stat().st_mode & 0o777:o}")
        else:
            seen.listeners.add(line)


def main(given: Sequence[str] | None = None) -> int:
    """The command line; exit status 1 when something was touched."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=("lab", "native"), default="lab")
    arguments = parser.parse_args(given)
    become_subreaper()
    with terminate_on_signals(), tempfile.TemporaryDirectory(prefix="safety-", dir="/var/tmp") as root:
        folders = Folders(Path(root))
        folders.make()
        seen = watch(folders, arguments.mode)
        counts = {kind: len(texts) for kind, texts in dump().items()}
        print(f"compared: {', '.join(f'{number} {kind}' for kind, number in counts.items())}")
        print(f"looked {seen.looks} times at listening sockets; {', '.join(seen.own_listeners) or 'none'} allowed")
        print(f"{seen.files} files and folders of results")
        for fault in seen.faults:
            print(f"FAULT: {fault}")
        if seen.status:
            print((folders.root / "output.log").read_text(errors="replace")[-3000:])
        print(f"{arguments.mode}: {'nothing touched' if not seen.faults else f'{len(seen.faults)} faults'}")
        return int(bool(seen.faults))


if __name__ == "__main__":
    sys.exit(main())
