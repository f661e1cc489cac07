"""A comparison: both sides, their guests, the decision, and the exit status; also that of two saved results."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cprlib.campaign.compare.decide import decide
from cprlib.campaign.compare.decision import Change, Decision, Effect, Sample
from cprlib.campaign.compare.guest import GuestResult, read_guests
from cprlib.campaign.compare.statistics import SINGLE_ANALYSIS, Analysis
from cprlib.errors import ExitStatus, UsageError
from cprlib.report.environment import Environment
from cprlib.verdict.policy import Policy

WORDS = {
    Change.REGRESS: "REGRESSION",
    Change.IMPROVE: "NO REGRESSION, IMPROVED",
    Change.SAME: "NO REGRESSION",
    Change.UNDECIDED: "UNDECIDED",
}
STATUS = {
    Change.REGRESS: ExitStatus.FAIL,
    Change.IMPROVE: ExitStatus.PASS,
    Change.SAME: ExitStatus.PASS,
    Change.UNDECIDED: ExitStatus.INCONCLUSIVE,
}


@dataclass(frozen=True, slots=True)
class Side:
    """A or B.

    :param label: path of a QEMU, of saved results, or of a baseline.
    """

    label: str
    version: str = ""
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Round:
    """One round: each case once on each arm.

    :param number: from 1.
    :param order: arm and case in the order of their start.
    :param guests: of each arm, in the order of its tests.
    :param started_ns: CLOCK_REALTIME.
    """

    number: int
    order: tuple[tuple[str, str], ...]
    guests: Mapping[str, tuple[GuestResult, ...]]
    seconds: float
    started_ns: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """The result of a comparison.

    :param kind: ``session`` (A and B in turn), ``saved`` (two results folders) or ``baseline``.
    :param samples: all guests, by case.
    :param analysis: the last one, which decided. :param analyses: rounds after which there was one.
    :param control: A against A in the same session; None when it was not requested.
    :param updates_a_to_b: guests that were updated from A to B.
    :param budget_s: seconds that the rounds might use.
    :param problems: why nothing can be decided.
    :param folder: start of relative links; None when nothing is saved.
    """

    kind: str
    a: Side
    b: Side
    samples: tuple[Sample, ...]
    decision: Decision
    analysis: Analysis
    effect: Effect
    policy: str
    environment: Environment
    analyses: tuple[int, ...] = ()
    rounds: tuple[Round, ...] = ()
    control: Decision | None = None
    updates_a_to_b: tuple[GuestResult, ...] = ()
    budget_s: float | None = None
    seed: int | None = None
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    command: str = ""
    started_ns: int = 0
    finished_ns: int = 0
    folder: Path | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)

    @property
    def a_to_b_failures(self) -> tuple[str, ...]:
        """What the policy refuses in updates from A to B."""
        texts = [f"{item.about}: {item.text}" for guest in self.updates_a_to_b for item in guest.failures]
        return tuple(f"update from A to B: {text}" for text in dict.fromkeys(texts))

    @property
    def regressions(self) -> tuple[str, ...]:
        """Each in a few words."""
        return (*self.decision.regressions, *self.a_to_b_failures)

    @property
    def all_problems(self) -> tuple[str, ...]:
        """Why nothing is decided although there are figures."""
        return (*self.problems, *self.decision.problems, *self._unsteady())

    def _unsteady(self) -> tuple[str, ...]:
        """Metrics in which A differs from itself, by the machine alone."""
        if self.control is None:
            return ()
        moved = [item for item in self.control.durations if item.change in (Change.REGRESS, Change.IMPROVE)]
        return tuple(f"A against A differs in {item.metric.label}: the machine is too unsteady" for item in moved)

    @property
    def change(self) -> Change:
        """The verdict. A refusal is no matter of noise; durations say nothing when A differs from itself."""
        if self.a_to_b_failures or any(not item.also_a for item in self.decision.refusals):
            return Change.REGRESS
        return Change.UNDECIDED if self.problems or self._unsteady() else self.decision.change

    @property
    def exit_status(self) -> ExitStatus:
        """0 no regression, 1 regression, 3 undecided."""
        return STATUS[self.change]

    @property
    def reason(self) -> str:
        """The reason of the verdict in a line."""
        match self.change:
            case Change.REGRESS:
                more = f"; and {len(self.regressions) - 4} more" if self.regressions[4:] else ""
                return "; ".join(self.regressions[:4]) + more
            case Change.UNDECIDED:
                if self.all_problems:
                    return "; ".join(self.all_problems[:3])
                return f"undecided: {', '.join(self.decision.undecided) or 'no valid guest'}"
            case _:
                better = [item for item in self.decision.durations if item.change == Change.IMPROVE]
                faster = f"shorter: {', '.join(item.metric.label for item in better)}; " if better else ""
                return f"{faster}no difference of {100 * self.effect.ratio:.0f} % or more, nothing lost"


def compare_saved(
    a: Path, b: Path, policy: Policy, effect: Effect, environment: Environment, command: str = ""
) -> Comparison:
    """Compare two saved results folders, or folders of such, in a single analysis.

    :raises UsageError: no case in common.
    :raises InstrumentError: one has no case.
    """
    guests_a, guests_b = (read_guests(path, policy, environment) for path in (a, b))
    samples = tuple(Sample(case, found, guests_b[case], False) for case, found in guests_a.items() if case in guests_b)
    if not samples:
        raise UsageError(
            f"compare {a} with {b}",
            f"no case in common: {', '.join(guests_a)}; {', '.join(guests_b)}",
            "run the same tests on both",
        )
    return Comparison(
        "saved",
        Side(str(a), *_qemu_of(guests_a)),
        Side(str(b), *_qemu_of(guests_b)),
        samples,
        decide(samples, SINGLE_ANALYSIS, effect),
        SINGLE_ANALYSIS,
        effect,
        policy.name,
        environment,
        notes=("A and B did not run in turn: a change of the machine in between looks like a difference of QEMU",),
        command=command,
        started_ns=time.time_ns(),
        finished_ns=time.time_ns(),
    )


def _qemu_of(guests: Mapping[str, tuple[GuestResult, ...]]) -> tuple[str, str]:
    return next((found[-1].qemu for found in guests.values()), ("", ""))
