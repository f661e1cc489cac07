"""Run one case and check the host: no change of its network, no listening socket, no file readable by others.

::

    python -m tests.robustness.safety --mode lab
    python -m tests.robustness.safety --mode native      # under TCG; root and /dev/net/tun

The network configuration before and after the run is compared, the listening sockets of its processes are checked
throughout, and so are the modes of all files that it writes.
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
STATUS_SOCKET = ".status_server.sock"  # of Avocado, in a private folder: the only allowed listener


@dataclass(slots=True)
class Observation:
    """What was observed of one run.

    :param samples: how often its sockets were checked.
    :param listeners: its listening sockets in the host's namespace, except Avocado's status socket.
    :param status_sockets: Avocado's status sockets, with the modes of their folders.
    """

    status: int = -1
    samples: int = 0
    listeners: set[str] = field(default_factory=set)
    status_sockets: set[str] = field(default_factory=set)
    changed: list[str] = field(default_factory=list)
    open_modes: list[str] = field(default_factory=list)
    files: int = 0

    @property
    def faults(self) -> list[str]:
        """All violations."""
        bad_status = [f"exit status {self.status}"] if self.status else []
        return [*bad_status, *sorted(self.listeners), *self.changed, *self.open_modes]


def watch(folders: Folders, mode: str) -> Observation:
    """Run a case and observe it."""
    observed = Observation()
    before = dump()
    with running(folders, mode, folders.root / "output.log") as harness:
        while harness.process.poll() is None:
            _sample(harness, observed)
            try:
                harness.process.wait(timeout=WATCH_INTERVAL_S)
            except subprocess.TimeoutExpired:
                continue
        observed.status = harness.process.returncode
    observed.changed = difference(before, dump())
    observed.changed += [
        f"{path} was created" for path in (folders.root / "pwned", project_folder() / "pwned") if path.exists()
    ]
    for path in (item for run in folders.results.glob("20*") for item in (run, *run.rglob("*"))):
        if not path.is_symlink():
            observed.files += 1
            if path.stat().st_mode & 0o077:
                observed.open_modes.append(f"{path.relative_to(folders.results)}: {path.stat().st_mode & 0o777:o}")
    return observed


def _sample(harness: Harness, observed: Observation) -> None:
    observed.samples += 1
    own = objects_of(process.pid for process in harness.processes()) - objects_of([os.getpid()])
    for line in listening():
        if line.rpartition(" ")[2] not in own:
            continue
        path = Path(line.split(" ")[1])
        if path.name == STATUS_SOCKET and path.is_relative_to(harness.folders.temporary):
            observed.status_sockets.add(f"{STATUS_SOCKET} in a folder of mode {path.parent.stat().st_mode & 0o777:o}")
        else:
            observed.listeners.add(line)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; exit status 1 if something was changed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=("lab", "native"), default="lab")
    arguments = parser.parse_args(argv)
    become_subreaper()
    with terminate_on_signals(), tempfile.TemporaryDirectory(prefix="safety-", dir="/var/tmp") as root:
        folders = Folders(Path(root))
        folders.make()
        observed = watch(folders, arguments.mode)
        counts = {kind: len(texts) for kind, texts in dump().items()}
        print(f"compared: {', '.join(f'{number} {kind}' for kind, number in counts.items())}")
        allowed = ", ".join(observed.status_sockets) or "none"
        print(f"listening sockets checked {observed.samples} times; allowed: {allowed}")
        print(f"{observed.files} files and folders of results")
        for fault in observed.faults:
            print(f"FAULT: {fault}")
        if observed.status:
            print((folders.root / "output.log").read_text(errors="replace")[-3000:])
        print(f"{arguments.mode}: {'nothing changed' if not observed.faults else f'{len(observed.faults)} faults'}")
        return int(bool(observed.faults))


if __name__ == "__main__":
    sys.exit(main())
