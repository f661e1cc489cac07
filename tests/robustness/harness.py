"""One run of the harness under the eyes of a test: with folders of its own, and which of its processes is which."""

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
from cprlib.lab.runner_supervision import bound_to_this_process
from tests.robustness.processes import Process, descendants

CASE = "tests/functional/test_cpr_tap.py:CprTap.test_{}_1_queue_crosses_without_loss"
PARAMETERS = {"control_run": "1", "before": "0.2", "after": "0.3"}
RESULTS_NAME = "re,sults accel=none;$(touch pwned) '&"
NOT_COPIED = {"python", "trees", "lab-cores"}  # of the cache: what no run needs; and locks, which are an inode's
VICTIMS = {
    "avocado": ("-m avocado ",),
    "runner": ("-m cprlib.lab.task", "avocado-runner", "avocado.plugins.runners"),
}


def copy_cache(target: Path) -> None:
    """The user's cache once more, by hard links, so that a test can look at it whole and take entries away."""

    def link(source: str, copy: str) -> None:
        try:
            os.link(source, copy)
        except OSError:
            shutil.copy2(source, copy)

    def left_out(folder: str, names: list[str]) -> set[str]:
        made = {name for name in names if name.startswith(".") and name.count(".") > 1 and name != ".files.json"}
        return (NOT_COPIED & set(names) if Path(folder) == cache_folder() else {".locks"}) | made

    shutil.copytree(cache_folder(), target, copy_function=link, symlinks=True, ignore=left_out)


@dataclass(frozen=True, slots=True)
class Folders:
    """Folders of a session of runs, all below one."""

    root: Path

    @property
    def cache(self) -> Path:
        """Its cache, a copy."""
        return self.root / "cache"

    @property
    def temporary(self) -> Path:
        """Its TMPDIR."""
        return self.root / "t"

    @property
    def home(self) -> Path:
        """Its HOME."""
        return self.root / "home"

    @property
    def results(self) -> Path:
        """Results of all runs, under a name that nothing may take for more than one."""
        return self.root / RESULTS_NAME

    def make(self) -> None:
        """Make them, and fill the cache."""
        copy_cache(self.cache)
        for folder in (self.temporary, self.home, self.results):
            folder.mkdir(mode=0o700)

    def environment(self) -> dict[str, str]:
        """Of a run in these folders."""
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
        """All processes of the run that there are now, also those that lost their parent."""
        return descendants(os.getpid())

    def victim(self, kind: str) -> Process | None:
        """The process that a kill is meant for, if there is one now.

        :param kind: ``cprlib``, ``avocado`` or ``runner``.
        """
        alive = [process for process in self.processes() if process.state != "Z"]
        if kind == "cprlib":
            return next((process for process in alive if process.pid == self.process.pid), None)
        return next((one for one in alive if any(words in one.command for words in VICTIMS[kind])), None)

    def results(self) -> Path | None:
        """The results folder of this run, once it is made."""
        new = {path for path in self.folders.results.glob("20*") if path.is_dir()} - self.known
        return max(new, default=None)

    def phase(self) -> str:
        """How far the run has come, by what there is to see of it."""
        results = self.results()
        if results is None:
            return "building parameters"
        if (results / "run.json").exists():
            return "publishing"
        if self.victim("avocado") is None:
            return "making the report" if list(results.glob("avocado/job-*")) else "starting Avocado"
        return self._phase_of_the_test(results)

    def _phase_of_the_test(self, results: Path) -> str:
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
    """Start a run; it is killed when the body ends before it."""
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
            preexec_fn=bound_to_this_process(),  # noqa: PLW1509 - a test that is killed leaves nothing either
        )
    try:
        yield Harness(process, folders, known)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
