"""How a matrix scales with the number of tests at once: the same points with 1, 2 and 3, on this machine.

Run from the checkout::

    python benchmarks/scaling.py [--matrix push] [--points '*-cpr-*'] [--parallel 1,2,3] [--rounds 2] [--out DIR]

Each round runs every number of tests at once, in reverse order of the round before, so that a machine that slows down
affects all of them alike; ratios are within a round. Times run from the start of the first test to the end of the last,
with labs and guests, without building and reports. The interruption is the median over the points, on the way to the
guest. Tests that disturb each other make it longer and lose packets.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
VERDICTS = (0, 1, 3)  # pass, fail, inconclusive: the tests ran


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of all points.

    :param seconds: from the start of the first test to the end of the last.
    :param interruption_ms: median over the points.
    :param lost: packets, in both directions, of all points.
    """

    seconds: float
    cases: int
    verdict: str
    interruption_ms: float | None
    lost: int


def read_sample(results: Path) -> Sample:
    """Read the results folder of a run."""
    job = json.loads(next(results.glob("avocado/job-*/results.json")).read_text(encoding="utf-8"))
    report: Mapping[str, Any] = json.loads((results / "run.json").read_text(encoding="utf-8"))
    cases: Sequence[Mapping[str, Any]] = report["cases"]
    pauses = [case["interruption_ms"]["forward"] for case in cases if case["interruption_ms"]["forward"] is not None]
    lost = sum(count or 0 for case in cases for count in case["loss"].values())
    median = statistics.median(pauses) if pauses else None
    started = min(float(test["actual_time_start"]) for test in job["tests"])
    ended = max(float(test["actual_time_end"]) for test in job["tests"])
    return Sample(round(ended - started, 1), len(cases), str(report["verdict"]), median, lost)


def run_once(parallel: int, matrix: str, points: Sequence[str], out: Path) -> Sample:
    """Run the points.

    :param parallel: tests at once.
    :raises SystemExit: the run had no verdict.
    """
    command = [sys.executable, "-m", "cprlib.cli.main", "run", "--lab", "--matrix", matrix, "--out", str(out)]
    command += ["--parallel", str(parallel), *(word for pattern in points for word in ("--points", pattern))]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    if done.returncode not in VERDICTS:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return read_sample((out / "latest").resolve())


def table(samples: Mapping[int, Sequence[Sample]]) -> str:
    """Medians, and the speed relative to the first number in each round."""
    first = next(iter(samples))
    lines = ["at once  job s (each round)      faster than 1 (each round)  interruption ms  lost  verdicts"]
    for parallel, runs in samples.items():
        ratios = [base.seconds / run.seconds for base, run in zip(samples[first], runs, strict=True)]
        pauses = [run.interruption_ms for run in runs if run.interruption_ms is not None]
        times = ", ".join(f"{run.seconds:.1f}" for run in runs)
        speeds = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        pause = f"{statistics.median(pauses):.0f}" if pauses else "-"
        verdicts = ", ".join(run.verdict for run in runs)
        lines.append(f"{parallel:7}  {times:22}  {speeds:26}  {pause:>15}  {sum(r.lost for r in runs):4}  {verdicts}")
    return "\n".join(lines)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--matrix", default="push")
    parser.add_argument("--points", action="append", help="patterns of points; by default *-cpr-*")
    parser.add_argument("--parallel", default="1,2,3", help="tests at once; the first is the reference")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, help="keep the results folders here")
    arguments = parser.parse_args()
    numbers = [int(word) for word in arguments.parallel.split(",")]
    samples: dict[int, list[Sample]] = {number: [] for number in numbers}
    with tempfile.TemporaryDirectory(prefix="cprlib-scaling-") as temporary:
        out = arguments.out or Path(temporary)
        for turn in range(arguments.rounds):
            order = numbers if turn % 2 == 0 else numbers[::-1]
            for number in order:
                samples[number].append(run_once(number, arguments.matrix, arguments.points or ["*-cpr-*"], out))
                print(f"round {turn + 1}, {number} at once: {samples[number][-1]}", file=sys.stderr, flush=True)
    print(table(samples))


if __name__ == "__main__":
    main()
