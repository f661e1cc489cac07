"""How many tests run at once, and the memory of their labs."""

from __future__ import annotations

from pathlib import Path

from cprlib.lab.engine import DEFAULT_MEMORY_MIB
from cprlib.linux.cgroup import usable_cores, usable_memory_mib

TEST_MIB = 1024  # that a lab takes with source and target QEMU, the suite and what it writes


def parallel_tests(engine: str | None, root: Path = Path("/")) -> int:
    """One natively; in labs one per processor, as far as memory suffices. At least 1.

    :param engine: of the lab; None natively.
    :param root: of the file system; another one for tests.
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
