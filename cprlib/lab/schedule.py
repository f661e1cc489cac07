"""Which tests run in labs at once, and in which order.

How long each test took is remembered from run to run, for each kind of lab: the longest begins first, and all end
together.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cprlib.errors import CprlibError
from cprlib.files import cache_folder, write_json
from cprlib.lab.engine import DEFAULT_MEMORY_MIB
from cprlib.linux.cgroup import usable_cores, usable_memory_mib

TEST_MIB = 1024  # that a lab takes with source and target QEMU, the suite and what it writes
RESULTS = "results.json"  # of a job of Avocado
TEST = re.compile(r"test_\w+\.py:\w+\.test_\w+")  # the end of a reference


def test_name(text: str) -> str:
    """The part of a reference that names the test; empty without one."""
    found = TEST.search(text)
    return found[0] if found else ""


def durations_file(engine: str | None) -> Path:
    """Where the durations are remembered.

    :param engine: the lab's; None natively.
    """
    return cache_folder() / f"durations-{engine or 'native'}.json"


def known_durations(engine: str | None) -> Mapping[str, float]:
    """Seconds that each test took the last time, by :func:`test_name`.

    :param engine: the lab's; None natively.
    """
    try:
        value = json.loads(durations_file(engine).read_bytes())
        return {str(name): float(seconds) for name, seconds in value.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def longest_first(tests: Iterable[Any], engine: str | None) -> list[Any]:
    """Tests in the order in which they should begin; those that are not known come first.

    :param tests: Avocado's, each with its reference as ``uri``.
    :param engine: the lab's; None natively.
    """
    known = known_durations(engine)
    return sorted(tests, key=lambda test: -known.get(test_name(str(test.uri)), float("inf")))


def remember_durations(jobs: Iterable[Path], engine: str | None) -> None:
    """Remember how long the tests of a run took.

    :param jobs: folders of Avocado's jobs.
    :param engine: the lab's; None natively.
    """
    seconds = dict(known_durations(engine))
    for job in jobs:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            tests = json.loads((job / RESULTS).read_bytes())["tests"]
            seconds |= {test_name(test["name"]): round(test["time_elapsed"], 1) for test in tests}
    with contextlib.suppress(CprlibError, OSError):  # a cache that cannot be written
        write_json(durations_file(engine), seconds)


def parallel_tests(engine: str | None, root: Path = Path("/")) -> int:
    """One natively; in labs one per processor, as far as memory suffices. At least 1.

    :param engine: the lab's; None natively.
    :param root: root of the file system; another one for tests.
    """
    if engine is None:
        return 1
    return max(1, min(usable_cores(root), usable_memory_mib(root) // TEST_MIB))


def lab_memory_mib(root: Path = Path("/")) -> int:
    """MiB for one of the labs that run at once: the default, less where a container has less, at least what it takes.

    A lab's kernel fills its memory with cached files, so a lab that is larger than its container is killed in the end.
    """
    share = usable_memory_mib(root) // usable_cores(root)
    return max(TEST_MIB, min(DEFAULT_MEMORY_MIB, share))
