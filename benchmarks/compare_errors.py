"""How often a comparison errs: on equals, on B that is slower, on B that loses; and how well its intervals cover.

Run from the checkout::

    python benchmarks/compare_errors.py simulate [--runs 500] [--rounds 9]
    python benchmarks/compare_errors.py coverage [--runs 4000]
    python benchmarks/compare_errors.py resample FOLDER... [--runs 1000] [--rounds 9]

``simulate`` draws chains: each has a noise of its own (Student's t with 3 degrees of freedom: some chains are far off),
A and B of a round share one on top (the machine's), and metrics hang together. Rows: rounds that the budget has room
for, scatter of the chains, B/A in truth (of STOP to RESUME; the other durations move half as much), the share of B's
updates that lose a packet. The whole rule is used, looks and all. The last columns are what would become of it without
care: each metric tested for itself at 1 % after every round from the sixth to the
thirteenth.

``coverage`` holds the interval against scipy's bootstrap, for as many pairs as a session has.

``resample`` takes chains that were really measured with one QEMU (folders of comparisons: cells/a, and with
``--equals`` cells/b as well), deals those that ran next to each other into pairs at random, and compares them as if one
of each pair were B: all of them, or as many pairs in a row as ``--rounds`` says, from anywhere.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cprlib.campaign.compare.chain import DURATIONS, Chain
from cprlib.campaign.compare.decide import decide, smallest_p
from cprlib.campaign.compare.exact import paired_shift
from cprlib.campaign.compare.findings import Change, Effect, Sample
from cprlib.campaign.compare.looks import ONCE, Allowance
from cprlib.campaign.compare.saved import read_chains
from cprlib.report.environment import describe_environment
from cprlib.verdict.policy_file import load_policy

UPDATES = 6
CARELESS = 0.01
TOGETHER = 0.8  # correlation of a chain's metrics
WITHIN = 0.10  # scatter of the updates of one chain


def session(pairs: Sequence[tuple[Chain, Chain]]) -> tuple[Change, int]:
    """Rounds one by one, as a session of that many has them.

    :returns: the verdict, and rounds used.
    """
    allowance = Allowance()
    for number in range(1, len(pairs) + 1):
        sample = Sample("case", tuple(a for a, _ in pairs[:number]), tuple(b for _, b in pairs[:number]), True)
        refused = bool(sample.b[-1].failures)
        last = refused or number == len(pairs)
        look = allowance.look(number / len(pairs), smallest_p([sample]), last=last)
        if look is None:
            continue
        found = decide([sample], look, Effect())
        if last or found.change != Change.UNDECIDED:
            return found.change, number
    raise AssertionError("the last look decides")


def drawn_chain(draw: numpy.random.Generator, machine: float, scatter: float, ratio: float, loss: float) -> Chain:
    """A chain of B with this ratio to A, of A with 1."""
    own = TOGETHER**0.5 * draw.standard_t(3) + (1 - TOGETHER) ** 0.5 * draw.standard_t(3, len(DURATIONS))
    moved = numpy.array([1.0 if metric.name == "stop-to-resume" else 0.5 for metric in DURATIONS]) * math.log(ratio)
    middles = numpy.log(170.0) + machine + scatter * own / 3**0.5 + moved
    updates = numpy.exp(middles[:, None] + WITHIN * draw.standard_normal((len(DURATIONS), UPDATES)))
    lost = int((draw.random(UPDATES) < loss).sum())
    return Chain(
        "case",
        UPDATES,
        {metric.name: tuple(values) for metric, values in zip(DURATIONS, updates.tolist(), strict=True)},
        {"lost": lost},
        {"lost": lost},
        failures=(f"loss: {lost} packets lost",) if lost else (),
    )


def careless(pairs: Sequence[tuple[Chain, Chain]]) -> bool:
    """Whether some metric seems worse after some round, where nobody counts tests and looks."""
    for metric in DURATIONS:
        known = [(a.middle(metric.name), b.middle(metric.name)) for a, b in pairs]
        differences = [math.log(b / a) for a, b in known if a and b]
        if any(
            paired_shift(differences[:count]).p_above <= CARELESS for count in range(6, min(len(differences), 13) + 1)
        ):
            return True
    return False


def simulate(runs: int, budgets: Sequence[int]) -> None:
    """Verdicts by scatter and truth."""
    draw = numpy.random.default_rng(6)
    print(f"chains of {UPDATES} updates, {runs} sessions a row")
    print("rounds  scatter   B/A   loss   regress  improve     same  undecided  rounds used  careless: regress")
    for rounds in budgets:
        for scatter in (0.05, 0.10, 0.20, 0.40):
            for ratio, loss in ((1.0, 0.0), (1.1, 0.0), (1.3, 0.0), (1.0, 0.1)):
                seen: Counter[Change] = Counter()
                used, accused = [], 0
                for _ in range(runs):
                    pairs = []
                    for machine in 0.3 * draw.standard_normal(rounds):
                        a = drawn_chain(draw, machine, scatter, 1.0, 0.0)
                        pairs.append((a, drawn_chain(draw, machine, scatter, ratio, loss)))
                    change, number = session(pairs)
                    seen[change] += 1
                    used.append(number)
                    accused += careless(pairs) if ratio == 1.0 and not loss else 0
                cells = "".join(f"{100 * seen[change] / runs:7.1f} %" for change in Change)
                rest = f"{100 * accused / runs:10.1f} %" if ratio == 1.0 and not loss else ""
                print(
                    f"{rounds:6}  {100 * scatter:5.0f} %  {ratio:.2f}  {100 * loss:3.0f} %  {cells}"
                    f"  {sorted(used)[runs // 2]:10} {rest}",
                    flush=True,
                )


def coverage(runs: int) -> None:
    """Of 95 % intervals for a mean difference, how many hold the truth."""
    draw = numpy.random.default_rng(6)
    print("pairs  noise        permutation  bootstrap BCa  bootstrap percentile")
    for pairs in (6, 8, 11, 16):
        for name in ("normal", "Student's t, 3"):
            hits = [0, 0, 0]
            for _ in range(runs):
                values = draw.standard_normal(pairs) if name == "normal" else draw.standard_t(3, pairs)
                interval = paired_shift(values.tolist()).interval(0.95)
                intervals = [interval] + [_bootstrap(values, method, draw) for method in ("BCa", "percentile")]
                for place, found in enumerate(intervals):
                    hits[place] += found is not None and found[0] <= 0 <= found[1]
            cells = "  ".join(f"{100 * count / runs:10.1f} %" for count in hits)
            print(f"{pairs:5}  {name:14}{cells}")


def _bootstrap(values: numpy.ndarray, method: str, draw: numpy.random.Generator) -> tuple[float, float]:
    found = stats.bootstrap((values,), numpy.mean, n_resamples=999, method=method, rng=draw).confidence_interval
    return float(found.low), float(found.high)


def resample(folders: Sequence[Path], runs: int, equals: bool, sizes: Sequence[int | None]) -> None:
    """A against A, of chains that were measured, in as many rounds as each of the sizes says; None: in all."""
    policy, environment = load_policy("default"), describe_environment()
    chains: list[Chain] = []
    for folder in folders:
        for name in ("a", "b", "a-again") if equals else ("a", "a-again"):
            place = folder / "cells" / name
            if place.is_dir():
                for found in read_chains(place, policy, environment).values():
                    chains += [chain for chain in found if chain.updates > 1]
    chains.sort(key=lambda chain: chain.started_ns)
    good = [chain for chain in chains if chain.believed]
    refused = [text for chain in chains for text in chain.failures]
    print(f"{len(chains)} chains of A, {len(good)} believed, {sum(chain.updates for chain in good)} updates")
    print(f"refused by the policy: {len(refused)}{': ' + refused[0] if refused else ''}")
    for size in sizes:
        deal(good, runs, min(size or len(good), len(good) // 2))


def deal(good: Sequence[Chain], runs: int, rounds: int) -> None:
    """Compare neighbours, so many pairs in a row from anywhere, with either as B."""
    seen: Counter[Change] = Counter()
    lot = random.Random(6)  # noqa: S311
    for _ in range(runs):
        begin = lot.randint(0, len(good) - 2 * rounds)
        part = good[begin : begin + 2 * rounds]
        pairs = []
        for first, second in zip(part[0::2], part[1::2], strict=True):
            pairs.append((first, second) if lot.random() < 0.5 else (second, first))
        seen[session(pairs)[0]] += 1
    print(f"{runs} comparisons of A with A, {rounds} pairs each, dealt at random:")
    print(", ".join(f"{change.value} {seen[change]}" for change in Change))
    once = Sample("case", tuple(a for a, _ in pairs), tuple(b for _, b in pairs), True)
    for item in decide([once], ONCE, Effect()).durations:
        print(
            f"  {item.metric.label}: median {item.a:.1f} ms, noise from chain to chain {100 * (item.noise or 0):.0f} %"
        )


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("simulate", "coverage", "resample"))
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--rounds", type=int, nargs="+", help="that the budget has room for; 9 and 18, or all")
    parser.add_argument("--equals", action="store_true", help="the folders' B is the same QEMU as A")
    given = parser.parse_args()
    if given.what == "simulate":
        simulate(given.runs, given.rounds or [9, 18])
    elif given.what == "coverage":
        coverage(given.runs)
    else:
        resample(given.folders, given.runs, given.equals, given.rounds or [None])


if __name__ == "__main__":
    main()
