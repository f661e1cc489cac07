"""Kill ``cprlib run`` with SIGKILL at random times, again and again, and search for leftovers.

::

    python -m tests.robustness.kills --kills 50                   # all (a quarter of an hour in the lab)
    python -m tests.robustness.kills --kills 50 --first 1 --last 17 --seed 7 --log FILE   # a part of the same 50
    python -m tests.robustness.kills --kills 10 --mode native     # natively, under TCG (root, /dev/net/tun)

The duration of a normal run is divided into as many parts as there are kills, with one kill in each. The seed, which is
printed, decides the victim (cprlib, Avocado, the runner of the test) and whether something must be built. A normal run
comes first, to measure the duration, and last; both must pass.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cprlib.deadline import Deadline
from cprlib.process import terminate_on_signals
from tests.robustness.harness import Folders, Harness, running
from tests.robustness.host_view import HostView, view_host
from tests.robustness.leftovers import cache_faults, remove_entries, results_faults
from tests.robustness.processes import become_subreaper, descendants, objects_alive, objects_of, reap

SETTLE_S = 10.0  # until all processes of a killed run have ended
END_S = 60.0  # until cprlib ends after Avocado or the runner was killed
POLL_S = 0.02
RETRIES = 3  # of a kill that came after the end of the run
NO_VICTIM = "none"
MIN_KILLS = 10  # of a session in which each kind of process must have been killed


@dataclass(frozen=True, slots=True)
class Kill:
    """A planned kill.

    :param part: time of the kill as a fraction of a normal run.
    :param built: cache entries are removed first, so that the run builds them.
    """

    number: int
    part: float
    victim: str
    built: bool


@dataclass(frozen=True, slots=True)
class KillResult:
    """Result of a kill.

    :param victim: the killed process: cprlib if the planned one did not run at that time.
    :param settle_ms: time until the last process of the run ended, after the kill or after the end of cprlib.
    :param status: exit status of cprlib, negative for a signal.
    :param left: leftovers.
    """

    kill: Kill
    time_s: float
    phase: str
    victim: str
    status: int
    settle_ms: float
    left: list[str]

    def line(self) -> str:
        """A line for people."""
        kill = self.kill
        built = ", building" if kill.built else ""
        head = f"kill {kill.number:2}: {self.victim:7} at {self.time_s:5.1f} s ({self.phase}{built})"
        tail = "nothing left" if not self.left else "LEFT: " + "; ".join(self.left)
        return f"{head}, status {self.status}, all processes ended after {self.settle_ms:.0f} ms: {tail}"


def plan(kills: int, seed: int) -> list[Kill]:
    """All kills of a seed, in random order: one in each part of the duration of a run."""
    chance = random.Random(seed)  # noqa: S311 - must be repeatable
    parts = [(index + chance.random()) / kills for index in range(kills)]
    chance.shuffle(parts)
    victims = ("cprlib", "cprlib", "avocado", "runner")
    return [Kill(number, part, chance.choice(victims), chance.random() < 0.25) for number, part in enumerate(parts, 1)]


class Session:
    """A series of kills in one set of folders.

    :param mode: ``lab`` or ``native``.
    """

    def __init__(self, folders: Folders, mode: str) -> None:
        self.folders = folders
        self.mode = mode
        self.log = folders.root / "output.log"
        self._before = self._view()

    def _view(self) -> HostView:
        return view_host([self.folders.temporary, self.folders.home], [self.folders.cache, self.folders.results])

    def run_normally(self) -> float:
        """Run without a kill; returns the duration in s.

        :raises SystemExit: the run does not pass, or leaves something behind.
        """
        begun = time.monotonic()
        with running(self.folders, self.mode, self.log) as harness:
            status = harness.process.wait()
        duration = time.monotonic() - begun
        settle_ms, left = self._settle(harness, set())
        left += self._faults()
        print(f"normal run: status {status} after {duration:.1f} s, ended after {settle_ms:.0f} ms", flush=True)
        if status != 0 or left:
            output = self.log.read_text(errors="replace")[-3000:]
            raise SystemExit(f"a normal run ended with status {status} and left {left or 'nothing'}:\n{output}")
        return duration

    def kill(self, kill: Kill, duration: float) -> KillResult:
        """Run, kill, and search for leftovers."""
        if kill.built:
            remove_entries(self.folders.cache)
        own = objects_of([os.getpid()])
        with running(self.folders, self.mode, self.log) as harness:
            begun = time.monotonic()
            ended = self._wait(harness, kill.part * duration)
            time_s = time.monotonic() - begun
            victim = harness.victim(kill.victim) or harness.victim("cprlib")
            phase = "after the end" if ended or victim is None else harness.phase()
            held = objects_of(process.pid for process in harness.processes()) - own
            name = NO_VICTIM
            if victim is not None:
                name = kill.victim if harness.victim(kill.victim) else "cprlib"
                os.kill(victim.pid, signal.SIGKILL)
            left = []
            try:
                status = harness.process.wait(timeout=END_S)
            except subprocess.TimeoutExpired:
                status, left = 0, [f"cprlib still runs {END_S:.0f} s after {name} was killed"]
        settle_ms, more = self._settle(harness, held)
        left += more
        left += self._faults()
        left += results_faults(self.folders.results, status, harness.results())
        return KillResult(kill, time_s, phase, name, status, settle_ms, left)

    @staticmethod
    def _wait(harness: Harness, seconds: float) -> bool:
        """Wait; True if the run ends within the time."""
        try:
            harness.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    @staticmethod
    def _settle(harness: Harness, held: set[str]) -> tuple[float, list[str]]:
        """Wait until nothing of the run is left; returns the time in ms, and the leftovers."""
        begun = time.monotonic()
        deadline = Deadline(SETTLE_S, "the end of the run's processes")
        left: list[str] = []
        while True:
            alive = descendants(os.getpid())
            reap(alive, [harness.process.pid])
            left = [f"process {one.pid}: {one.command[:120]}" for one in alive if not one.zombie]
            if not left and held:
                left = sorted(held & objects_alive())
            if not left or deadline.expired:
                return (time.monotonic() - begun) * 1000, left
            time.sleep(POLL_S)

    def _faults(self) -> list[str]:
        now = self._view()
        return [*now.added_since(self._before), *now.removed_since(self._before), *cache_faults(self.folders.cache)]


def never_killed(results: Sequence[KillResult]) -> list[str]:
    """The kinds of processes that were planned to be killed and were never found; none in a short session."""
    planned = {result.kill.victim for result in results} if len(results) >= MIN_KILLS else set()
    return sorted(planned - {result.victim for result in results})


def run_session(arguments: argparse.Namespace, folders: Folders) -> int:
    """Run the kills that the command line selects.

    :returns: number of kills that left something, plus that of the kinds of processes that were never found.
    """
    kills = plan(arguments.kills, arguments.seed)[arguments.first - 1 : arguments.last]
    session = Session(folders, arguments.mode)
    duration = session.run_normally()
    bad = killed = 0
    results: list[KillResult] = []
    end = time.monotonic() + arguments.seconds
    for kill in kills:
        if time.monotonic() + kill.part * duration > end:
            print(f"no time for kill {kill.number}: continue with --first {kill.number}")
            break
        result = session.kill(kill, duration)
        for _ in range(RETRIES):
            if result.victim != NO_VICTIM or result.left:
                break
            duration = min(duration, result.time_s)  # the run had ended: the first run was slower
            result = session.kill(kill, duration)
        print(result.line(), flush=True)
        results.append(result)
        killed += result.victim != NO_VICTIM
        bad += bool(result.left)
        if arguments.log:
            with open(arguments.log, "a", encoding="utf-8") as stream:
                stream.write(json.dumps(dataclasses.asdict(result)) + "\n")
    session.run_normally()
    about = f"(seed {arguments.seed}, {arguments.mode})"
    print(f"{killed} of {len(results)} runs killed, {bad} left something {about}", flush=True)
    missed = never_killed(results)
    for kind in missed:
        print(f"no {kind} was found in any run: its pattern in harness.py does not fit", flush=True)
    return bad + len(missed)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; exit status 1 if a kill left something."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="number of kills of the session (50)")
    parser.add_argument("--first", type=int, default=1, help="first kill to run now")
    parser.add_argument("--last", type=int, help="last kill to run now")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no kill that would end later")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--mode", choices=("lab", "native"), default="lab")
    parser.add_argument("--log", help="append each result to this file, one JSON object per line")
    arguments = parser.parse_args(argv)
    print(f"seed {arguments.seed}", flush=True)
    become_subreaper()
    with terminate_on_signals(), tempfile.TemporaryDirectory(prefix="kills-", dir="/var/tmp") as root:
        folders = Folders(Path(root))
        folders.make()
        return int(run_session(arguments, folders) > 0)


if __name__ == "__main__":
    sys.exit(main())
