"""The work of a proof: builds variants, runs cells in labs, and knows which stored cells are good still."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cprlib.build import store
from cprlib.build.assets import Assets
from cprlib.build.mutants import build_mutant
from cprlib.build.progress import LineProgress
from cprlib.campaign.mutation.cell import CellRecord, CellRun, compress
from cprlib.campaign.mutation.inputs import cell_key, code_digest
from cprlib.campaign.mutation.outcome import CellOutcome, JudgedCell, Policies, judge_folder
from cprlib.campaign.mutation.pool import BuiltRow, PlannedRow
from cprlib.campaign.mutation.proof import CELLS
from cprlib.campaign.mutation.tests import SuiteTest
from cprlib.campaign.one_test import LOG_FILE, give_place
from cprlib.campaign.workers import Children
from cprlib.errors import CprlibError, InstrumentError
from cprlib.lab.backend import asset_parameters
from cprlib.report.pipeline import build_report

BUILDS_LOG = "builds.log"
USUAL_POLICY = "default"


@dataclass(frozen=True, slots=True)
class RealWork:
    """See :class:`cprlib.campaign.mutation.pool.Work`.

    :param folder: of the proof.
    :param aside: for cells that are not whole.
    :param assets: the good build, the guest, the lab's kernel.
    """

    folder: Path
    aside: Path
    assets: Assets
    base: str
    engine: str | None
    policies: Policies
    children: Children
    _drawing: threading.Lock = field(default_factory=threading.Lock)

    def build(self, row: PlannedRow) -> BuiltRow:
        """See :meth:`cprlib.campaign.mutation.pool.Work.build`."""
        qemu = self.assets.qemu
        if row.build.variant:
            with (self.folder / BUILDS_LOG).open("a", encoding="utf-8") as log:
                qemu = build_mutant(row.build.variant, self.base, LineProgress(log))
        with qemu.path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return BuiltRow(qemu, digest, store.key_of(firmware=qemu.firmware))

    def keep(self, row: PlannedRow, built: BuiltRow, test: SuiteTest) -> bool:
        """See :meth:`cprlib.campaign.mutation.pool.Work.keep`."""
        try:
            record = CellRecord.read(self._final(row, test))
        except InstrumentError:
            return False
        return record.key == self._key(row, built, test) and not record.changed

    def run(self, row: PlannedRow, built: BuiltRow, test: SuiteTest) -> JudgedCell | None:
        """See :meth:`cprlib.campaign.mutation.pool.Work.run`."""
        key = self._key(row, built, test)
        record = CellRecord(row.build.folder, test.id, key)
        cells = CellRun(self.aside, self.engine, self.assets.lab_kernel, self.children.add)
        folder = cells.run(record, test, self._parameters(built))
        if self.children.stopped:
            return None
        record = CellRecord.read(folder)
        if self._key(row, built, test) != key:
            CellRecord(
                record.build, record.test, key, record.started_ns, record.seconds, record.lab_lost, changed=True
            ).write(folder)
        judged = judge_folder(folder, self.policies)
        if judged.outcome not in (CellOutcome.PASSED, CellOutcome.SKIPPED):
            self._report(folder, test)
        else:
            compress(folder)
        give_place(folder, self._final(row, test))
        return judged

    def _report(self, folder: Path, test: SuiteTest) -> None:
        """A page of the cell, to read why; a proof does not fail for want of it."""
        try:
            with self._drawing:
                build_report(folder, self.policies.usual, command=f"cprlib prove: {test.id}")
        except (CprlibError, OSError, ValueError) as error:
            with (folder / LOG_FILE).open("a", encoding="utf-8") as log:
                log.write(f"\nno report: {json.dumps(str(error))}\n")

    def _final(self, row: PlannedRow, test: SuiteTest) -> Path:
        return self.folder / CELLS / row.build.folder / test.id

    def _parameters(self, built: BuiltRow) -> Mapping[str, str]:
        return asset_parameters(self.assets, self.engine, USUAL_POLICY, qemu=built.qemu)

    def _key(self, row: PlannedRow, built: BuiltRow, test: SuiteTest) -> str:
        place = {"qemu": built.sha256, "firmware": built.firmware, "lab_kernel": str(self.assets.lab_kernel)}
        others = {**self._parameters(built), **place, "engine": self.engine or "native", "run": str(row.build.run)}
        return cell_key(test.file, code_digest(), others)
