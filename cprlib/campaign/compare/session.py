"""A comparison session: its request, its progress, its arms, and the jobs that run its guests.

Its folder (:mod:`cprlib.campaign.store`) also has::

    state.json            the rounds so far (:class:`CompareState`)
    results/a/round-1/<test>/      a job's folder (:mod:`cprlib.campaign.job`); arms: a, b, a-again, a-to-b
    compare.json compare.html compare.txt
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cprlib import files
from cprlib.build.assets import Assets
from cprlib.campaign.compare import MIN_EFFECT, Effect
from cprlib.campaign.compare.comparison import Round
from cprlib.campaign.compare.guest import GuestResult, comparison_policy, guest_result
from cprlib.campaign.job import SuiteTest, compress, find_tests
from cprlib.campaign.session import Session
from cprlib.campaign.store import STORE_VERSION, Store
from cprlib.codec import BadValue, dump_json, load_json
from cprlib.errors import UsageError
from cprlib.lab.engines import asset_parameters, lab_parameters
from cprlib.qemu.binary import QemuBinary, file_digest
from cprlib.report.build_report import judge_cases
from cprlib.verdict.policy import Policy

STATE_FILE = "state.json"
RESULT_FILE = "compare.json"  # written last
A, B, A_CONTROL, A_TO_B = "a", "b", "a-again", "a-to-b"
UPDATES_CASE, A_TO_B_CASE = "chain-of-updates-loses-nothing", "update-to-another-base-loses-nothing"
DEFAULTS = {"chain": "4", "rate": "500"}
"""Few updates of many guests, because guests differ more than updates; the rate leaves a slow machine some room."""


@dataclass(frozen=True, slots=True)
class CompareRequest:
    """What a comparison covers; paths are absolute.

    :param a: None for the project's own build on :attr:`base`.
    :param budget: minutes for all rounds.
    :param min_effect: a part of A.
    :param noise: also run A against A.
    :param a_to_b: also update from A to B.
    :param whole: use the whole budget, also when everything is decided.
    :param engine: of the lab; None to run natively.
    :param seed: of the random order.
    :param tests: ids of cases. :param parameters: of the tests, by name.
    """

    b: QemuBinary
    a: QemuBinary | None = None
    base: str = ""
    budget: float = 10.0
    min_effect: float = MIN_EFFECT
    noise: bool = False
    a_to_b: bool = True
    whole: bool = False
    policy: str = "default"
    engine: str | None = None
    seed: int = 0
    tests: tuple[str, ...] = (UPDATES_CASE,)
    parameters: Mapping[str, str] | None = None
    command: str = ""
    started_ns: int = 0
    version: int = STORE_VERSION

    @property
    def effect(self) -> Effect:
        return Effect(self.min_effect)

    @property
    def used_parameters(self) -> Mapping[str, str]:
        """The defaults of a comparison, changed by the lab engine's, then by the given ones."""
        return {**DEFAULTS, **lab_parameters(self.engine), **(self.parameters or {})}


STORE = Store("compare", CompareRequest, RESULT_FILE)


@dataclass(frozen=True, slots=True)
class CompareState:
    """The progress of a comparison. The alpha that is spent stays spent when it is resumed.

    :param qemus: sha256 of A and B.
    :param analyses: rounds after which there was an analysis, each with the share of alpha that it used.
    :param elapsed_s: of the budget.
    :param ended: no round is left to run.
    :param inputs: digests of what the jobs of each arm are made of, beside the binaries.
    """

    qemus: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    rounds: tuple[Round, ...] = ()
    analyses: tuple[tuple[int, float], ...] = ()
    elapsed_s: float = 0.0
    ended: bool = False

    def write(self, folder: Path) -> None:
        """Write ``state.json``.

        :raises EnvironmentFailure: the folder cannot be written.
        """
        files.write_text(folder / STATE_FILE, dump_json(self), mode=0o600)


def read_state(folder: Path) -> CompareState:
    """The progress so far; nothing before the end of the first round.

    :raises UsageError: the file is broken, or the comparison has ended and its result is written.
    """
    path = folder / STATE_FILE
    try:
        state = load_json(CompareState, path.read_bytes()) if path.exists() else CompareState()
    except (OSError, BadValue) as error:
        raise UsageError(f"read {path}", str(error), "start cprlib compare without --resume") from error
    if state.ended and (folder / RESULT_FILE).exists():
        happened = "it has ended: its budget is used up, or everything is decided"
        raise UsageError(f"resume {folder}", happened, "start another one")
    return state


@dataclass(frozen=True, slots=True)
class Arm:
    """One of the things that are compared.

    :param name: of its folder: ``a``, ``b``, ``a-again``, ``a-to-b``.
    :param parameters: Avocado's, with its QEMU.
    """

    name: str
    parameters: Mapping[str, str]
    tests: tuple[SuiteTest, ...]


def make_arms(assets: Assets, request: CompareRequest, tests: Sequence[SuiteTest]) -> tuple[Arm, ...]:
    """The arms of a comparison; equal QEMUs have no update from A to B.

    :param assets: with A.
    :param tests: of the suite.
    :raises UsageError: the suite lacks a case.
    """
    measured = find_measured(request.tests, tests)
    given = [
        {**asset_parameters(assets, request.engine, request.policy, qemu=qemu), **request.used_parameters}
        for qemu in (assets.qemu, request.b)
    ]
    arms = [Arm(A, given[0], measured), Arm(B, given[1], measured)]
    if request.noise:
        arms.append(Arm(A_CONTROL, given[0], measured))
    if request.a_to_b and file_digest(assets.qemu.path) != file_digest(request.b.path):
        target = request.b.parameters("target_")
        arms.append(Arm(A_TO_B, {**given[0], **target}, find_measured((A_TO_B_CASE,), tests)))
    return tuple(arms)


def find_measured(names: Sequence[str], tests: Sequence[SuiteTest]) -> tuple[SuiteTest, ...]:
    """The cases to measure.

    :raises UsageError: the suite lacks one.
    """
    return find_tests(names, tests, f"measure {', '.join(names)}")


@dataclass(frozen=True, slots=True)
class GuestJobs:
    """Runs guests and reads them back; called on the pool's threads."""

    session: Session
    policy: Policy

    def run(self, number: int, arm: Arm, test: SuiteTest) -> bool:
        """Run and store one guest of a round; False when it was ended from outside."""
        place = _place(number, arm, test)
        job = self.session.run(place, test, arm.parameters)
        if job:
            compress(job.folder)
            self.session.store(job.folder, place)
        return job is not None

    def read(self, number: int, arm: Arm, test: SuiteTest) -> GuestResult:
        place = self.session.final(_place(number, arm, test))
        judged = judge_cases(place, comparison_policy(self.policy))
        if not judged:
            problem = "avocado-test: it left no case"
            return GuestResult(test.id, 0, {}, {}, {}, problems=(problem,), folder=self._link(place))
        case = max(judged, key=lambda item: item.evidence.updates or 0)
        guest = guest_result(case, self._link(place / "cases" / case.evidence.id))
        return replace(guest, case=test.id)  # a test that died has no case with its own name

    def _link(self, folder: Path) -> str:
        return str(folder.relative_to(self.session.folder))


def _place(number: int, arm: Arm, test: SuiteTest) -> str:
    return f"{arm.name}/round-{number}/{test.id}"
