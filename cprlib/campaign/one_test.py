"""One test as an Avocado job of its own, in a folder aside that gets its place, or is thrown away, when it is whole.

Layout of the folder, which is a results folder as ``cprlib run`` makes them::

    cases/<id>/           evidence of the test's cases
    avocado/job-*/        Avocado's job: results.json, the test's log, lab.json, what lost labs left
    avocado.log           what Avocado said
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen

from cprlib.deadline import timeout_scale
from cprlib.errors import EnvironmentFailure
from cprlib.lab.avocado_run import SuiteRun, gather, run_avocado
from cprlib.lab.engines import KERNEL_VARIABLE

LOG_FILE = "avocado.log"
LONGEST_TEST_S = 600  # a job that has not ended by then is ended by Avocado; tests have shorter limits of their own


@dataclass(frozen=True, slots=True)
class TestRun:
    """How to run tests one by one.

    :param engine: of the lab; None to run natively.
    :param lab_kernel: of the lab: the one that was looked up, whatever is built meanwhile.
    :param started: is told Avocado's process, so that another thread can end it.
    :param environment: of Avocado, beside this process's own.
    """

    __test__ = False  # no test of pytest's

    engine: str | None
    lab_kernel: Path | None = None
    started: Callable[[Popen[str]], None] = lambda child: None  # noqa: ARG005
    environment: Mapping[str, str] = field(default_factory=dict)

    def run(self, folder: Path, reference: str, parameters: Mapping[str, str]) -> RanTest:
        """Run a test and gather what it left.

        :param folder: made anew; what was there is thrown away.
        :param reference: of the test, as Avocado takes it.
        :raises EnvironmentFailure: the folder cannot be made, or there is no Avocado.
        """
        shutil.rmtree(folder, ignore_errors=True)
        try:
            folder.mkdir(parents=True, mode=0o700)
        except OSError as error:
            raise EnvironmentFailure(f"make {folder}", str(error), "choose another folder with --out") from error
        kernel = {KERNEL_VARIABLE: str(self.lab_kernel)} if self.lab_kernel else {}
        suite = SuiteRun(
            results=folder,
            tests=[reference],
            parameters=parameters,
            engine=self.engine,
            parallel=1,
            environment={**kernel, **self.environment},
            extra=["--job-timeout", str(round(LONGEST_TEST_S * timeout_scale()))],
        )
        begun, begun_ns = time.monotonic(), time.time_ns()
        with (folder / LOG_FILE).open("w", encoding="utf-8") as log:
            run_avocado(suite, log, self.started)
        return RanTest(folder, begun_ns, round(time.monotonic() - begun, 3), _gather(folder))


@dataclass(frozen=True, slots=True)
class RanTest:
    """A test that was run.

    :param started_ns: when Avocado was started.
    :param seconds: from then until Avocado had ended.
    :param lab_lost: labs that died under the test.
    """

    folder: Path
    started_ns: int
    seconds: float
    lab_lost: int


def _gather(folder: Path) -> int:
    """What the job left, into the places of a results folder; a job that never was is seen by the judge."""
    try:
        lost = gather(folder)
    except EnvironmentFailure:
        return 0
    for link in (folder / "avocado").glob("latest"):
        link.unlink()  # it names the folder aside
    return lost


def give_place(aside: Path, final: Path) -> None:
    """Give a folder its place; an older one there is thrown away.

    :raises EnvironmentFailure: the folder cannot be written.
    """
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        if final.exists():
            shutil.rmtree(final)
        aside.rename(final)
    except OSError as error:
        raise EnvironmentFailure(f"store {final}", str(error), "choose another folder with --out") from error
