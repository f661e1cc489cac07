"""A reader's checkout, and what the documents take for granted in it: a QEMU, a test of the reader's, earlier runs."""

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
from tests.documents.otherwise import ONE

CLONE_S, SET_UP_S = 120.0, 3600.0
INTERRUPTED_S = 10.0  # to clean up after Ctrl-C
ASSIGNMENT = re.compile(r"([A-Z]+)=(\S+)")
MATRIX_OF_YOURS = re.compile(r"## A matrix of yours.*?```yaml\n(.*?)```", re.DOTALL)
OWN_TEST = ("test_update_with_ipv6_loses_nothing", "test_mine_crosses_without_loss")


@dataclass(slots=True)
class Reader:
    """Types commands in a checkout and sees what comes of them.

    :param folder: of the checkout.
    :param environment: of the commands.
    """

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def type(self, command: str, log: Path, seconds: float) -> int | None:
        """Type a command into a shell and wait for its end; it has a process group of its own, which ends with it.

        :param log: file for all that it prints.
        :param seconds: how long it may take.
        :returns: its exit status; None when it took longer and was ended.
        """
        if found := ASSIGNMENT.fullmatch(command):
            self.environment[found[1]] = found[2]
            return 0
        shell = ["bash", "-o", "pipefail", "-c", command]
        with (
            log.open("wb") as output,
            spawn(
                shell,
                purpose=f"type {command}",
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
                    wait_until_exit(child, Deadline(INTERRUPTED_S, f"the end of {command}"))
                return None

    def prepare(self, program: Path, firmware: str) -> None:
        """Lay out what the documents speak of.

        :param program: a QEMU; :param firmware: its folder.
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
        found = MATRIX_OF_YOURS.search(page)
        (self.folder / "my.yaml").write_text(found[1] if found else "", encoding="utf-8")

    def keep_two_days(self) -> None:
        """Give the first runs the names that comparing.md uses, once there are two."""
        runs = sorted(path for path in (self.folder / "results").glob("20*") if (path / "run.json").exists())
        for name, path in zip(("monday", "tuesday"), runs, strict=False):
            if not (self.folder / "results" / name).exists():
                (self.folder / "results" / name).symlink_to(path.name)


@contextlib.contextmanager
def reader() -> Iterator[Reader]:
    """A clone of the project at its commit, in the same place each time, so that its Python environment is found again.

    :raises CprlibError: it cannot be made.
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
        one = Reader(folder, environment)
        program = _set_up(one, root / "set-up.log")
        environment["PATH"] = f"{program.parent}{os.pathsep}{environment['PATH']}"
        build = [str(program), "build", "qemu"]
        said = run(build, purpose="build QEMU", cwd=folder, env=environment, seconds=SET_UP_S)
        places = dict(line.split(None, 1) for line in said.splitlines())
        one.prepare(Path(places["qemu"]), places["firmware"])
        yield one
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _set_up(one: Reader, log: Path) -> Path:
    """Path of ``cprlib``, as the set-up tells it."""
    one.type("python3 -m cprlib.bootstrap doctor", log, SET_UP_S)
    said = log.read_text(encoding="utf-8")
    found = re.search(r"^using (\S+/cprlib)$", said, re.MULTILINE)
    if found is None:
        raise EnvironmentFailure("set the reader's checkout up", "it did not say where cprlib is", details=said)
    return Path(found[1])
