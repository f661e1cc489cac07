"""A soak from the wish to the page: assets, a session of cases, the result."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cprlib.build.assets import build_assets
from cprlib.build.progress import Progress
from cprlib.campaign.mutation.outcome import CellOutcome, Policies
from cprlib.campaign.mutation.tests import SuiteTest
from cprlib.campaign.soak.draw import draw
from cprlib.campaign.soak.keep import Keep
from cprlib.campaign.soak.loop import Loop
from cprlib.campaign.soak.record import WISH_FILE, WISH_VERSION, Past, Wanted, read_past
from cprlib.campaign.soak.recorder import Recorder
from cprlib.campaign.soak.resources import ChildrenWatch
from cprlib.campaign.soak.result import SoakResult
from cprlib.campaign.soak.soak_html import write_soak_html
from cprlib.campaign.soak.work import SoakWork
from cprlib.campaign.work_folder import at_work, begin_work, latest_work, read_wish
from cprlib.campaign.workers import Children
from cprlib.errors import UsageError
from cprlib.lab.backend import asset_parameters
from cprlib.qemu.binary import QemuBinary
from cprlib.report.environment import describe_environment
from cprlib.verdict.policy_file import load_policy

RESTS = 40  # looks at the harness in a session, as far as cases leave room
SHORTEST_REST_S, LONGEST_REST_S = 15.0, 120.0


def new_soak(base: Path, wanted: Wanted) -> Path:
    """Make the folder of a soak, named by the UTC time.

    :raises EnvironmentFailure: it cannot be made.
    """
    return begin_work(base, WISH_FILE, wanted)


def latest_soak(base: Path) -> Path:
    """The folder of the soak that was begun last.

    :raises UsageError: there is none.
    """
    return latest_work(base, WISH_FILE, "a soak")


def read_wanted(folder: Path) -> Wanted:
    """What a soak was asked for.

    :raises UsageError: its file is broken or of another version of this program.
    """
    return read_wish(Wanted, folder, WISH_FILE, WISH_VERSION, "start a soak without --resume")


def seconds_left(folder: Path, wanted: Wanted, hours: float | None) -> float:
    """How long a session is to work.

    :param hours: asked for now; None for what is left of what was asked for first.
    :raises UsageError: nothing is left, or the soak's file is broken.
    """
    if hours is not None:
        return hours * 3600
    left = wanted.hours * 3600 - read_past(folder).seconds
    if left <= 0:
        raise UsageError(f"resume {folder}", f"its {wanted.hours:g} hours are over", "give --hours for more")
    return left


def rest_seconds(seconds: float) -> float:
    """Time between two looks at the harness in a session of that length."""
    return min(max(seconds / RESTS, SHORTEST_REST_S), LONGEST_REST_S)


def missing_numbers(past: Past) -> Iterator[int]:
    """Numbers of the cases that were not run yet, without an end: those that were cut off come first."""
    done = {row.number for row in past.cases}
    return (number for number in itertools.count(1) if number not in done)


def soak(
    folder: Path,
    wanted: Wanted,
    tests: Sequence[SuiteTest],
    seconds: float,
    *,
    parallel: int | None,
    command: str,
    progress: Progress,
    say: Callable[[str], None],
    show: Callable[[SoakResult], None],
) -> SoakResult:
    """Run one session of a soak and write its result.

    :param folder: of the soak.
    :param tests: of the suite.
    :param seconds: after which no case is begun.
    :param parallel: tests at once; None for one per core in the lab, one natively.
    :param command: the command line of this session.
    :param say: takes lines of progress.
    :param show: takes the result, written already; also of a session that was cut off, before that is passed on.
    :raises CprlibError: what keeps the soak from going on; what was run stays.
    """
    known = _known(wanted, tests)
    policy = load_policy(wanted.policy)
    workers = parallel or (len(os.sched_getaffinity(0)) if wanted.engine else 1)
    with at_work(folder, "cprlib soak") as aside:
        past = read_past(folder)
        brought = QemuBinary(Path(wanted.qemu), Path(wanted.firmware) if wanted.firmware else None)
        assets = build_assets(
            progress, lab=wanted.engine is not None, qemu=brought if wanted.qemu else None, base=wanted.base
        )
        environment = describe_environment(mode="lab" if wanted.engine else "native", engine=wanted.engine or "")
        recorder = Recorder(SoakResult(folder, wanted, past, environment, command=command), seconds, say)
        children = Children()
        kept = {row.folder: CellOutcome.DETECTED if row.left else row.outcome for row in past.cases}
        with ChildrenWatch() as watch:
            work = SoakWork(
                folder,
                aside,
                len(past.sessions),
                known,
                asset_parameters(assets, wanted.engine, wanted.policy),
                lambda number: draw(wanted.seed, number, wanted.tests, wanted.choices),
                Policies(policy, policy),
                wanted.policy,
                wanted.engine,
                assets.lab_kernel,
                Keep(folder, wanted.keep, wanted.keep_mib),
                kept,
                children,
                watch,
            )
            loop = Loop(
                missing_numbers(past),
                work,
                recorder,
                children,
                workers=workers,
                seconds=seconds,
                rest_s=rest_seconds(seconds),
                before_s=past.seconds,
                cases=len(past.cases),
            )
            state = "interrupted"
            try:
                loop.run()
                state = "ended"
            finally:
                result = recorder.close(state)
                write_soak_html(result)
                show(result)
    return result


def _known(wanted: Wanted, tests: Sequence[SuiteTest]) -> dict[str, SuiteTest]:
    """The tests of a soak by their ids.

    :raises UsageError: the suite has one no more: other tests would be drawn than before.
    """
    known = {test.id: test for test in tests}
    gone = [name for name in wanted.tests if name not in known]
    if gone:
        raise UsageError("go on with the soak", f"the suite has no test {gone[0]!r} any more", "start another one")
    return known
