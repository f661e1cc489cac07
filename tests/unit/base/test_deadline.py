"""A deadline knows by type what it waits for: a QEMU, a guest, or the harness."""

from __future__ import annotations

import ast
import itertools
import re
import time
from collections.abc import Iterator

import pytest

from cprlib.deadline import Deadline, wait_while_rising
from cprlib.errors import Awaited, DeadlineExceeded
from cprlib.files import project_folder

QEMU_OR_GUEST = re.compile(r"\b(guest|source|target|QMP|migration)\b|self\.name")
OTHERS = ("cprlib/lab/", "cprlib/build/", "cprlib/campaign/")  # wait for labs, builds and jobs, never in a case


def deadlines() -> Iterator[tuple[str, str, int]]:
    """Place, purpose and number of arguments of each deadline in the code of a case."""
    for path in (*project_folder().glob("cprlib/**/*.py"), *project_folder().glob("tests/functional/*.py")):
        name = str(path.relative_to(project_folder()))
        if name.startswith(OTHERS):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Deadline":
                purpose = ast.unparse(node.args[1]) if len(node.args) > 1 else ""
                yield f"{name}:{node.lineno}", purpose, len(node.args) + len(node.keywords)


def test_what_waits_for_a_qemu_or_a_guest_says_so() -> None:
    found = list(deadlines())
    assert len(found) > 40
    assert [place for place, purpose, count in found if QEMU_OR_GUEST.search(purpose) and count < 3] == []


@pytest.mark.parametrize("awaited", list(Awaited))
def test_error_says_what_was_awaited(awaited: Awaited) -> None:
    with pytest.raises(DeadlineExceeded) as caught:
        Deadline(0.001, "something", awaited).poll(lambda: None)
    assert caught.value.awaited is awaited


def test_a_count_is_awaited_while_it_rises_but_not_for_ever() -> None:
    counts = itertools.count()
    began = time.monotonic()
    assert wait_while_rising(lambda: (next(counts), 10_000_000), quiet_s=10, latest_s=0.2, interval=0.01)
    assert 0.2 <= time.monotonic() - began < 5
    assert not wait_while_rising(lambda: (7, 7), quiet_s=100, latest_s=100, interval=100)  # nothing is missing


@pytest.mark.parametrize(("last", "complete", "still_rising"), [(5, 9, False), (10_000, 10_000, True), (5, 5, False)])
def test_a_count_that_has_come_to_its_end_is_not_still_rising(last: int, complete: int, still_rising: bool) -> None:
    """Although the wait has lasted for its longest time before that is certain."""
    counts = itertools.chain(range(last), itertools.repeat(last))
    assert still_rising == wait_while_rising(lambda: (next(counts), complete), quiet_s=0.3, latest_s=0.3, interval=0.01)
