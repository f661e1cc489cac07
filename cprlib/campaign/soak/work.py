"""The work of a soak: runs a case in a folder aside, judges it, keeps what did not pass, and looks at the harness."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cprlib.campaign.mutation.outcome import CellOutcome, JudgedCell, Policies, judge_folder
from cprlib.campaign.mutation.tests import SuiteTest
from cprlib.campaign.one_test import TestRun
from cprlib.campaign.soak.draw import Draw
from cprlib.campaign.soak.keep import KEPT, Keep
from cprlib.campaign.soak.processes import describe, mark, marked, of_soak
from cprlib.campaign.soak.record import CaseRow, Sample
from cprlib.campaign.soak.resources import ChildrenWatch, read_resources
from cprlib.campaign.workers import Children
from cprlib.deadline import Deadline
from cprlib.errors import CprlibError, DeadlineExceeded
from cprlib.files import cache_folder
from cprlib.lab.avocado_run import avocado_environment
from cprlib.process import spawn
from cprlib.report.formatting import one_line

GONE_S = 10.0  # after the end of Avocado its labs and QEMUs are gone in so many seconds
REPORT_S = 120.0
MESSAGES, MESSAGE_LENGTH = 4, 400


@dataclass(frozen=True, slots=True)
class SoakWork:
    """See :class:`cprlib.campaign.soak.loop.Work`.

    :param folder: of the soak; its name marks the processes. :param aside: for cases that run.
    :param parameters: of Avocado, the same for every case.
    :param drawn: the draw of a number.
    :param tests: by id.
    :param kept: what came of the cases whose folders are kept, by folder.
    """

    folder: Path
    aside: Path
    session: int
    tests: Mapping[str, SuiteTest]
    parameters: Mapping[str, str]
    drawn: Callable[[int], Draw]
    policies: Policies
    policy: str
    engine: str | None
    lab_kernel: Path | None
    keep: Keep
    kept: dict[str, CellOutcome]
    children: Children
    watch: ChildrenWatch
    _storing: threading.Lock = field(default_factory=threading.Lock)

    @property
    def soak(self) -> str:
        """Mark of this soak's processes: the folder, because several may run on a machine."""
        return str(self.folder)

    def run(self, number: int) -> CaseRow | None:
        """See :meth:`cprlib.campaign.soak.loop.Work.run`."""
        drawn = self.drawn(number)
        tests = TestRun(self.engine, self.lab_kernel, self.children.add, mark(self.soak, number))
        parameters = {**self.parameters, **drawn.parameters}
        ran = tests.run(self.aside / f"{number:06d}-{drawn.test}", self.tests[drawn.test].reference, parameters)
        if self.children.stopped:
            return None
        judged = judge_folder(ran.folder, self.policies)
        row = CaseRow(
            number,
            self.session,
            drawn.test,
            drawn.parameters,
            judged.outcome,
            _messages(judged),
            ran.started_ns,
            ran.seconds,
            ran.lab_lost,
            self._left(number),
        )
        self._store(ran.folder, row)
        return row

    def _left(self, number: int) -> tuple[str, ...]:
        """Processes of a case that do not go, although it has ended."""
        with contextlib.suppress(DeadlineExceeded):
            Deadline(GONE_S, f"processes of case {number} to go").poll(
                lambda: None if marked(self.soak, number) else True, interval=0.1
            )
        return tuple(one_line(describe(pid), MESSAGE_LENGTH) for pid in marked(self.soak, number))

    def _store(self, ran: Path, row: CaseRow) -> None:
        if row.outcome in (CellOutcome.PASSED, CellOutcome.SKIPPED) and not row.left:
            shutil.rmtree(ran, ignore_errors=True)
            return
        with self._storing:
            self._report(ran)
            if self.keep.add(ran, row, self.kept):
                self.kept[row.folder] = CellOutcome.DETECTED if row.left else row.outcome

    def _report(self, folder: Path) -> None:
        """A page of the case, made by a process of its own: what drawing takes is not ours to keep."""
        command = [sys.executable, "-m", "cprlib.cli.main", "report", str(folder), "--policy", self.policy]
        with (
            contextlib.suppress(CprlibError, subprocess.TimeoutExpired),
            spawn(
                command,
                purpose="write the report of a case",
                env=avocado_environment(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            ) as child,
        ):
            self.children.add(child)
            child.wait(timeout=REPORT_S)

    def sample(self, at_s: float, cases: int) -> Sample:
        """See :meth:`cprlib.campaign.soak.loop.Work.sample`."""
        with contextlib.suppress(DeadlineExceeded):
            Deadline(GONE_S, "all processes of the soak to go").poll(
                lambda: None if of_soak(self.soak) else True, interval=0.1
            )
        values = read_resources(self.folder, self.folder / KEPT, cache_folder(), self.soak, self.watch.take())
        return Sample(self.session, round(at_s, 3), cases, values)


def _messages(judged: JudgedCell) -> tuple[str, ...]:
    shown = [one_line(text, MESSAGE_LENGTH) for text in judged.messages[:MESSAGES]]
    more = len(judged.messages) - len(shown)
    return (*shown, *([f"and {more} more"] if more else []))
