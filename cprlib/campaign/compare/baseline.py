"""A baseline: the figures of a good QEMU on one machine, small enough to commit, and the comparison of a run with it.

It has the values of every update, not only their medians, so that a check knows the noise.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from cprlib import files
from cprlib.campaign.compare import Effect
from cprlib.campaign.compare.comparison import Comparison, Side, make_comparison, side_of
from cprlib.campaign.compare.conditions import (
    all_differences,
    machine_differences,
    missing_cases,
    mixed_parameters,
    other_parameters,
    parameters_of,
    read_environments,
)
from cprlib.campaign.compare.decision import Sample
from cprlib.campaign.compare.guest import COUNTS, GuestParameters, GuestResult, UsedQemu, read_guests
from cprlib.campaign.store import read_versioned
from cprlib.codec import dump_json
from cprlib.errors import InstrumentError, UsageError
from cprlib.report.environment import Environment, join_environments
from cprlib.verdict.policy import Policy

BASELINE_VERSION = 2
DIGITS = 2  # of a ms
NUMBERS = re.compile(r"\[\n[-\d.,\s]+\]")  # a list of them in indented JSON, where no text has a line end


@dataclass(frozen=True, slots=True)
class BaselineGuest:
    """One guest's updates.

    :param durations_ms: of each update, by metric.
    :param longest_ms: the longest pause, as policies see it.
    :param packets, affected_updates, unknown_updates: as of :class:`GuestResult`.
    """

    updates: int
    durations_ms: Mapping[str, tuple[float, ...]]
    packets: Mapping[str, int]
    affected_updates: Mapping[str, int]
    longest_ms: float | None = None
    unknown_updates: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BaselineCase:
    """One case.

    :param parameters: of its guests; a run with other ones is not compared.
    """

    parameters: GuestParameters
    guests: tuple[BaselineGuest, ...]


@dataclass(frozen=True, slots=True)
class Baseline:
    """A saved baseline.

    :param saved: UTC.
    :param environment: of the machine.
    """

    saved: str
    environment: Environment
    qemu: tuple[UsedQemu, ...]
    cases: Mapping[str, BaselineCase]
    version: int = BASELINE_VERSION


def make_baseline(results: Path, policy: Policy) -> Baseline:
    """A baseline of a results folder, or of a folder of such.

    :raises UsageError: the policy refuses a case, or the folder does not describe its machine.
    :raises InstrumentError: no case has a valid guest.
    """
    machines = read_environments(results)
    if different := all_differences(machines):
        happened = f"its runs are of different machines: {'; '.join(different)}"
        raise UsageError(f"save {results} as a baseline", happened, "save runs of one machine")
    guests = read_guests(results, policy)
    for case, found in guests.items():
        if mixed := mixed_parameters(parameters_of(found)):
            happened = f"{case} has guests with {mixed}"
            raise UsageError(f"save {results} as a baseline", happened, "save runs with the same parameters")
        if refused := next((item for guest in found for item in guest.failures), None):
            happened = f"the policy refuses {case}: {refused.about}: {refused.text}"
            raise UsageError(f"save {results} as a baseline", happened, "save a run that passes")
    valid = {case: tuple(guest for guest in found if guest.valid) for case, found in guests.items()}
    cases = {case: _case(found) for case, found in valid.items() if found}
    if not cases:
        problems = [text for found in guests.values() for guest in found for text in guest.problems]
        reason = problems[0] if problems else "no update was carried out"
        raise InstrumentError(f"save {results} as a baseline", f"no guest is valid: {reason}")
    qemus = dict.fromkeys(guest.qemu for found in valid.values() for guest in found)
    return Baseline(files.utc_name(), machines[0], tuple(qemus), cases)


def _case(guests: Sequence[GuestResult]) -> BaselineCase:
    """The guests of a case; the packets of one with an overlong pause are unknown."""
    return BaselineCase(
        {name: value for name, value in guests[0].parameters.items() if value is not None},
        tuple(
            BaselineGuest(
                guest.updates,
                {name: tuple(round(value, DIGITS) for value in values) for name, values in guest.durations.items()},
                {} if guest.overlong else guest.packets,
                {} if guest.overlong else guest.affected,
                None if guest.longest_ms is None else round(guest.longest_ms, DIGITS),
                {metric.name: guest.updates for metric in COUNTS} if guest.overlong else guest.unknown,
            )
            for guest in guests
        ),
    )


def write_baseline(baseline: Baseline, path: Path) -> None:
    """Write a baseline, the updates of a guest in one line for each metric, so that a diff of two is readable.

    :raises EnvironmentFailure: the folder cannot be written.
    """
    files.write_text(path, NUMBERS.sub(lambda found: " ".join(found[0].split()), dump_json(baseline, indent=1)))


def read_baseline(path: Path) -> Baseline:
    """Read a baseline.

    :raises UsageError: it is missing, broken or of another version of this program.
    """
    tried = f"read baseline {path}"
    try:
        return read_versioned(Baseline, path, BASELINE_VERSION)
    except OSError as error:
        raise UsageError(tried, error.strerror or str(error), "make one with cprlib baseline save") from error
    except ValueError as error:
        raise UsageError(tried, str(error), "save it again") from error


def require_same_machine(baseline: Baseline, now: Environment, path: Path) -> None:
    """Refuse a baseline of another machine.

    :raises InstrumentError: with the differences; the exit status is that of an inconclusive run.
    """
    different = machine_differences(baseline.environment, now)
    if different:
        raise InstrumentError(
            f"compare with baseline {path}",
            f"it was recorded on another machine: {'; '.join(different)}",
            "save one on this machine, or accept it with --anyway",
        )


def interruption_ms(baseline: Baseline) -> dict[str, float]:
    """The longest pause of each case, for ``interruption.max_ratio`` of a policy: the median over its guests."""
    found = {}
    for case, content in baseline.cases.items():
        known = [guest.longest_ms for guest in content.guests if guest.longest_ms is not None]
        if known:
            found[case] = median(known)
    return found


def check_baseline(
    results: Path, baseline: Baseline, path: Path, policy: Policy, effect: Effect, *, anyway: bool, command: str = ""
) -> Comparison:
    """Compare a run with a baseline, which is A.

    :param anyway: accept a baseline recorded on another machine.
    :raises InstrumentError: it was; or the run has no case.
    :raises UsageError: no case in common, or the run does not describe its machine.
    """
    machines = read_environments(results)
    if not anyway:
        for machine in machines:
            require_same_machine(baseline, machine, path)
    now = read_guests(results, policy)
    saved = {case: (content.parameters,) for case, content in baseline.cases.items()}
    before = {case: tuple(_guest(case, guest) for guest in content.guests) for case, content in baseline.cases.items()}
    problems = other_parameters("the baseline", saved, now)
    samples = [
        Sample(case, guests, now[case], False)
        for case, guests in before.items()
        if case in now and case not in problems
    ]
    if not samples and not problems:
        raise UsageError(
            f"check {results} against {path}",
            f"no case in common: the run has {', '.join(now)}, the baseline {', '.join(baseline.cases)}",
            "run the tests that the baseline has",
        )
    oldest = baseline.qemu[0] if baseline.qemu else UsedQemu()
    return make_comparison(
        "baseline",
        Side(f"{path}, saved {baseline.saved}", oldest.version, oldest.sha256),
        side_of(results, now),
        samples,
        effect,
        policy,
        replace(join_environments(machines), lab_retries=0),
        problems=(*problems.values(), *missing_cases(before, now)),
        notes=[f"different machines: {item}" for item in all_differences([baseline.environment, *machines])],
        command=command,
    )


def _guest(case: str, guest: BaselineGuest) -> GuestResult:
    return GuestResult(
        case,
        guest.updates,
        guest.durations_ms,
        guest.packets,
        guest.affected_updates,
        longest_ms=guest.longest_ms,
        unknown=guest.unknown_updates,
    )


def read_run_baseline(path: Path, policy: Policy) -> Baseline:
    """The baseline of ``cprlib run --baseline``.

    :raises UsageError: the policy has no use for a baseline, or it cannot be read.
    """
    if policy.interruption.max_ratio is None:
        raise UsageError(
            f"use baseline {path}",
            f"policy {policy.name} does not compare with a baseline: it has no max_ratio",
            'give a policy with [interruption] max_ratio, e.g. extends = "default" and max_ratio = 1.3',
        )
    return read_baseline(path)
