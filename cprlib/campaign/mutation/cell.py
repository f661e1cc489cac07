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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

from cprlib import files
from cprlib.campaign.mutation.tests import SuiteTest
from cprlib.campaign.one_test import TestRun
from cprlib.codec import BadValue, decode, encode
from cprlib.errors import InstrumentError

CELL_FILE = "cell.json"
CELL_VERSION = 1
RAW_FILES = ("*.pcap", "reflector.json")


@dataclass(frozen=True, slots=True)
class CellRecord:
    """What is stored of a cell beside Avocado's results and the cases' evidence.

    :param build: ``good/run-1`` or ``variants/<name>``.
    :param test: id of the test's case.
    :param key: names what it was made of (:mod:`cprlib.campaign.mutation.inputs`).
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

        :returns: the folder, for :func:`cprlib.campaign.one_test.give_place`.
        :raises EnvironmentFailure: a folder cannot be made, or there is no Avocado.
        """
        tests = TestRun(self.engine, self.lab_kernel, self.started)
        ran = tests.run(self.aside / f"{record.build}/{record.test}", test.reference, parameters)
        CellRecord(
            record.build, record.test, record.key, ran.started_ns, ran.seconds, ran.lab_lost, record.changed
        ).write(ran.folder)
        return ran.folder


def compress(folder: Path) -> None:
    """Pack the raw data of a cell's cases; a whole proof has a thousand cells, and few of them are ever looked into."""
    for path in [path for name in RAW_FILES for path in folder.glob(f"cases/*/{name}")]:
        with path.open("rb") as raw, gzip.open(path.with_name(f"{path.name}.gz"), "wb", compresslevel=3) as packed:
            shutil.copyfileobj(raw, packed)
        path.unlink()
