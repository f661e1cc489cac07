"""A baseline: what a good QEMU showed on a machine, small enough to commit, and a run held against it.

It has the values of every update, not only their medians, so that a check has the noise to tell a difference by.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from cprlib import files
from cprlib.campaign.compare.chain import Chain
from cprlib.campaign.compare.comparison import Comparison, Side
from cprlib.campaign.compare.decide import decide
from cprlib.campaign.compare.findings import Effect, Sample
from cprlib.campaign.compare.looks import ONCE
from cprlib.campaign.compare.machines import unlike
from cprlib.campaign.compare.saved import read_chains
from cprlib.codec import BadValue, decode, encode
from cprlib.errors import InstrumentError, UsageError
from cprlib.report.environment import Environment, describe_environment
from cprlib.verdict.policy import Policy

BASELINE_VERSION = 1
DESCRIBED_BY = ("run.json", "compare.json")  # where a results folder says which machine it is from
HIGHER = 3  # folders above the given one in which that is looked for
DIGITS = 2  # of a ms


@dataclass(frozen=True, slots=True)
class BaselineChain:
    """One guest's updates.

    :param durations_ms: of each update, by metric.
    :param longest_ms: the longest pause, as policies look at it.
    """

    updates: int
    durations_ms: Mapping[str, tuple[float, ...]]
    packets: Mapping[str, int]
    affected_updates: Mapping[str, int]
    longest_ms: float | None = None


@dataclass(frozen=True, slots=True)
class BaselineCase:
    """One case.

    :param parameters: it was run with; other ones are another case.
    """

    parameters: Mapping[str, str | int | float | bool | None]
    chains: tuple[BaselineChain, ...]


@dataclass(frozen=True, slots=True)
class BaselineQemu:
    """A QEMU that took part."""

    version: str = ""
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Baseline:
    """What is saved.

    :param saved: UTC.
    :param environment: of the machine.
    """

    saved: str
    environment: Environment
    qemu: tuple[BaselineQemu, ...]
    cases: Mapping[str, BaselineCase]
    version: int = field(default=BASELINE_VERSION)


def make_baseline(results: Path, policy: Policy) -> Baseline:
    """A baseline of a results folder, or of a folder of such.

    :raises UsageError: the run is not one to hold others against: the policy refuses a case of it, or it does not say
        which machine it is from.
    :raises InstrumentError: no case of it is believed.
    """
    environment = described(results)
    chains = read_chains(results, policy, environment)
    for case, found in chains.items():
        if bad := next((chain for chain in found if chain.failures), None):
            raise UsageError(
                f"save {results} as a baseline", f"{case} is refused: {bad.failures[0]}", "save a run that passes"
            )
    kept = {case: tuple(chain for chain in found if chain.believed) for case, found in chains.items()}
    cases = {case: _case(found) for case, found in kept.items() if found}
    if not cases:
        reason = next(
            (text for found in chains.values() for chain in found for text in chain.doubts), "none was updated"
        )
        raise InstrumentError(f"save {results} as a baseline", f"no case of it is believed: {reason}")
    seen = dict.fromkeys(chain.qemu for found in kept.values() for chain in found)
    return Baseline(files.utc_name(), environment, tuple(BaselineQemu(*item) for item in seen), cases)


def _case(chains: Sequence[Chain]) -> BaselineCase:
    return BaselineCase(
        {name: value for name, value in chains[0].parameters.items() if isinstance(value, str | int | float | bool)},
        tuple(
            BaselineChain(
                chain.updates,
                {name: tuple(round(value, DIGITS) for value in values) for name, values in chain.durations.items()},
                chain.packets,
                chain.affected,
                None if chain.longest_ms is None else round(chain.longest_ms, DIGITS),
            )
            for chain in chains
        ),
    )


def described(results: Path) -> Environment:
    """The machine of a results folder, as its run.json or compare.json says, or one above it.

    :raises UsageError: there is none, or it cannot be read.
    """
    top = results.resolve()
    places = [top, *top.parents[:HIGHER]]
    found = [place / name for place in places for name in DESCRIBED_BY if (place / name).is_file()]
    found += sorted(path for name in DESCRIBED_BY for path in top.glob(f"*/{name}") if path.parent.name != "latest")
    if not found:
        raise UsageError(
            f"read {results}", f"no {' or '.join(DESCRIBED_BY)} in it says which machine it is from",
            "give the folder of a run, as results/latest",
        )  # fmt: skip
    try:
        value = json.loads(found[0].read_text(encoding="utf-8"))
        return decode(Environment, value["environment"])
    except (OSError, ValueError, KeyError, TypeError, BadValue) as error:
        raise UsageError(f"read {found[0]}", str(error)) from error


def write_baseline(baseline: Baseline, path: Path) -> None:
    """Write a baseline, one chain a line, so that a diff of two can be read.

    :raises EnvironmentFailure: the folder cannot be written.
    """
    value = encode(baseline)
    cases = value.pop("cases")
    lines = [json.dumps(value, indent=1)[:-2] + ',\n "cases": {']
    for number, (case, content) in enumerate(cases.items(), 1):
        chains = ",\n".join(f"    {json.dumps(chain)}" for chain in content["chains"])
        lines.append(
            f'  {json.dumps(case)}: {{\n   "parameters": {json.dumps(content["parameters"])},\n'
            f'   "chains": [\n{chains}\n   ]\n  }}{"," * (number < len(cases))}'
        )
    files.write_text(path, "\n".join([*lines, " }\n}\n"]))


def read_baseline(path: Path) -> Baseline:
    """Read a baseline.

    :raises UsageError: it is missing, broken or of another version of this program.
    """
    tried = f"read baseline {path}"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        baseline = decode(Baseline, value)
    except OSError as error:
        raise UsageError(tried, error.strerror or str(error), "make one with cprlib baseline save") from error
    except (ValueError, BadValue) as error:
        raise UsageError(tried, str(error), "save it anew") from error
    if baseline.version != BASELINE_VERSION:
        raise UsageError(tried, f"version {baseline.version}, this program reads {BASELINE_VERSION}", "save it anew")
    return baseline


def require_alike(baseline: Baseline, now: Environment, path: Path) -> None:
    """Refuse a baseline of another machine.

    :raises InstrumentError: with what differs; the exit status is that of an inconclusive run.
    """
    different = unlike(baseline.environment, now)
    if different:
        raise InstrumentError(
            f"compare with baseline {path}",
            f"it is of another machine: {'; '.join(different)}",
            "save one on this machine, or compare all the same with --anyway",
        )


def interruption_ms(baseline: Baseline) -> dict[str, float]:
    """The longest pause of each case, for ``interruption.max_ratio`` of a policy: the median over its chains."""
    found = {}
    for case, content in baseline.cases.items():
        known = [chain.longest_ms for chain in content.chains if chain.longest_ms is not None]
        if known:
            found[case] = median(known)
    return found


def check_baseline(
    results: Path, baseline: Baseline, path: Path, policy: Policy, effect: Effect, *, anyway: bool, command: str = ""
) -> Comparison:
    """A run against a baseline, which is A.

    :param anyway: even though the machines are unlike.
    :raises InstrumentError: they are; or the run has no case.
    :raises UsageError: no case in common, or the run does not say which machine it is from.
    """
    environment = described(results)
    if not anyway:
        require_alike(baseline, environment, path)
    different = unlike(baseline.environment, environment)
    now = read_chains(results, policy, environment)
    samples, problems = [], []
    for case, content in baseline.cases.items():
        if case not in now:
            continue
        chains = now[case]
        other = {name: value for name, value in content.parameters.items() if chains[0].parameters.get(name) != value}
        if other:
            said = ", ".join(f"{name}={value}" for name, value in other.items())
            problems.append(f"{case}: the baseline was run with {said}")
            continue
        samples.append(Sample(case, tuple(_chain(case, chain) for chain in content.chains), chains, False))
    if not samples and not problems:
        raise UsageError(
            f"check {results} against {path}",
            f"no case in common: {', '.join(now)}; {', '.join(baseline.cases)}",
            "run the tests that the baseline has",
        )
    newest = next((chains[-1].qemu for chains in now.values()), ("", ""))
    oldest = baseline.qemu[0] if baseline.qemu else BaselineQemu()
    return Comparison(
        "baseline",
        Side(f"{path}, saved {baseline.saved}", oldest.version, oldest.sha256),
        Side(str(results), *newest),
        tuple(samples),
        decide(samples, ONCE, effect),
        ONCE,
        effect,
        policy.name,
        replace(environment, lab_retries=0),
        problems=tuple(problems),
        notes=tuple(f"unlike machines: {item}" for item in different),
        command=command,
    )


def _chain(case: str, chain: BaselineChain) -> Chain:
    return Chain(
        case, chain.updates, chain.durations_ms, chain.packets, chain.affected_updates, longest_ms=chain.longest_ms
    )


def baseline_for_run(path: Path, policy: Policy, environment: Environment | None, *, anyway: bool) -> dict[str, float]:
    """What ``cprlib run --baseline`` gives the judge.

    :param environment: of the run; this machine's when None.
    :raises UsageError: the policy makes no use of a baseline.
    :raises InstrumentError: the baseline is of another machine.
    """
    if policy.interruption.max_ratio is None:
        raise UsageError(
            f"use baseline {path}",
            f"policy {policy.name} does not compare with one: it has no max_ratio",
            'give a policy that has [interruption] max_ratio, e.g. extends = "default" and max_ratio = 1.3',
        )
    baseline = read_baseline(path)
    if not anyway:
        require_alike(baseline, environment or describe_environment(), path)
    return interruption_ms(baseline)
