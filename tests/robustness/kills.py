"""Kill the harness with SIGKILL at random moments, many times in a row, and look for what it left.

::

    python -m tests.robustness.kills --kills 50                   # all of them (a quarter of an hour in the lab)
    python -m tests.robustness.kills --kills 50 --first 1 --last 17 --seed 7 --log FILE   # a part of the same fifty
    python -m tests.robustness.kills --kills 10 --mode native     # natively, under TCG (root, /dev/net/tun)

Moments are spread over the length of an ordinary run, one in each of as many parts as there are kills; who is killed
(cprlib, Avocado, the runner of the test) and whether something has to be built follows from the seed, which is printed.
An ordinary run comes first, for its length, and last: it has to pass.
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
from tests.robustness.host_view import HostView, look
from tests.robustness.processes import become_subreaper, descendants, objects_alive, objects_of, reap
from tests.robustness.residue import cache_faults, forget_built, results_faults

SETTLE_S = 10.0  # until everything that belonged to a killed run has gone
END_S = 60.0  # until cprlib has ended by itself when Avocado or the runner was killed
POLL_S = 0.02
LONGEST_AGAIN = 3  # runs for one kill whose moment comes after the run's end
NOBODY = "nobody"


@dataclass(frozen=True, slots=True)
class Kill:
    """One kill, as the seed has it.

    :param part: of an ordinary run's length, from its start.
    :param built: whether entries were taken out of the cache, so that the run has to build them.
    """

    number: int
    part: float
    victim: str
    built: bool


@dataclass(frozen=True, slots=True)
class KillResult:
    """What came of a kill.

    :param victim: who was killed: cprlib where the chosen one did not live at that moment.
    :param settle_ms: until the last process of the run was gone, after the kill or after cprlib's own end.
    :param status: cprlib's exit status, negative for a signal.
    :param left: what was left; empty when all is well.
    """

    kill: Kill
    moment_s: float
    phase: str
    victim: str
    status: int
    settle_ms: float
    left: list[str]

    def line(self) -> str:
        """For people."""
        kill = self.kill
        built = ", building" if kill.built else ""
        head = f"kill {kill.number:2}: {self.victim:7} at {self.moment_s:5.1f} s ({self.phase}{built})"
        tail = "nothing left" if not self.left else "LEFT: " + "; ".join(self.left)
        return f"{head}, status {self.status}, gone after {self.settle_ms:.0f} ms: {tail}"


def plan(kills: int, seed: int) -> list[Kill]:
    """All kills of a seed: one in each part of a run's length, in a random order."""
    chance = random.Random(seed)  # noqa: S311 - has to be repeatable
    parts = [(index + chance.random()) / kills for index in range(kills)]
    chance.shuffle(parts)
    victims = ("cprlib", "cprlib", "avocado", "runner")
    return [Kill(number, part, chance.choice(victims), chance.random() < 0.25) for number, part in enumerate(parts, 1)]


class Session:
    """Kills in one set of folders.

    :param mode: ``lab`` or ``native``.
    """

    def __init__(self, folders: Folders, mode: str) -> None:
        self.folders = folders
        self.mode = mode
        self.log = folders.root / "output.log"
        self._before = self._look()

    def _look(self) -> HostView:
        return look([self.folders.temporary, self.folders.home], [self.folders.cache, self.folders.results])

    def ordinary(self) -> float:
        """A run that nobody kills; gives its length in s.

        :raises SystemExit: it does not pass, or leaves something.
        """
        begun = time.monotonic()
        with running(self.folders, self.mode, self.log) as harness:
            status = harness.process.wait()
        length = time.monotonic() - begun
        settle_ms, left = self._settle(harness, set())
        left += self._faults()
        print(f"ordinary run: status {status} after {length:.1f} s, gone after {settle_ms:.0f} ms", flush=True)
        if status != 0 or left:
            said = self.log.read_text(errors="replace")[-3000:]
            raise SystemExit(f"an ordinary run ended with {status}, left {left or 'nothing'}:\n{said}")
        return length

    def kill(self, kill: Kill, length: float) -> KillResult:
        """One run, killed; and what is left of it."""
        if kill.built:
            forget_built(self.folders.cache)
        own = objects_of([os.getpid()])
        with running(self.folders, self.mode, self.log) as harness:
            begun = time.monotonic()
            ended = self._wait(harness, kill.part * length)
            moment = time.monotonic() - begun
            victim = harness.victim(kill.victim) or harness.victim("cprlib")
            phase = "after its end" if ended or victim is None else harness.phase()
            held = objects_of(process.pid for process in harness.processes()) - own
            name = NOBODY
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
        return KillResult(kill, moment, phase, name, status, settle_ms, left)

    @staticmethod
    def _wait(harness: Harness, seconds: float) -> bool:
        """Let the run go on for so long; True when it has ended by itself."""
        try:
            harness.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    @staticmethod
    def _settle(harness: Harness, held: set[str]) -> tuple[float, list[str]]:
        """Wait until nothing of the run is there; how long that took in ms, and what is there still."""
        begun = time.monotonic()
        deadline = Deadline(SETTLE_S, "the run's processes to go")
        left: list[str] = []
        while True:
            there = descendants(os.getpid())
            reap(there, [harness.process.pid])
            left = [f"process {one.pid}: {one.command[:120]}" for one in there if one.state != "Z"]
            if not left and held:
                left = sorted(held & objects_alive())
            if not left or deadline.expired:
                return (time.monotonic() - begun) * 1000, left
            time.sleep(POLL_S)

    def _faults(self) -> list[str]:
        now = self._look()
        return [*now.more_than(self._before), *now.less_than(self._before), *cache_faults(self.folders.cache)]


def session(arguments: argparse.Namespace, folders: Folders) -> int:
    """Do what the command line says; gives how many kills left something."""
    kills = plan(arguments.kills, arguments.seed)[arguments.first - 1 : arguments.last]
    made = Session(folders, arguments.mode)
    length = made.ordinary()
    bad = done = killed = 0
    end = time.monotonic() + arguments.seconds
    for kill in kills:
        if time.monotonic() + kill.part * length > end:
            print(f"no time for kill {kill.number}: go on with --first {kill.number}")
            break
        done += 1
        outcome = made.kill(kill, length)
        for _ in range(LONGEST_AGAIN):
            if outcome.victim != NOBODY or outcome.left:
                break
            length = min(length, outcome.moment_s)  # it was over before: the first run was slower than others
            outcome = made.kill(kill, length)
        print(outcome.line(), flush=True)
        killed += outcome.victim != NOBODY
        bad += bool(outcome.left)
        if arguments.log:
            with open(arguments.log, "a", encoding="utf-8") as stream:
                stream.write(json.dumps(dataclasses.asdict(outcome)) + "\n")
    made.ordinary()
    print(f"{killed} of {done} runs killed, {bad} left something (seed {arguments.seed}, {arguments.mode})", flush=True)
    return bad


def main(given: Sequence[str] | None = None) -> int:
    """The command line; exit status 1 when something was left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="how many a whole session has (50)")
    parser.add_argument("--first", type=int, default=1, help="the first one to be done now")
    parser.add_argument("--last", type=int, help="the last one to be done now")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no kill that would end later")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--mode", choices=("lab", "native"), default="lab")
    parser.add_argument("--log", help="append each outcome to this file, one JSON object a line")
    arguments = parser.parse_args(given)
    print(f"seed {arguments.seed}", flush=True)
    become_subreaper()
    with terminate_on_signals(), tempfile.TemporaryDirectory(prefix="kills-", dir="/var/tmp") as root:
        folders = Folders(Path(root))
        folders.make()
        return int(session(arguments, folders) > 0)


if __name__ == "__main__":
    sys.exit(main())
