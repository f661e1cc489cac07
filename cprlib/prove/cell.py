"""One cell of the matrix: a test on a build. Run by Avocado, stored whole or not at all, read back for the judge.

Layout of a cell's folder, which is a results folder as ``cprlib run`` makes them::

    cell.json             what this module knows of it (:class:`CellRecord`)
    cases/<id>/           evidence of the test's cases
    avocado/job-*/        Avocado's job: results.json, the test's log, lab.json, what lost labs left
    avocado.log           what Avocado said
    report.html run.json  of cells that did not pass
"""

from __future__ import annotations

import gzip
import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

from cprlib import files
from cprlib.deadline import timeout_scale
from cprlib.errors import EnvironmentFailure, InstrumentError
from cprlib.lab.engines import KERNEL_VARIABLE
from cprlib.prove.tests import SuiteTest
from cprlib.suite.avocado_run import SuiteRun, gather, run_avocado
from cprlib.verdict.codec import BadValue, decode, encode

CELL_FILE = "cell.json"
LOG_FILE = "avocado.log"
CELL_VERSION = 1
RAW_FILES = ("*.pcap", "reflector.json")
LONGEST_CELL_S = 600  # a job that has not ended by then is ended by Avocado; tests have shorter limits of their own


@dataclass(frozen=True, slots=True)
class CellRecord:
    """What is stored of a cell beside Avocado's results and the cases' evidence.

    :param build: ``good/run-1`` or ``variants/<name>``.
    :param test: id of the test's case.
    :param key: names what it was made of (:mod:`cprlib.prove.inputs`).
    :param started_ns: when Avocado was started.
    :param seconds: from then until Avocado had ended.
    :param lab_lost: labs that died under the test.
    :param changed: an input was edited while the test ran, so that the key may not be right.
    """

    build: str
    test: str
    key: str
    started_ns: int = 0
    seconds: float = 0.0
    lab_lost: int = 0
    changed: bool = False
    version: int = CELL_VERSION

    def write(self, folder: Path) -> None:
        """Write ``cell.json``."""
        files.write_text(folder / CELL_FILE, json.dumps(encode(self), indent=2) + "\n", mode=0o600)

    @classmethod
    def read(cls, folder: Path) -> CellRecord:
        """Read ``cell.json``.

        :raises InstrumentError: it is missing or broken, or of another version of this program.
        """
        path = folder / CELL_FILE
        try:
            record = decode(cls, json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, BadValue) as error:
            raise InstrumentError(f"read {path}", str(error)) from error
        if record.version != CELL_VERSION:
            raise InstrumentError(f"read {path}", f"version {record.version}, this program reads {CELL_VERSION}")
        return record


@dataclass(frozen=True, slots=True)
class CellRun:
    """How to run cells.

    :param aside: a folder for cells that are not whole yet, on the file system of the proof.
    :param engine: of the lab; None to run natively.
    :param lab_kernel: of the lab: the one that the cells' keys name, whatever is built meanwhile.
    """

    aside: Path
    engine: str | None
    lab_kernel: Path | None = None
    started: Callable[[Popen[str]], None] = lambda child: None  # noqa: ARG005

    def run(self, record: CellRecord, test: SuiteTest, parameters: Mapping[str, str]) -> Path:
        """Run a test and gather what it left, all aside.

        :returns: the folder, for :func:`store_cell`.
        :raises EnvironmentFailure: a folder cannot be made, or there is no Avocado.
        """
        folder = self.aside / f"{record.build}/{record.test}"
        shutil.rmtree(folder, ignore_errors=True)
        try:
            folder.mkdir(parents=True, mode=0o700)
        except OSError as error:
            raise EnvironmentFailure(f"make {folder}", str(error), "choose another folder with --out") from error
        suite = SuiteRun(
            results=folder,
            tests=[test.reference],
            parameters=parameters,
            engine=self.engine,
            parallel=1,
            environment={KERNEL_VARIABLE: str(self.lab_kernel)} if self.lab_kernel else {},
            extra=["--job-timeout", str(round(LONGEST_CELL_S * timeout_scale()))],
        )
        begun, begun_ns = time.monotonic(), time.time_ns()
        with (folder / LOG_FILE).open("w", encoding="utf-8") as log:
            run_avocado(suite, log, self.started)
        seconds = time.monotonic() - begun
        lost = _gather(folder)
        CellRecord(record.build, record.test, record.key, begun_ns, round(seconds, 3), lost, record.changed).write(
            folder
        )
        return folder


def _gather(folder: Path) -> int:
    """What the job left, into the places of a results folder; a job that never was is seen by the judge."""
    try:
        lost = gather(folder)
    except EnvironmentFailure:
        return 0
    for link in (folder / "avocado").glob("latest"):
        link.unlink()  # it names the folder aside
    return lost


def compress(folder: Path) -> None:
    """Pack the raw data of a cell's cases; a whole proof has a thousand cells, and few of them are ever looked into."""
    for path in [path for name in RAW_FILES for path in folder.glob(f"cases/*/{name}")]:
        with path.open("rb") as raw, gzip.open(path.with_name(f"{path.name}.gz"), "wb", compresslevel=3) as packed:
            shutil.copyfileobj(raw, packed)
        path.unlink()


def store_cell(aside: Path, final: Path) -> None:
    """Give a cell its place; an older one there is thrown away.

    :raises EnvironmentFailure: the folder cannot be written.
    """
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        if final.exists():
            shutil.rmtree(final)
        aside.rename(final)
    except OSError as error:
        raise EnvironmentFailure(f"store {final}", str(error), "choose another folder with --out") from error
