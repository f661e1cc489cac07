"""Saved results: their chains, and two of them held against each other."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from cprlib.campaign.compare.chain import Chain, chain_of
from cprlib.campaign.compare.comparison import Comparison, Side
from cprlib.campaign.compare.decide import decide
from cprlib.campaign.compare.findings import Effect, Sample
from cprlib.campaign.compare.looks import ONCE
from cprlib.errors import InstrumentError, UsageError
from cprlib.report.environment import Environment
from cprlib.report.pipeline import judge_results
from cprlib.verdict.policy import Policy


def read_chains(folder: Path, policy: Policy, environment: Environment) -> dict[str, tuple[Chain, ...]]:
    """The chains in a saved results folder, or in a folder of such, by case and in the order of their start.

    :raises InstrumentError: there is none.
    """
    places = sorted({path.parent.parent.parent for path in _case_files(folder)})
    found: dict[str, list[Chain]] = {}
    for place in places:
        for judged in judge_results(place, policy, environment=environment).cases:
            if judged.evidence.updates or judged.evidence.skipped:
                chain = chain_of(judged, str(place / "cases" / judged.evidence.id))
                found.setdefault(chain.case, []).append(chain)
    if not found:
        raise InstrumentError(f"read {folder}", "no case of a live update in it", "give the folder of a run")
    return {case: tuple(sorted(chains, key=lambda chain: chain.started_ns)) for case, chains in found.items()}


DEEPEST = 5  # folders between the one that is given and cases/: cells/a/round-1/<test>


def _case_files(folder: Path) -> list[Path]:
    patterns = ["/".join(["*"] * depth + ["cases", "*", "case.json"]) for depth in range(DEEPEST)]
    return [
        path
        for pattern in patterns
        for path in folder.glob(pattern)
        if not any(part.startswith(".") or part == "latest" for part in path.relative_to(folder).parts)
    ]


def compare_saved(
    a: Path, b: Path, policy: Policy, effect: Effect, environment: Environment, command: str = ""
) -> Comparison:
    """Two saved results folders, or folders of such, looked at once.

    :raises UsageError: they have no case in common.
    :raises InstrumentError: one has no case at all.
    """
    chains_a, chains_b = (read_chains(path, policy, environment) for path in (a, b))
    samples = unpaired_samples(chains_a, chains_b)
    if not samples:
        raise UsageError(
            f"compare {a} with {b}",
            f"no case in common: {', '.join(chains_a)}; {', '.join(chains_b)}",
            "run the same tests on both",
        )
    return Comparison(
        "saved",
        Side(str(a), *_qemu(chains_a)),
        Side(str(b), *_qemu(chains_b)),
        samples,
        decide(samples, ONCE, effect),
        ONCE,
        effect,
        policy.name,
        environment,
        notes=("A and B were not run in turn: a machine that changed in between looks like a difference of QEMU",),
        command=command,
        started_ns=time.time_ns(),
        finished_ns=time.time_ns(),
    )


def _qemu(chains: Mapping[str, tuple[Chain, ...]]) -> tuple[str, str]:
    return next((found[-1].qemu for found in chains.values()), ("", ""))


def unpaired_samples(a: Mapping[str, tuple[Chain, ...]], b: Mapping[str, tuple[Chain, ...]]) -> tuple[Sample, ...]:
    """The cases that both have, in A's order."""
    return tuple(Sample(case, chains, b[case], False) for case, chains in a.items() if case in b)
