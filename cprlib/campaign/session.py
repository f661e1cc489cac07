"""A session that works: its folder, its assets, the jobs that it runs, and their stored results.

A stored result has a key of what it was made from, so that a resumed session keeps it only while that is unchanged::

    results/<place>/      a job's folder (:mod:`cprlib.campaign.job`), with result.json where it has a key
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cprlib import files
from cprlib.build import store
from cprlib.build.assets import Assets, build_assets
from cprlib.build.progress import Progress
from cprlib.build.series import DEFAULT_BASE
from cprlib.campaign.job import FinishedJob, SuiteTest, gather_evidence
from cprlib.campaign.pool import Children, Pool, Strategy
from cprlib.campaign.store import Store, move_into_place, read_versioned
from cprlib.codec import dump_json
from cprlib.deadline import timeout_scale
from cprlib.errors import CprlibError, EnvironmentFailure, InstrumentError
from cprlib.files import INSTALLED_PROJECT, cache_folder, import_folder, project_folder
from cprlib.lab.avocado_run import SuiteRun, avocado_environment, run_avocado
from cprlib.lab.engines import lab_environment
from cprlib.lab.schedule import parallel_tests
from cprlib.process import spawn
from cprlib.qemu.binary import QemuBinary
from cprlib.report.environment import Environment, describe_run
from cprlib.report.results_folder import LOG_FILE

RESULTS = "results"
RESULT_FILE = "result.json"
RESULT_VERSION = 2  # of that file
REPORT_S = 120.0
JOB_TIMEOUT_S = 1500  # Avocado ends a longer job; tests have shorter limits of their own, at most 1200 s

# The code that a test runs: the package, data, the lab's first process and the helpers beside the tests. A test's own
# file is in its key. Commands and campaigns do not run in a test; equivalent mutants are for the score alone, and the
# tests that killed generated mutants earlier only for the order.
FOLDERS = ("cprlib", "fixtures", "images/lab", "tests/functional")
LEFT_OUT = (
    "cprlib/cli",
    "cprlib/campaign",
    f"cprlib/{INSTALLED_PROJECT}",
    "fixtures/equivalent-mutants.toml",
    "fixtures/generated-killers.json",
)
SUFFIXES = (".py", ".toml", ".yaml", ".json", ".c", ".h")


@dataclass(frozen=True, slots=True)
class Session:
    """What the jobs of a session have in common; used on the pool's threads.

    :param folder: of the session. :param partial: for jobs that run.
    :param assets: the QEMU, the guest, the lab's kernel.
    :param engine: of the lab; None to run natively.
    :param workers: jobs at once.
    """

    folder: Path
    partial: Path
    assets: Assets
    engine: str | None
    workers: int = 1
    children: Children = field(default_factory=Children)

    def run_all(self, strategy: Strategy) -> None:
        """Run the tasks of a strategy; errors as of :meth:`cprlib.campaign.pool.Pool.run`."""
        Pool(strategy, self.workers, self.children).run()

    def run(
        self, place: str, test: SuiteTest, parameters: Mapping[str, str], environment: Mapping[str, str] | None = None
    ) -> FinishedJob | None:
        """Run a test and gather its evidence, in the folder for jobs that run; None when it was ended from outside.

        :param place: of its result. :param environment: variables for Avocado in addition to this process's own.
        :raises EnvironmentFailure: the folder cannot be made, or there is no Avocado.
        """
        folder = self.partial / place
        shutil.rmtree(folder, ignore_errors=True)
        try:
            folder.mkdir(parents=True, mode=0o700)
        except OSError as error:
            raise EnvironmentFailure(f"make {folder}", str(error), "choose another folder with --out") from error
        added = {**lab_environment(self.assets, self.engine), **(environment or {})}
        suite = SuiteRun(
            results=folder,
            tests=[test.reference],
            parameters=parameters,
            engine=self.engine,
            parallel=1,
            environment=added,
            extra=["--job-timeout", str(round(JOB_TIMEOUT_S * timeout_scale({**os.environ, **added})))],
        )
        begun, begun_ns = time.monotonic(), time.time_ns()
        with (folder / LOG_FILE).open("w", encoding="utf-8") as log:
            run_avocado(suite, log, self.children.add)
        if self.children.stopped:
            return None
        return FinishedJob(folder, begun_ns, round(time.monotonic() - begun, 3), gather_evidence(folder))

    def report(self, folder: Path, policy: str) -> None:
        """Write report.html for a job; an error in it is in the job's log and changes no result.

        In a process of its own: pyplot is for one thread, and its memory must not count as growth of a soak.

        :param policy: its name or file.
        """
        command = [sys.executable, "-m", "cprlib.cli.main", "report", str(folder), "--policy", policy]
        with (
            contextlib.suppress(CprlibError, OSError, subprocess.TimeoutExpired),
            (folder / LOG_FILE).open("a", encoding="utf-8") as log,
            spawn(command, purpose="report on a job", env=avocado_environment(), stdout=log, stderr=log) as child,
        ):
            self.children.add(child)
            child.wait(timeout=REPORT_S)

    def run_keyed(
        self, place: str, test: SuiteTest, parameters: Mapping[str, str], **digests: str
    ) -> FinishedJob | None:
        """Run a test and write what its result is made from into the job's folder."""
        key = self.key(test, parameters, **digests)
        job = self.run(place, test, parameters)
        if job:
            changed = self.key(test, parameters, **digests) != key
            ResultRecord(key, job.lab_lost, changed).write(job.folder)
        return job

    def store(self, folder: Path, place: str) -> None:
        """Move the folder of a finished job to the results."""
        move_into_place(folder, self.final(place))

    def final(self, place: str) -> Path:
        return self.folder / RESULTS / place

    def environment(self, accelerator: str = "") -> Environment:
        """This machine, for a report.

        :param accelerator: of the guests, where parameters choose it.
        """
        return describe_run(self.engine, lab_kernel=self.assets.lab_kernel, accelerator=accelerator)

    def key(self, test: SuiteTest, parameters: Mapping[str, str], **digests: str) -> str:
        """The key of a result.

        :param parameters: of the test; the guest's files are given by paths, in which the store has a digest of them.
        :param digests: of the QEMU and of what else decides the result.
        """
        where = {"engine": self.engine or "native", "lab_kernel": _kernel_state(self.assets.lab_kernel)}
        others = "\n".join(f"{name}={value}" for name, value in sorted({**parameters, **digests, **where}.items()))
        return store.key_of(test=test.file, code=code_digest(), others=others)


@contextlib.contextmanager
def open_session(
    store: Store[Any],
    folder: Path,
    engine: str | None,
    parallel: int | None,
    progress: Progress,
    base: str = DEFAULT_BASE,
    qemu: QemuBinary | None = None,
) -> Iterator[Session]:
    """Lock a session and build what its jobs need.

    :param parallel: jobs at once; None for one per core in the lab, one natively.
    :param base, qemu: as of :func:`cprlib.build.assets.build_assets`.
    :raises UsageError: another process works on it.
    """
    with store.locked(folder) as partial:
        assets = build_assets(progress, lab=engine == "uml", base=base, qemu=qemu)
        yield Session(folder, partial, assets, engine, parallel or parallel_tests(engine))


def has_key(folder: Path, key: str) -> bool:
    """Whether a folder has a result of that key; one whose inputs were edited meanwhile has none."""
    with contextlib.suppress(InstrumentError):
        record = ResultRecord.read(folder)
        return record.key == key and not record.changed
    return False


@dataclass(frozen=True, slots=True)
class ResultRecord:
    """``result.json`` in a job's folder.

    :param key: digest of the inputs (:meth:`Session.key`).
    :param lab_lost: labs that died under the test.
    :param changed: an input was edited while the test ran, so the key may be wrong.
    """

    key: str
    lab_lost: int = 0
    changed: bool = False
    version: int = RESULT_VERSION

    def write(self, folder: Path) -> None:
        files.write_text(folder / RESULT_FILE, dump_json(self, indent=1), mode=0o600)

    @classmethod
    def read(cls, folder: Path) -> ResultRecord:
        """Read ``result.json``.

        :raises InstrumentError: it is missing, broken, or of another version of this program.
        """
        path = folder / RESULT_FILE
        try:
            return read_versioned(cls, path, RESULT_VERSION)
        except (OSError, ValueError) as error:
            raise InstrumentError(f"read {path}", str(error)) from error


def code_digest(top: Path | None = None) -> str:
    """Digest of the project's code that every test runs: cprlib, fixtures, helpers, the lab's first process.

    :param top: the checkout; this one, or the installed package, when None.
    """
    total = hashlib.sha256()
    for name, path in _code_files(top):
        total.update(f"{name}\0".encode())
        try:
            total.update(hashlib.sha256(path.read_bytes()).digest())
        except FileNotFoundError:
            continue  # removed since the listing: the digest changes either way
    return total.hexdigest()


def _code_files(top: Path | None) -> Iterable[tuple[Path, Path]]:
    """Files with their names in a checkout, also when installed."""
    for name in FOLDERS:
        root = top or (import_folder() if name == "cprlib" else project_folder())
        left_out = [root / folder for folder in LEFT_OUT]
        for path in sorted((root / name).rglob("*")):
            hidden = path.name.startswith((".", "test_")) or "__pycache__" in path.parts
            if path.suffix in SUFFIXES and not hidden and not any(path.is_relative_to(item) for item in left_out):
                yield path.relative_to(root), path


def _kernel_state(path: Path | None) -> str:
    """The lab's kernel: its path, in the store, which names it by its content; else also size and time.

    A user's own kernel may be built again in its place.
    """
    if path is None or path.is_relative_to(cache_folder()) or not path.exists():
        return str(path)
    state = path.stat()
    return f"{path} {state.st_size} {state.st_mtime_ns}"
