"""A comparison as it is reported: two sides, what was measured, what came of it, and its exit status."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cprlib.campaign.compare.chain import Chain
from cprlib.campaign.compare.findings import Change, Effect, Findings, Sample
from cprlib.campaign.compare.looks import Look
from cprlib.campaign.compare.session import Round
from cprlib.errors import ExitStatus
from cprlib.report.environment import Environment

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

    :param label: a path, or the folder of saved results, or a baseline's file.
    """

    label: str
    version: str = ""
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a comparison came to.

    :param kind: ``session`` (A and B in turn), ``saved`` (two results folders) or ``baseline``.
    :param samples: all chains, by case.
    :param look: the last one, which decided; :param looks: rounds after which there was one.
    :param control: A against A in the same session, None where it was not asked for.
    :param crossings: chains of updates from A to B.
    :param budget_s: seconds that might have been used.
    :param problems: why the comparison as a whole is not sure.
    :param folder: relative links are from here; None where nothing is saved.
    """

    kind: str
    a: Side
    b: Side
    samples: tuple[Sample, ...]
    findings: Findings
    look: Look
    effect: Effect
    policy: str
    environment: Environment
    looks: tuple[int, ...] = ()
    rounds: tuple[Round, ...] = ()
    control: Findings | None = None
    crossings: tuple[Chain, ...] = ()
    budget_s: float | None = None
    seed: int | None = None
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    command: str = ""
    started_ns: int = 0
    finished_ns: int = 0
    folder: Path | None = None
    parameters: dict[str, str] = field(default_factory=dict)

    @property
    def crossing_failures(self) -> tuple[str, ...]:
        """What the policy refuses in updates from A to B."""
        texts = [text for chain in self.crossings for text in chain.failures]
        return tuple(f"update from A to B: {text}" for text in dict.fromkeys(texts))

    @property
    def regressions(self) -> tuple[str, ...]:
        """Each in a few words."""
        return (*self.findings.regressions, *self.crossing_failures)

    @property
    def doubts(self) -> tuple[str, ...]:
        """Why nothing is said although there are figures."""
        return (*self.problems, *self.findings.problems, *self._control_doubts())

    def _control_doubts(self) -> tuple[str, ...]:
        """A that differs from itself: the machine, not QEMU."""
        if self.control is None:
            return ()
        moved = [item for item in self.control.durations if item.change in (Change.REGRESS, Change.IMPROVE)]
        return tuple(f"A against A differs in {item.metric.label}: the machine is too unsteady" for item in moved)

    @property
    def change(self) -> Change:
        """The verdict. A packet that B loses is no matter of noise; durations say nothing if A differs from itself."""
        surely = [item for item in self.findings.accusations if not item.also_a]
        if surely or self.crossing_failures:
            return Change.REGRESS
        return Change.UNDECIDED if self.problems or self._control_doubts() else self.findings.change

    @property
    def exit_status(self) -> ExitStatus:
        """0 no regression, 1 regression, 3 undecided."""
        return STATUS[self.change]

    @property
    def reason(self) -> str:
        """The verdict's grounds in a line."""
        match self.change:
            case Change.REGRESS:
                return "; ".join(self.regressions[:4]) + (
                    f"; and {len(self.regressions) - 4} more" * bool(self.regressions[4:])
                )
            case Change.UNDECIDED:
                if self.doubts:
                    return "; ".join(self.doubts[:3])
                return (
                    f"not decided: {', '.join(self.findings.undecided)}" if self.findings.undecided else "nothing known"
                )
            case _:
                limit = f"{100 * self.effect.ratio:.0f} %"
                better = [item for item in self.findings.durations if item.change == Change.IMPROVE]
                faster = f"shorter: {', '.join(item.metric.label for item in better)}; " if better else ""
                return f"{faster}no difference of {limit} or more, nothing lost"
