"""A run of ``cprlib run`` in folders of its own, and its processes."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cprlib.files import CACHE_VARIABLE, cache_folder, project_folder
from cprlib.process import death_binding
from tests.robustness.processes import Process, descendants

CASE = "tests/functional/test_cpr_tap.py:CprTap.test_update_with_{}_1_queue_loses_nothing"
PARAMETERS = {"control_run": "1", "before": "0.2", "after": "0.3"}
RESULTS_NAME = "re,sults accel=none;$(touch pwned) '&"
NOT_COPIED = {"python", "trees", "lab-cores"}  # not needed by a run; locks belong to an inode
VICTIMS = {
    "avocado": ("-m cprlib.lab.avocado_main --config ",),
    "runner": ("-m cprlib.lab.task", "avocado-runner", "avocado.plugins.runners"),
}


def copy_cache(target: Path) -> None:
    """Copy the cache by hard links, so that a test can compare it and remove entries."""

    def link(source: str, copy: str) -> None:
        try:
            os.link(source, copy)
        except OSError:
            shutil.copy2(source, copy)

    def ignored(folder: str, names: list[str]) -> set[str]:
        unfinished = {name for name in names if name.startswith(".") and name.count(".") > 1 and name != ".files.json"}
        return (NOT_COPIED & set(names) if Path(folder) == cache_folder() else {".locks"}) | unfinished

    shutil.copytree(cache_folder(), target, copy_function=link, symlinks=True, ignore=ignored)


@dataclass(frozen=True, slots=True)
class Folders:
    """The folders of a session."""

    root: Path

    @property
    def cache(self) -> Path:
        """A copy of the cache."""
        return self.root / "cache"

    @property
    def temporary(self) -> Path:
        """TMPDIR."""
        return self.root / "t"

    @property
    def home(self) -> Path:
        """HOME."""
        return self.root / "home"

    @property
    def results(self) -> Path:
        """Results of all runs, with a name that must not be split or interpreted."""
        return self.root / RESULTS_NAME

    def make(self) -> None:
        """Create them and copy the cache."""
        copy_cache(self.cache)
        for folder in (self.temporary, self.home, self.results):
            folder.mkdir(mode=0o700)

    def environment(self) -> dict[str, str]:
        """Environment variables of a run in these folders."""
        return {
            **os.environ,
            CACHE_VARIABLE: str(self.cache),
            "TMPDIR": str(self.temporary),
            "HOME": str(self.home),
            "PYTHONPATH": str(project_folder()),
            "MPLCONFIGDIR": str(self.root / "matplotlib"),
            "XDG_CACHE_HOME": str(self.root / "xdg"),  # scapy keeps a cache of its own there
            "XDG_CONFIG_HOME": str(self.root / "xdg"),
        }


@dataclass(frozen=True, slots=True)
class Harness:
    """A running ``cprlib run``."""

    process: subprocess.Popen[bytes]
    folders: Folders
    known: frozenset[Path]

    def processes(self) -> list[Process]:
        """All processes of the run, orphans included."""
        return descendants(os.getpid())

    def victim(self, kind: str) -> Process | None:
        """The process to kill, if it exists.

        :param kind: ``cprlib``, ``avocado`` or ``runner``.
        """
        alive = [process for process in self.processes() if not process.zombie]
        if kind == "cprlib":
            return next((process for process in alive if process.pid == self.process.pid), None)
        return next((one for one in alive if any(words in one.command for words in VICTIMS[kind])), None)

    def results(self) -> Path | None:
        """The results folder of this run; None before it is created."""
        new = {path for path in self.folders.results.glob("20*") if path.is_dir()} - self.known
        return max(new, default=None)

    def phase(self) -> str:
        """The phase of the run, derived from its files and processes."""
        results = self.results()
        if results is None:
            return "building parameters"
        if (results / "run.json").exists():
            return "publishing"
        if self.victim("avocado") is None:
            return "making the report" if list(results.glob("avocado/job-*")) else "starting Avocado"
        return self._test_phase(results)

    def _test_phase(self, results: Path) -> str:
        case = next(iter(results.glob("avocado/job-*/test-results/*/data/cases/*")), None)
        if case is None:
            return "starting the test" if self.victim("runner") else "finding tests"
        if (case / "case.json").exists():
            return "ending Avocado"
        console = case / "console-source.log"
        if not console.exists() or b"cprlib: ready" not in console.read_bytes():
            return "booting the guest"
        return "updating" if (case / "command-target.txt").exists() else "measuring"


def command(mode: str, results: Path) -> list[str]:
    """The command line of a run of one case.

    :param mode: ``lab``, or ``native``, which then runs under TCG.
    """
    case = CASE.format("vhost" if mode == "lab" else "tap")
    parameters = PARAMETERS | ({"accelerator": "tcg"} if mode == "native" else {})
    given = [word for name, value in parameters.items() for word in ("-p", f"{name}={value}")]
    return [sys.executable, "-m", "cprlib.cli.main", "run", f"--{mode}", *given, "--out", str(results), "--", case]


@contextlib.contextmanager
def running(folders: Folders, mode: str, log: Path) -> Iterator[Harness]:
    """Start a run; it is killed if the body ends first."""
    known = frozenset(folders.results.glob("20*"))
    with log.open("ab") as output:
        process = subprocess.Popen(
            command(mode, folders.results),
            cwd=project_folder(),
            env=folders.environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=death_binding(os.getpid()),  # noqa: PLW1509 - ends with a killed test
        )
    try:
        yield Harness(process, folders, known)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
