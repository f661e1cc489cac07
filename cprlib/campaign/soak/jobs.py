"""The jobs of a soak: run a case, keep its folder when it did not pass, sample the harness."""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cprlib.campaign.job import SuiteTest
from cprlib.campaign.outcome import WITHOUT_ALARM, JobOutcome, JudgedJob, Policies, judge_folder
from cprlib.campaign.session import Session
from cprlib.campaign.soak.draw import draw
from cprlib.campaign.soak.resources import (
    MIB,
    ChildrenWatch,
    describe,
    disk_used,
    mark,
    marked,
    of_soak,
    read_resources,
)
from cprlib.campaign.soak.result import CASES_FILE, KEPT, ResourceSample, SoakCase, SoakRequest
from cprlib.campaign.store import move_into_place
from cprlib.deadline import Deadline
from cprlib.errors import DeadlineExceeded
from cprlib.files import cache_folder
from cprlib.lab.engines import asset_parameters
from cprlib.report.formatting import one_line
from cprlib.words import first_of

GONE_S = 10.0  # time for the labs and QEMUs of a case to end after Avocado
MESSAGES, MESSAGE_LENGTH = 4, 400
PRIORITY = {JobOutcome.FAILED: 3, JobOutcome.CRASHED: 2, JobOutcome.INCONCLUSIVE: 1}  # of a folder, to be kept


class KeptFolders:
    """Folders of cases that did not pass, within limits; a failure replaces a crash or an inconclusive case.

    :param folder: of the soak.
    :param most: folders. :param most_mib: size of all together.
    :param cases: that are known already.
    """

    def __init__(self, folder: Path, most: int, most_mib: int, cases: Iterable[SoakCase] = ()) -> None:
        self._folder = folder
        self._most = most
        self._most_bytes = most_mib * MIB
        self._priorities = {case.folder: PRIORITY.get(case.worst, 0) for case in cases}

    def add(self, temporary: Path, case: SoakCase) -> bool:
        """Keep the folder of a case, or delete it.

        :param temporary: where it is.
        :returns: whether it is kept.
        :raises EnvironmentFailure: it cannot be renamed.
        """
        priority, size = PRIORITY.get(case.worst, 0), disk_used(temporary)
        sizes = {path: disk_used(path) for path in sorted((self._folder / KEPT).glob("*/"))}

        def full(there: Mapping[Path, int]) -> bool:
            return len(there) >= self._most or sum(there.values()) + size > self._most_bytes

        lasting = {path: used for path, used in sizes.items() if self._priority(path) >= priority}
        if not priority or full(lasting):  # nothing is deleted in vain
            shutil.rmtree(temporary, ignore_errors=True)
            return False
        # the least important goes first, and of those the newest: the first of its kind says most
        replaceable = sorted(sizes.keys() - lasting.keys(), key=lambda path: (-self._priority(path), path.name))
        while full(sizes):
            path = replaceable.pop()
            del sizes[path]
            shutil.rmtree(path, ignore_errors=True)
        move_into_place(temporary, self._folder / case.folder)
        self._priorities[case.folder] = priority
        return True

    def _priority(self, path: Path) -> int:
        return self._priorities.get(str(path.relative_to(self._folder)), 0)  # 0: the case was killed and runs again


@dataclass(frozen=True, slots=True)
class SoakJobs:
    """Runs cases and samples the harness; called on the pool's threads.

    :param session: its folder's path marks the processes, because several soaks may run on a machine.
    :param number: of this session, from 0.
    :param tests: by id.
    """

    session: Session
    request: SoakRequest
    number: int
    tests: Mapping[str, SuiteTest]
    policies: Policies
    kept: KeptFolders
    watch: ChildrenWatch
    _storing: threading.Lock = field(default_factory=threading.Lock)

    def run(self, number: int) -> SoakCase | None:
        """Run the case of that number; None when it was ended from outside and has to run again."""
        soak = str(self.session.folder)
        test, drawn = draw(self.request.seed, number, self.request.tests, self.request.choices)
        shared = asset_parameters(self.session.assets, self.request.engine, self.request.policy)
        parameters = {**shared, **drawn}
        place = f"{number:06d}-{test}"
        job = self.session.run(place, self.tests[test], parameters, mark(soak, number))
        if job is None:
            return None
        judged = judge_folder(job.folder, self.policies)
        case = SoakCase(
            number,
            self.number,
            test,
            drawn,
            judged.outcome,
            _messages(judged),
            job.started_ns,
            job.seconds,
            job.lab_lost,
            self._left(soak, number),
        )
        if case.worst in WITHOUT_ALARM:
            shutil.rmtree(job.folder, ignore_errors=True)
        else:
            with self._storing:
                self.session.report(job.folder, self.request.policy)
                self.kept.add(job.folder, case)
        return case

    def _left(self, soak: str, number: int) -> tuple[str, ...]:
        with contextlib.suppress(DeadlineExceeded):
            Deadline(GONE_S, f"end the processes of case {number}").poll(lambda: not marked(soak, number), interval=0.1)
        return tuple(one_line(describe(pid), MESSAGE_LENGTH) for pid in marked(soak, number))

    def sample(self, at_s: float, cases: int) -> ResourceSample:
        """Sample the harness; no case runs."""
        folder, soak = self.session.folder, str(self.session.folder)
        with contextlib.suppress(DeadlineExceeded):
            Deadline(GONE_S, "end all processes of the soak").poll(lambda: not of_soak(soak), interval=0.1)
        values = read_resources(folder, (folder / KEPT, folder / CASES_FILE), cache_folder(), soak, self.watch.take())
        return ResourceSample(self.number, round(at_s, 3), cases, values)


def _messages(judged: JudgedJob) -> tuple[str, ...]:
    return tuple(first_of([one_line(text, MESSAGE_LENGTH) for text in judged.messages], MESSAGES))
