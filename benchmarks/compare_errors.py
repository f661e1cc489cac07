"""Error rates of a comparison: with equal QEMUs, a slower B, a B that loses packets; and coverage of its intervals.

Run from the checkout::

    python benchmarks/compare_errors.py simulate [--runs 500] [--rounds 9]
    python benchmarks/compare_errors.py coverage [--runs 4000]
    python benchmarks/compare_errors.py resample FOLDER... [--runs 1000] [--rounds 9]

``simulate`` draws guests. Each has its own noise (Student's t with 3 degrees of freedom: some guests are far off), A
and B of a round share the machine's, and metrics are correlated. Columns: rounds that the budget has room for, scatter
of the guests, true B/A (of STOP to RESUME; the other durations change half as much), share of B's updates that lose a
packet, verdicts of the whole rule with its interim analyses. The last column is the uncorrected alternative: each
metric tested alone at 1 % after every round from the sixth to the thirteenth.

``coverage`` compares the interval with scipy's bootstrap, for as many pairs as a session has.

``resample`` uses measured guests of one QEMU (folders of comparisons: results/a, and with ``--equals`` results/b as
well). Neighbours in time become pairs in random order, and are compared as if one of each pair were B: all of them, or
as many consecutive pairs as ``--rounds`` says.
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

from cprlib.campaign.compare import Effect
from cprlib.campaign.compare.decide import decide, smallest_p
from cprlib.campaign.compare.decision import Change, Sample
from cprlib.campaign.compare.guest import DURATIONS, GuestResult, read_guests
from cprlib.campaign.compare.statistics import SINGLE_ANALYSIS, next_analysis, paired_shift
from cprlib.verdict.findings import failed
from cprlib.verdict.policy_file import load_policy

UPDATES = 6
UNCORRECTED = 0.01
CORRELATION = 0.8  # of a guest's metrics
WITHIN = 0.10  # scatter of the updates of one guest


def session(pairs: Sequence[tuple[GuestResult, GuestResult]]) -> tuple[Change, int]:
    """A session of that many rounds, one by one.

    :returns: the verdict, and rounds used.
    """
    spent = 0.0
    for number in range(1, len(pairs) + 1):
        sample = Sample("case", tuple(a for a, _ in pairs[:number]), tuple(b for _, b in pairs[:number]), True)
        refused = bool(sample.b[-1].failures)
        last = refused or number == len(pairs)
        analysis = next_analysis(spent, number / len(pairs), smallest_p([sample]), last=last)
        if analysis is None:
            continue
        spent += analysis.share
        found = decide([sample], analysis, Effect())
        if last or found.change != Change.UNDECIDED:
            return found.change, number
    raise AssertionError("the last analysis decides")


def drawn_guest(draw: numpy.random.Generator, machine: float, scatter: float, ratio: float, loss: float) -> GuestResult:
    """A guest of B with this ratio to A, of A with 1."""
    own = CORRELATION**0.5 * draw.standard_t(3) + (1 - CORRELATION) ** 0.5 * draw.standard_t(3, len(DURATIONS))
    moved = numpy.array([1.0 if metric.name == "stop-to-resume" else 0.5 for metric in DURATIONS]) * math.log(ratio)
    middles = numpy.log(170.0) + machine + scatter * own / 3**0.5 + moved
    updates = numpy.exp(middles[:, None] + WITHIN * draw.standard_normal((len(DURATIONS), UPDATES)))
    lost = int((draw.random(UPDATES) < loss).sum())
    return GuestResult(
        "case",
        UPDATES,
        {metric.name: tuple(values) for metric, values in zip(DURATIONS, updates.tolist(), strict=True)},
        {"lost": lost},
        {"lost": lost},
        failures=(failed("loss", f"{lost} packets lost"),) if lost else (),
    )


def uncorrected(pairs: Sequence[tuple[GuestResult, GuestResult]]) -> bool:
    """Whether some metric is worse after some round, without any correction."""
    for metric in DURATIONS:
        known = [(a.median_ms(metric.name), b.median_ms(metric.name)) for a, b in pairs]
        differences = [math.log(b / a) for a, b in known if a and b]
        counts = range(6, min(len(differences), 13) + 1)
        if any(paired_shift(differences[:count]).p_above <= UNCORRECTED for count in counts):
            return True
    return False


def simulate(runs: int, budgets: Sequence[int]) -> None:
    """Verdicts by scatter and truth."""
    draw = numpy.random.default_rng(6)
    print(f"guests of {UPDATES} updates, {runs} sessions a row")
    print("rounds  scatter   B/A   loss   regress  improve     same  undecided  rounds used  uncorrected: regress")
    for rounds in budgets:
        for scatter in (0.05, 0.10, 0.20, 0.40):
            for ratio, loss in ((1.0, 0.0), (1.1, 0.0), (1.3, 0.0), (1.0, 0.1)):
                seen: Counter[Change] = Counter()
                used, alarms = [], 0
                for _ in range(runs):
                    pairs = []
                    for machine in 0.3 * draw.standard_normal(rounds):
                        a = drawn_guest(draw, machine, scatter, 1.0, 0.0)
                        pairs.append((a, drawn_guest(draw, machine, scatter, ratio, loss)))
                    change, number = session(pairs)
                    seen[change] += 1
                    used.append(number)
                    alarms += uncorrected(pairs) if ratio == 1.0 and not loss else 0
                cells = "".join(f"{100 * seen[change] / runs:7.1f} %" for change in Change)
                rest = f"{100 * alarms / runs:10.1f} %" if ratio == 1.0 and not loss else ""
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
    """A against A with measured guests, in as many rounds as each of the sizes says; None: in all."""
    policy = load_policy("default")
    guests: list[GuestResult] = []
    for folder in folders:
        for name in ("a", "b", "a-again") if equals else ("a", "a-again"):
            place = folder / "results" / name
            if place.is_dir():
                for found in read_guests(place, policy).values():
                    guests += [guest for guest in found if guest.updates > 1]
    guests.sort(key=lambda guest: guest.started_ns)
    good = [guest for guest in guests if guest.valid]
    refused = [item for guest in guests for item in guest.failures]
    print(f"{len(guests)} guests of A, {len(good)} valid, {sum(guest.updates for guest in good)} updates")
    print(f"refused by the policy: {len(refused)}{': ' + refused[0].text if refused else ''}")
    for size in sizes:
        deal(good, runs, min(size or len(good), len(good) // 2))


def deal(good: Sequence[GuestResult], runs: int, rounds: int) -> None:
    """Compare neighbours, a number of consecutive pairs, with either as B."""
    seen: Counter[Change] = Counter()
    lot = random.Random(6)  # noqa: S311
    for _ in range(runs):
        begin = lot.randint(0, len(good) - 2 * rounds)
        part = good[begin : begin + 2 * rounds]
        pairs = []
        for first, second in zip(part[0::2], part[1::2], strict=True):
            pairs.append((first, second) if lot.random() < 0.5 else (second, first))
        seen[session(pairs)[0]] += 1
    print(f"{runs} comparisons of A with A, {rounds} pairs each, paired at random:")
    print(", ".join(f"{change.value} {seen[change]}" for change in Change))
    once = Sample("case", tuple(a for a, _ in pairs), tuple(b for _, b in pairs), True)
    for item in decide([once], SINGLE_ANALYSIS, Effect()).durations:
        print(f"  {item.metric.label}: median {item.a:.1f} ms, noise between guests {100 * (item.noise or 0):.0f} %")


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
