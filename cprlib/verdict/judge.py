"""Evidence and a policy to a verdict: pass, fail or inconclusive, with reasons. Nothing passes by default.

Checks (descriptors, vhost worker, guest view) count by themselves. Traffic figures count only when the instrument is
sound; otherwise they are discarded, good or bad.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from cprlib.evidence.case import OTHER_SKIP, CaseEvidence
from cprlib.evidence.records import INSTRUMENT_CHECK, Outcome, Role
from cprlib.update.mechanism import Mechanism
from cprlib.verdict.findings import Finding, Verdict, combine, failed, inconclusive, passed
from cprlib.verdict.policy import DOWNGRADE_CHECKS, NOT_ASKED_FOR, Policy, matches
from cprlib.verdict.traffic_rules import instrument_findings, interruption_findings, traffic_findings, was_measured
from cprlib.words import counted, listed


@dataclass(frozen=True, slots=True)
class JudgedCase:
    """A case with its verdict."""

    evidence: CaseEvidence
    verdict: Verdict

    @property
    def outcome(self) -> Outcome:
        return self.verdict.outcome


def judge(case: CaseEvidence, policy: Policy, *, baseline_ms: float | None = None) -> JudgedCase:
    """The verdict of one case.

    :param baseline_ms: service interruption of a saved run of this case, for policies with ``max_ratio``.
    """
    if case.skipped and not any(check.outcome == Outcome.FAIL for check in case.checks):
        return JudgedCase(case, _skipped(case, policy))
    findings = list(_checks(case, policy))
    if case.retries > policy.retries:
        died = f"the lab died {counted(case.retries, 'time')} under this case"
        findings.append(inconclusive("lab", f"{died}, the policy allows {policy.retries}"))
    match case.role:
        case Role.UPDATE:
            findings += _update(case, policy, baseline_ms)
        case Role.NEGATIVE_CONTROL:
            findings += _negative_control(case, policy)
        case Role.CONTROL_RUN:
            findings += _control_run(case, policy)
    return JudgedCase(case, combine(findings, "the case checked nothing"))


def judge_run(cases: Sequence[JudgedCase], policy: Policy) -> Verdict:
    """The verdict of a run: the worst case decides; skipped cases and mechanisms only skipped prove nothing."""
    findings = [Finding(case.outcome, case.evidence.id, _summary(case)) for case in cases]
    if not policy.skips.whole_mechanism:
        findings += _skipped_mechanisms(cases)
    return combine(findings, "no case ran to its end")


def _summary(case: JudgedCase) -> str:
    reasons = case.verdict.reasons
    if case.outcome == Outcome.PASS:
        return f"{len(reasons)} properties satisfy the policy"
    return listed((reason.text for reason in reasons), 3)


def ran_by_local(cases: Sequence[JudgedCase]) -> bool:
    """Whether a case has run by mechanism ``local``, as those for both do on a QEMU that lacks ``cpr=on``."""
    return any(case.evidence.mechanism == Mechanism.LOCAL and case.outcome != Outcome.SKIP for case in cases)


def _skipped_mechanisms(cases: Sequence[JudgedCase]) -> Iterator[Finding]:
    asked_for = [case for case in cases if case.evidence.skip_word not in NOT_ASKED_FOR]
    instead = {Mechanism.CPR} if ran_by_local(cases) else set()
    for mechanism in (each for each in Mechanism if each not in (Mechanism.NONE, *instead)):
        of_it = [case for case in asked_for if case.evidence.mechanism == mechanism]
        if of_it and all(case.outcome == Outcome.SKIP for case in of_it):
            reason = of_it[0].evidence.skip_text
            yield inconclusive(mechanism.value, f"every case of mechanism {mechanism} was skipped: {reason}")


def _skipped(case: CaseEvidence, policy: Policy) -> Verdict:
    outcome, text = Outcome.SKIP, case.skip_text
    if not matches(case.skip_word or OTHER_SKIP, (*policy.skips.allow, *NOT_ASKED_FOR)):
        outcome, text = Outcome(policy.skips.otherwise), f"{text} (policy {policy.name} does not allow it)"
    return Verdict(outcome, (Finding(outcome, "skipped", text),))


def _checks(case: CaseEvidence, policy: Policy) -> Iterator[Finding]:
    for check in case.checks:
        text = check.text
        if check.outcome != Outcome.SKIP:
            shown = text if check.outcome != Outcome.PASS else check.observed or text
            yield Finding(check.outcome, check.name, shown, check.family)
        elif matches(check.name, policy.skips.allow_checks):
            yield Finding(Outcome.SKIP, check.name, text, check.family)
        else:
            text = f"skipped, which the policy forbids: {text}"
            yield Finding(Outcome(policy.skips.otherwise), check.name, text, check.family)
    for fact in case.guest_view:
        if fact.before is None or fact.after is None:
            text = f"{fact.name} was not read {'before' if fact.before is None else 'after'}"
            yield Finding(Outcome.INCONCLUSIVE, "guest view", text, f"guest view: {fact.name}")
        elif fact.before != fact.after:
            text = f"{fact.name} was {fact.before}, is {fact.after}"
            outcome = Outcome.INCONCLUSIVE if case.role is Role.CONTROL_RUN else Outcome.FAIL  # no update caused it
            yield Finding(outcome, "guest view", text, f"guest view: {fact.name}")


def _if_instrument_sound(case: CaseEvidence, policy: Policy, findings: Iterable[Finding]) -> Iterator[Finding]:
    """Findings about traffic; when the instrument is not sound, its problems and the discarded findings."""
    if not was_measured(case):
        yield inconclusive("instrument", "no traffic was measured")
        return
    problems = list(instrument_findings(case, policy))
    measured = [check.outcome for check in case.checks if check.name == INSTRUMENT_CHECK]  # a finding of its own
    if not problems and set(measured) <= {Outcome.PASS}:
        yield from findings
        return
    yield from problems
    for finding in findings:
        if finding.outcome != Outcome.PASS:
            yield replace(finding, outcome=Outcome.INCONCLUSIVE, text=f"discarded: {finding.text}")


def _update(case: CaseEvidence, policy: Policy, baseline_ms: float | None) -> Iterator[Finding]:
    if case.mechanism != Mechanism.NONE and not case.updates:
        yield inconclusive("update", "no live update was carried out")
    traffic = [*traffic_findings(case, policy), *interruption_findings(case, policy, baseline_ms)]
    yield from _if_instrument_sound(case, policy, traffic)
    yield from _identity(case, policy)
    yield from _downgrade(case, policy)


def _identity(case: CaseEvidence, policy: Policy) -> Iterator[Finding]:
    handling = case.mechanism.handling
    if not handling.same_files:
        return
    different = [row for row in case.descriptors if row.same_file is False]
    for row in different:
        files = f"fd {row.source_fd} of the source and {row.target_fd} of the target are two files"
        yield failed("identity", f"{row.kind} {row.name}: {files}")
    paired, unpaired = case.fds.paired, case.fds.unpaired
    kinds = ("tap", "vhost") if case.parameters.vhost else ("tap",)  # of the descriptors of a queue
    expected = (case.parameters.queues or 1) * sum(map(handling.is_same_file, kinds))
    if paired is None or unpaired is None:
        if policy.identity.required:
            yield inconclusive("identity", "descriptors of source and target were not compared")
    elif unpaired > policy.identity.unpaired:
        yield failed("identity", f"{counted(unpaired, 'descriptor')} without partner, {paired} paired")
    elif paired + unpaired < expected:
        yield inconclusive("identity", f"{paired + unpaired} of {expected} descriptors were found and compared")
    elif not different:
        yield passed("identity", f"{counted(paired, 'descriptor')} paired, {unpaired} without partner")


def _downgrade(case: CaseEvidence, policy: Policy) -> Iterator[Finding]:
    if not (policy.downgrade.forbidden and case.parameters.vhost) or case.mechanism == Mechanism.NONE:
        return
    seen = {check.name for check in case.checks}
    for name in DOWNGRADE_CHECKS:
        if name not in seen:
            text = f"check {name} is missing: a fallback to userspace virtio would go unnoticed"
            yield inconclusive("downgrade", text)


def _negative_control(case: CaseEvidence, policy: Policy) -> Iterator[Finding]:
    """A negative control must lose packets, however many; no other figure of its traffic is judged."""
    if not case.updates:
        yield inconclusive("update", "no live update was carried out")
    lost = case.loss.total
    if lost is None:
        found = inconclusive("negative-control", "the loss is not known")
    elif lost:
        text = f"{counted(lost)} lost, as expected of this mechanism; the instrument saw it"
        found = passed("negative-control", text)
    elif policy.negative_control.must_lose:
        found = inconclusive("negative-control", "it lost nothing: the instrument was not shown to see a loss")
    else:
        found = passed("negative-control", "it lost nothing")
    yield from _if_instrument_sound(case, policy, [found])


def _control_run(case: CaseEvidence, policy: Policy) -> Iterator[Finding]:
    """A loss without an update is caused by the machine or the instrument: inconclusive, not a failure of QEMU."""
    for finding in _if_instrument_sound(case, policy, traffic_findings(case, policy)):
        yield replace(finding, outcome=Outcome.INCONCLUSIVE) if finding.outcome == Outcome.FAIL else finding
