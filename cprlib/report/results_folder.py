"""Results folders: ``results/<UTC time>/`` with its cases, and the link ``results/latest``.

Transcripts and captures may hold what a guest sent, so the folders are for their owner alone (0700).
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cprlib import files
from cprlib.codec import BadValue, dump_json, load_json
from cprlib.errors import EnvironmentFailure, UsageError
from cprlib.evidence.case import STARTED_FILE
from cprlib.update.mechanism import Mechanism

BASELINE_FILE = "baseline.json"  # interruption of each case in the baseline of the run, ms; for judging it again
CASES = "cases"
FIRST_TRIES = "first-tries"  # evidence of cases that were repeated; not judged
JOB_FOLDER = "avocado"  # Avocado's job
LOG_FILE = "avocado.log"  # its output
REPEATS = "avocado-repeats"  # Avocado's job of the repeated tests
LATEST = "latest"
REPEATED_FILE = "repeated.json"  # in it: what the repeated tests replace
UNFINISHED = "unfinished.json"
ID_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")


def new_results_folder(base: Path) -> Path:
    """Make the folder of a run, named by the UTC time; two runs in the same second get different folders.

    Until :func:`publish` it holds ``unfinished.json``, so that a killed run is not mistaken for a complete one.

    :param base: the folder of all runs; made when missing.
    :raises EnvironmentFailure: the folder cannot be made.
    """
    try:
        folder = files.numbered_folder(base, files.utc_name())
        files.write_text(folder / UNFINISHED, dump_json(ProcessId.own()), mode=0o600)
        (folder / CASES).mkdir(mode=0o700)
    except OSError as error:
        raise EnvironmentFailure(f"make a results folder in {base}", str(error), "choose another with --out") from error
    return folder


def require_results(
    folder: Path, tried: str = "read", advice: str = "give the folder of a run, e.g. results/latest"
) -> Path:
    """A folder that a user named.

    :param tried, advice: of the message, which names the folder behind ``tried``.
    :raises UsageError: there is none.
    :raises EnvironmentFailure: this user may not read it.
    """
    try:
        present = folder.is_dir()
        if present:
            next(folder.iterdir(), None)
            (folder / CASES).exists()  # raises where the folder may be listed, and nothing in it be looked at
    except PermissionError as error:
        whose = "only the user who ran cprlib can read its results"
        raise EnvironmentFailure(f"{tried} {folder}", error.strerror or str(error), whose) from error
    if not present:
        raise UsageError(f"{tried} {folder}", "there is no such folder", advice)
    return folder


def publish(folder: Path) -> Path:
    """Mark a run as finished and let ``latest`` beside its folder point to it.

    The link is replaced atomically: a reader sees the old one or the new one. The new one is first made inside the
    folder, so that a kill leaves nothing beside it.

    :returns: the link.
    :raises EnvironmentFailure: the link cannot be made, for example because ``latest`` is a folder.
    """
    link, temporary = folder.parent / LATEST, folder / f".{LATEST}"
    try:
        (folder / UNFINISHED).unlink(missing_ok=True)
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(folder.name)
        os.replace(temporary, link)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise EnvironmentFailure(f"point {link} to {folder.name}", str(error), f"move {link} out of the way") from error
    return link


@dataclass(frozen=True, slots=True)
class ProcessId:
    """Identity of a process that no later process shares.

    :param pid: its number, which the kernel reuses.
    :param started: start time in clock ticks since boot (proc(5), stat, field 22).
    :param boot: boot id of the kernel.
    """

    pid: int
    started: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """Identity of a running process; None when there is no such process."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
            boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        except OSError:
            return None
        return cls(pid, int(stat.rpartition(")")[2].split()[19]), boot)

    @classmethod
    def own(cls) -> ProcessId:
        return cls.of(os.getpid()) or cls(os.getpid(), 0, "")


def _owner(folder: Path) -> ProcessId | None:
    """The process of an unfinished run; None when it has ended or ``unfinished.json`` is broken."""
    try:
        owner = load_json(ProcessId, (folder / UNFINISHED).read_bytes())
    except (OSError, BadValue):
        return None
    return owner if owner in (ProcessId.own(), ProcessId.of(owner.pid)) else None


def is_interrupted(folder: Path) -> bool:
    """True when the run of a results folder ended before it published; False while it is in progress."""
    return (folder / UNFINISHED).exists() and _owner(folder) is None


def unfinished_reason(folder: Path) -> str:
    """Why a results folder is incomplete: its run was interrupted or is in progress. Empty when it is complete.

    Empty also for the run's own process, which reports before it publishes.
    """
    if is_interrupted(folder):
        return "the run was interrupted before it wrote its report; only its cases until then are judged"
    owner = _owner(folder)
    if owner is None or owner == ProcessId.own():
        return ""
    return f"the run is still in progress (process {owner.pid}); its cases are collected when its tests have ended"


@dataclass(frozen=True, slots=True)
class RepeatedTest:
    """A test of a run that is run once more; its second run takes its place.

    :param test: its id in Avocado's first job. :param cases: ids of its cases.
    """

    test: str
    cases: tuple[str, ...] = ()


def write_repeated(results: Path, tests: Sequence[RepeatedTest]) -> None:
    """Record which tests the job of repeated tests replaces.

    :param tests: in the order in which that job runs them.
    """
    files.write_text(results / REPEATS / REPEATED_FILE, dump_json(tests), mode=0o600)


def read_repeated(results: Path) -> tuple[RepeatedTest, ...]:
    """What :func:`write_repeated` recorded; nothing when no test was repeated."""
    try:
        return load_json(tuple[RepeatedTest, ...], (results / REPEATS / REPEATED_FILE).read_bytes())
    except (OSError, BadValue):
        return ()


def replaced_by(number: int, repeated: Sequence[RepeatedTest]) -> RepeatedTest | None:
    """The test that a test in the job of repeated tests replaces.

    :param number: of the repeated test in its job, from 1.
    """
    return repeated[number - 1] if 1 <= number <= len(repeated) else None


def number_of_test(test: str) -> int:
    """The number in Avocado's id or folder of a test: 2 for ``02-f.py:Class.test_x``; 0 without one."""
    digits, dash, _ = test.partition("-")
    return int(digits) if dash and digits.isdecimal() else 0


def plain_name(test: str) -> str:
    """Avocado's name of a test without its number and the folders of its file: ``test_x.py:X.test_y;run-10.0``."""
    path, colon, rest = re.sub(r"^\d+-", "", test).partition(":")
    return f"{path.rpartition('/')[2]}{colon}{rest}"


def method_of(test: str) -> str:
    """The method in Avocado's name of a test: ``test_x`` of ``f.py:Class.test_x;run-10.0-3f2a``."""
    return test.split(";", maxsplit=1)[0].rsplit(".", 1)[-1]


def case_id(test: str) -> str:
    """The id of a test's case: its method without ``test_``, with dashes.

    :param test: Avocado's name of the test.
    """
    return re.sub(r"[^a-z0-9]+", "-", method_of(test).removeprefix("test_").lower()).strip("-")


@dataclass(frozen=True, slots=True)
class StartedCase:
    """What is known of a case before it has evidence."""

    id: str
    test: str = ""
    title: str = ""
    mechanism: Mechanism = Mechanism.NONE
    started_ns: int | None = None


def start_case(
    results: Path, case_id: str, *, test: str = "", title: str = "", mechanism: Mechanism = Mechanism.NONE
) -> Path:
    """Make the folder of a case and record its start, so that a case that never finishes is missed.

    A second case of the same id in one run gets ``-2`` and so on: the folder's name is the case's id.

    :param results: the folder of the run.
    :param test: Avocado's name or id of the test.
    :raises UsageError: the id cannot name a folder.
    :raises EnvironmentFailure: the folder cannot be made.
    """
    if not ID_PATTERN.fullmatch(case_id):
        raise UsageError(f"start case {case_id!r}", "the id cannot name a folder", f"use {ID_PATTERN.pattern}")
    try:
        (results / CASES).mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = files.numbered_folder(results / CASES, case_id)
    except OSError as error:
        raise EnvironmentFailure(f"make the folder of case {case_id}", str(error), "choose another --out") from error
    started = StartedCase(folder.name, test, title, mechanism, time.time_ns())
    files.write_text(folder / STARTED_FILE, dump_json(started), mode=0o600)
    return folder


def read_started(folder: Path) -> StartedCase:
    """What :func:`start_case` recorded; only the id when the file is missing, empty or broken."""
    try:
        return replace(load_json(StartedCase, (folder / STARTED_FILE).read_bytes()), id=folder.name)
    except (OSError, BadValue):
        return StartedCase(folder.name)
