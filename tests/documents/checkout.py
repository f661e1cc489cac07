"""A clone of the project, with the files that the documents expect: a QEMU, a test of the reader, earlier runs."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cprlib.deadline import Deadline
from cprlib.errors import DeadlineExceeded, EnvironmentFailure
from cprlib.files import CACHE_VARIABLE, cache_folder, project_folder
from cprlib.process import run, spawn, wait_until_exit
from tests.documents.substitutes import ONE

CLONE_S, SET_UP_S = 120.0, 3600.0
CLEANUP_S = 10.0  # after SIGINT
ASSIGNMENT = re.compile(r"([A-Z]+)=(\S+)")
OWN_MATRIX = re.compile(r"## A matrix of your own.*?```yaml\n(.*?)```", re.DOTALL)
OWN_TEST = ("test_update_with_ipv6_loses_nothing", "test_mine_loses_nothing")


@dataclass(slots=True)
class Checkout:
    """Runs commands in a clone.

    :param folder: of the clone.
    :param environment: environment variables of the commands.
    """

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def execute(self, command: str, log: Path, seconds: float) -> int | None:
        """Run a shell command in a process group of its own and wait for its end.

        :param log: file for its output.
        :param seconds: time limit; the command is interrupted when it is exceeded.
        :returns: exit status; None after the time limit.
        """
        if found := ASSIGNMENT.fullmatch(command):
            self.environment[found[1]] = found[2]
            return 0
        shell = ["bash", "-o", "pipefail", "-c", command]
        with (
            log.open("wb") as output,
            spawn(
                shell,
                purpose=f"run {command}",
                cwd=self.folder,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            ) as child,
        ):
            try:
                return wait_until_exit(child, Deadline(seconds, command))
            except DeadlineExceeded:
                child.send_signal(signal.SIGINT)
                with contextlib.suppress(DeadlineExceeded):
                    wait_until_exit(child, Deadline(CLEANUP_S, f"the end of {command}"))
                return None

    def prepare(self, program: Path, firmware: str) -> None:
        """Create the files that the documents mention.

        :param program: path of a QEMU.
        :param firmware: folder for its option ``-L``.
        """
        home = Path(self.environment["HOME"])
        self.environment |= {"OWN": str(program), "FIRMWARE": firmware}
        for link in (
            home / "qemu" / "build" / program.name,
            self.folder / "build" / program.name,
            self.folder / program.name,
        ):
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(program)
        mine = home / "my-tests" / "test_mine.py"
        mine.parent.mkdir()
        mine.write_text((self.folder / ONE).read_text(encoding="utf-8").replace(*OWN_TEST), encoding="utf-8")
        page = (self.folder / "docs" / "matrix.md").read_text(encoding="utf-8")
        found = OWN_MATRIX.search(page)
        (self.folder / "my.yaml").write_text(found[1] if found else "", encoding="utf-8")

    def link_two_runs(self) -> None:
        """Link the first two runs to the names that comparing.md uses."""
        runs = sorted(path for path in (self.folder / "results").glob("20*") if (path / "run.json").exists())
        for name, path in zip(("monday", "tuesday"), runs, strict=False):
            if not (self.folder / "results" / name).exists():
                (self.folder / "results" / name).symlink_to(path.name)


@contextlib.contextmanager
def prepared_checkout() -> Iterator[Checkout]:
    """Clone the project at its commit and set the clone up.

    The path is always the same, so that the cached Python environment is reused.

    :raises CprlibError: cloning, setting up or building failed.
    """
    root = cache_folder() / "documents"
    shutil.rmtree(root, ignore_errors=True)
    folder, home = root / "checkout", root / "home"
    home.mkdir(parents=True)
    try:
        clone = ["git", "clone", "--quiet", str(project_folder()), str(folder)]
        run(clone, purpose="clone the project", seconds=CLONE_S)
        dropped = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV")
        environment = {name: value for name, value in os.environ.items() if name not in dropped}
        environment |= {"HOME": str(home), CACHE_VARIABLE: str(cache_folder())}
        checkout = Checkout(folder, environment)
        program = _set_up(checkout, root / "set-up.log")
        environment["PATH"] = f"{program.parent}{os.pathsep}{environment['PATH']}"
        build = [str(program), "build", "qemu"]
        output = run(build, purpose="build QEMU", cwd=folder, env=environment, seconds=SET_UP_S)
        built = dict(line.split(None, 1) for line in output.splitlines())
        checkout.prepare(Path(built["qemu"]), built["firmware"])
        yield checkout
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _set_up(checkout: Checkout, log: Path) -> Path:
    """Set up the clone; returns the path of ``cprlib`` that the set-up prints."""
    checkout.execute("python3 -m cprlib.bootstrap doctor", log, SET_UP_S)
    output = log.read_text(encoding="utf-8")
    found = re.search(r"^using (\S+/cprlib)$", output, re.MULTILINE)
    if found is None:
        raise EnvironmentFailure("set up the clone", "the output has no path of cprlib", details=output)
    return Path(found[1])
