"""The head of a report: may this QEMU ship, why not, and what was not looked at, each in one line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cprlib.evidence.case import NO_FEATURE
from cprlib.evidence.records import Outcome
from cprlib.report.run_report import RunReport
from cprlib.report.series_coverage import lacks_feature
from cprlib.verdict.traffic_rules import counted

_NAMED = 3  # causes in the answer
_NOT_RUN = {  # skip words: what did not run, and what to do
    "no-target": "updates between two QEMUs (--target-base or --target-qemu)",
    "no-local": "mechanism local (this QEMU has no migration parameter local)",
    "no-cpr-exec": "mode cpr-exec (this QEMU does not have it; QEMU 10.2 has: --base 10.2)",
    "no-sandbox": "-sandbox on (this QEMU was built without libseccomp)",
    "no-machine": "a machine type that this QEMU does not have",
    NO_FEATURE: "live updates (this QEMU cannot do them)",
    "no-vhost": "vhost (this machine has no /dev/vhost-net)",
    "no-ipv6": "IPv6",
    "not-in-this-lab": "what this lab cannot do (--lab=kvm, or natively)",
}


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
        """Question and answer."""
        return (
            ("May it ship?", self.may_it_ship),
            ("Why not?", self.why_not),
            ("What was not looked at?", self.not_looked_at),
        )


def no_feature_advice(report: RunReport) -> str:
    """One sentence for a QEMU without the feature: what it lacks and what to do."""
    qemu = next((qemu for qemu in report.qemus if not (qemu.netdev_cpr and qemu.cpr_transfer)), None)
    name = f"{qemu.path} ({qemu.version})" if qemu else "this QEMU"
    lacks = "migration mode cpr-transfer" if qemu and not qemu.cpr_transfer else "option cpr=on of -netdev tap"
    return f"{name} has no {lacks}: apply images/qemu/series to it, build it, and run again with --qemu PATH"


def answers(report: RunReport) -> Answers:
    """Answer the three questions."""
    unseen = "; ".join(_unseen(report)) or "nothing of the suite was left out"
    return Answers(_may_it_ship(report), _sentence(_why_not(report)), _sentence(unseen))


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _may_it_ship(report: RunReport) -> str:
    if lacks_feature(report.cases):
        return "Not tested: this QEMU does not have the feature."
    by = f"by policy {report.policy.name}"
    bad = report.count[report.verdict.outcome]
    match report.verdict.outcome:
        case Outcome.PASS if all(patch.verdict == Outcome.PASS for patch in report.patches):
            return f"Yes, {by}."
        case Outcome.PASS:
            return f"This run found nothing against it, {by}; it did not cover the whole series."
        case Outcome.FAIL:
            return f"No: {counted(bad, 'case')} of {len(report.cases)} {'fails' if bad == 1 else 'fail'}, {by}."
    if not bad:
        return f"Not known: the run is not complete, {by}."
    return f"Not known: {counted(bad, 'case')} of {len(report.cases)} {'is' if bad == 1 else 'are'} inconclusive, {by}."


def _why_not(report: RunReport) -> str:
    groups = report.groups
    if lacks_feature(report.cases) and not any(group.outcome == Outcome.FAIL for group in groups):
        return no_feature_advice(report)
    if report.verdict.outcome == Outcome.PASS:
        return "nothing failed"
    if not groups:
        return "; ".join(report.own_reasons)
    shown = [group.heading for group in groups if group.outcome == groups[0].outcome]
    more = len(groups) - len(shown[:_NAMED])
    return "; ".join(shown[:_NAMED]) + (f"; and {counted(more, 'other cause')}" if more else "")


def _unseen(report: RunReport) -> Iterator[str]:
    patches = report.patches
    yield from report.problems
    absent = [str(patch.number) for patch in patches if patch.verdict is None]
    if absent:
        numbers = f"patch{'es' * (len(absent) > 1)} {', '.join(absent)} of the series"
        yield "the whole series" if len(absent) == len(patches) else numbers
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
