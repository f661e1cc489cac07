"""The report of a run as data: judged cases, verdict, causes, patches, policy, environment; and its head.

The head answers in one line each: may this QEMU ship, why not, and what was not looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cprlib.errors import ExitStatus, SkipWord
from cprlib.evidence.case import CaseEvidence
from cprlib.evidence.records import Outcome
from cprlib.qemu.facts import QemuFacts
from cprlib.report.environment import Environment
from cprlib.report.finding_groups import FindingGroup
from cprlib.report.patch_results import PatchResult, lacks_feature
from cprlib.report.rerun import rerun_command
from cprlib.report.results_folder import CASES
from cprlib.verdict.findings import Verdict
from cprlib.verdict.judge import JudgedCase
from cprlib.verdict.policy import Policy
from cprlib.words import counted

EXIT_STATUS = {
    Outcome.PASS: ExitStatus.PASS,
    Outcome.FAIL: ExitStatus.FAIL,
    Outcome.INCONCLUSIVE: ExitStatus.INCONCLUSIVE,
    Outcome.SKIP: ExitStatus.INCONCLUSIVE,
}
_NAMED = 3  # causes in the answer
_NAMED_PATCHES = 6  # that were not covered, by number; more are a number of them
_NOTHING_FAILED = "nothing failed"
_NOT_RUN: dict[str, str] = {  # skip words: what did not run, and what to do
    SkipWord.NO_TARGET: "updates between two QEMUs (--target-base or --target-qemu)",
    SkipWord.NO_LOCAL: "mechanism local (this QEMU has no migration parameter local)",
    SkipWord.NO_CPR_EXEC: "mode cpr-exec (this QEMU does not have it; QEMU 10.2 has: --base 10.2)",
    SkipWord.NO_SANDBOX: "-sandbox on (this QEMU was built without libseccomp)",
    SkipWord.NO_MACHINE: "a machine type that this QEMU does not have",
    SkipWord.NO_MEMUSAGE: "whether memory is freed (libmemusage.so of glibc is missing)",
    SkipWord.NO_SUSPEND: "suspend to RAM, which this machine type or kernel does not have",
    SkipWord.NO_DEVICE: "a device that this QEMU does not have",
    SkipWord.NO_CPR: "updates with cpr=on (this QEMU cannot do them)",
    SkipWord.NOT_IN_THIS_LAB: "what this lab cannot do (--lab=kvm, or natively)",
}


@dataclass(frozen=True, slots=True)
class RunReport:
    """A judged run.

    :param folder: the results folder.
    :param cases: in the order in which they started.
    :param command: the command line of the run; empty when it is unknown.
    :param problems: of the run as a whole, such as an Avocado job without results.
    :param groups: the findings that decided, by cause over all cases; the worst first.
    :param patches: what the cases show of each patch of the series.
    """

    folder: Path
    verdict: Verdict
    cases: tuple[JudgedCase, ...]
    policy: Policy
    environment: Environment
    command: str = ""
    problems: tuple[str, ...] = ()
    groups: tuple[FindingGroup, ...] = ()
    patches: tuple[PatchResult, ...] = ()

    @property
    def exit_status(self) -> ExitStatus:
        """The exit status of ``cprlib run``: 0, 1 or 3."""
        return EXIT_STATUS[self.verdict.outcome]

    @property
    def own_reasons(self) -> tuple[str, ...]:
        """Why the run has its verdict, beside its cases: no case ran, a mechanism was skipped, a shard is missing."""
        known = {case.evidence.id for case in self.cases}
        others = (finding.text for finding in self.verdict.reasons if finding.about not in known)
        return tuple(dict.fromkeys((*self.problems, *others)))

    @property
    def count(self) -> dict[Outcome, int]:
        outcomes = [case.outcome for case in self.cases]
        return {outcome: outcomes.count(outcome) for outcome in Outcome}

    @property
    def sentence(self) -> str:
        """``4 cases: 3 pass, 1 fail``."""
        parts = [f"{number} {outcome}" for outcome, number in self.count.items() if number]
        return counted(len(self.cases), "case") + (f": {', '.join(parts)}" * bool(parts))

    @property
    def to_repeat(self) -> tuple[JudgedCase, ...]:
        """The cases of each test that was inconclusive and failed in no case: never one that accuses QEMU.

        A test that was skipped is not repeated: it would be skipped again.
        """
        outcomes: dict[str, set[Outcome]] = {}
        for case in self.cases:
            skipped = bool(case.evidence.skipped) and case.outcome == Outcome.INCONCLUSIVE
            outcomes.setdefault(case.evidence.test, set()).add(Outcome.SKIP if skipped else case.outcome)
        repeated = {
            test for test, seen in outcomes.items() if Outcome.INCONCLUSIVE in seen and Outcome.FAIL not in seen
        }
        return tuple(case for case in self.cases if case.evidence.test in repeated - {""})

    @property
    def qemus(self) -> tuple[QemuFacts, ...]:
        """Every source and target QEMU, each once."""
        facts = [qemu for case in self.cases for qemu in (case.evidence.source, case.evidence.target) if qemu]
        return tuple(dict.fromkeys(facts))

    @property
    def started_ns(self) -> int | None:
        return min((case.evidence.started_ns for case in self.cases if case.evidence.started_ns), default=None)

    @property
    def finished_ns(self) -> int | None:
        return max((case.evidence.finished_ns for case in self.cases if case.evidence.finished_ns), default=None)

    @property
    def lab_retries(self) -> int:
        """Labs that died, as counted by the spawner or by the cases."""
        return max(self.environment.lab_retries, sum(case.evidence.retries for case in self.cases))

    def evidence_folder(self, case: str) -> str:
        """Of the case with that id, relative to the report; empty for a test that left no case."""
        return f"{CASES}/{case}" if (self.folder / CASES / case).is_dir() else ""

    def rerun_command(self, case: CaseEvidence) -> str:
        return rerun_command(self.command, case.reproduce)


@dataclass(frozen=True, slots=True)
class Answers:
    """What a reader wants to know first.

    :param may_it_ship, why_not, not_looked_at: one line each.
    """

    may_it_ship: str
    why_not: str
    not_looked_at: str

    @property
    def lines(self) -> tuple[tuple[str, str], ...]:
        """Questions with their answers; a run in which nothing failed has no "Why not?"."""
        lines = (
            ("May it ship?", self.may_it_ship),
            ("Why not?", self.why_not),
            ("What was not looked at?", self.not_looked_at),
        )
        return tuple((question, answer) for question, answer in lines if answer != _sentence(_NOTHING_FAILED))


def no_feature_advice(report: RunReport) -> str:
    """One sentence for a QEMU without the feature: what it lacks and what to do."""
    qemu = next((qemu for qemu in report.qemus if not (qemu.netdev_cpr and qemu.cpr_transfer)), None)
    name = f"{qemu.path} ({qemu.version})" if qemu else "this QEMU"
    lacks = "option cpr=on of -netdev tap: "
    if qemu and not qemu.cpr_transfer:
        lacks = "migration mode cpr-transfer: take QEMU 10.0 or newer, "
    return f"{name} has no {lacks}apply images/qemu/series to it, build it, and run again with --qemu PATH"


def answers(report: RunReport) -> Answers:
    unseen = "; ".join(_unseen(report)) or "nothing of the suite was left out"
    return Answers(_may_it_ship(report), _sentence(_why_not(report)), _sentence(unseen))


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _may_it_ship(report: RunReport) -> str:
    if lacks_feature(report.cases) and report.verdict.outcome != Outcome.FAIL:
        return "Not tested: this QEMU does not have the feature."
    by = f"by policy {report.policy.name}"
    bad = report.count[report.verdict.outcome]
    match report.verdict.outcome:
        case Outcome.PASS if all(patch.verdict == Outcome.PASS and patch.complete for patch in report.patches):
            return f"Yes, {by}."
        case Outcome.PASS:
            return f"This run found nothing against it, {by}; it did not cover the whole series."
        case Outcome.FAIL:
            return f"No: {counted(bad, 'case')} of {len(report.cases)} {'fails' if bad == 1 else 'fail'}, {by}."
    if not bad:
        return f"Not known: the run is not complete, {by}."
    return f"Not known: {counted(bad, 'case')} of {len(report.cases)} {'is' if bad == 1 else 'are'} inconclusive, {by}."


def _why_not(report: RunReport) -> str:
    if lacks_feature(report.cases):
        failed = [group for group in report.groups if group.outcome == Outcome.FAIL and group.place != SkipWord.NO_CPR]
        return "; ".join(filter(None, (_causes(failed), no_feature_advice(report))))
    if report.verdict.outcome == Outcome.PASS:
        return _NOTHING_FAILED
    return _causes(report.groups) or "; ".join(report.own_reasons)


def _causes(groups: Sequence[FindingGroup]) -> str:
    """The worst causes; the number of others."""
    shown = [group.heading for group in groups if group.outcome == groups[0].outcome]
    more = len(groups) - len(shown[:_NAMED])
    return "; ".join(shown[:_NAMED]) + (f"; and {counted(more, 'other cause')}" if more else "")


def _unseen(report: RunReport) -> Iterator[str]:
    patches = report.patches
    yield from report.problems
    absent = [str(patch.number) for patch in patches if patch.verdict is None]
    if absent and len(absent) == len(patches):
        yield "the whole series"
    elif len(absent) > _NAMED_PATCHES:
        yield f"{len(absent)} of {len(patches)} patches of the series"
    elif absent:
        yield f"patch{'es' * (len(absent) > 1)} {', '.join(absent)} of the series"
    skipped = [case.evidence for case in report.cases if case.outcome == Outcome.SKIP]
    for word in dict.fromkeys(case.skip_word for case in skipped):
        number = sum(case.skip_word == word for case in skipped)
        yield f"{_NOT_RUN.get(word, word or 'cases without a reason')}: {counted(number, 'case')} skipped"
    unknown = report.count[Outcome.INCONCLUSIVE]
    if unknown and report.verdict.outcome == Outcome.FAIL:
        yield f"{counted(unknown, 'inconclusive case')}"
    tests = {each.test: each for patch in patches for each in patch.properties}
    left = sum(not each.cases for each in tests.values())
    if left and len(absent) < len(patches):
        yield f"{left} of {len(tests)} properties of the series, whose tests did not run"
