"""A soak that was cut off, also by kill -9, goes on with exactly the cases that it would have had."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from cprlib.campaign.mutation.outcome import CellOutcome
from cprlib.campaign.soak.draw import draw
from cprlib.campaign.soak.record import SOAK_FILE, CaseRow, read_past
from cprlib.campaign.soak.soak import latest_soak, missing_numbers, new_soak, read_wanted, rest_seconds, seconds_left
from cprlib.campaign.work_folder import ASIDE, at_work
from cprlib.deadline import Deadline
from cprlib.errors import ExitStatus, UsageError
from cprlib.files import project_folder
from tests.unit.mutation.samples import put_cell
from tests.unit.soak.samples import WANTED
from tests.unit.soak.standin import TESTS, passes, run_standin
from tests.unit.verdict.samples import good_case


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return new_soak(tmp_path / "soaks", WANTED)


def whole(rows: tuple[CaseRow, ...]) -> dict[int, tuple[str, dict[str, str]]]:
    """The cases by number, each once."""
    found = {row.number: (row.test, dict(row.parameters)) for row in rows}
    assert len(found) == len(rows)
    return found


def wanted_of(count: int) -> dict[int, tuple[str, dict[str, str]]]:
    drawn = [draw(WANTED.seed, number, WANTED.tests, WANTED.choices) for number in range(1, count + 1)]
    return {item.number: (item.test, dict(item.parameters)) for item in drawn}


def test_session_runs_the_draws_in_order_and_keeps_nothing_of_those_that_pass(folder: Path) -> None:
    result = run_standin(folder, 9)
    rows = result.past.cases
    assert len(rows) == 9
    assert whole(rows) == wanted_of(len(rows))
    assert {row.outcome for row in rows} == {CellOutcome.PASSED}
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "soak.html", "soak.json", "wanted.json"]
    assert read_past(folder) == result.past


def test_killed_soak_goes_on_as_if_nothing_had_been(folder: Path) -> None:
    command = [sys.executable, "-m", "tests.unit.soak.standin", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(project_folder())}
    for _ in range(3):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
            assert child.stdout
            for _ in range(4):
                assert "passed" in child.stdout.readline()
            child.send_signal(signal.SIGKILL)
    cut = json.loads((folder / SOAK_FILE).read_text())
    assert cut["state"] == "running"
    before = read_past(folder)
    assert len(before.sessions) == 3
    assert len(before.cases) >= 12
    result = run_standin(folder, 5)
    assert len(result.past.cases) > len(before.cases)
    assert whole(result.past.cases) == wanted_of(len(result.past.cases))
    assert result.past.cases[: len(before.cases)] == before.cases
    assert {row.session for row in result.past.cases} == {0, 1, 2, 3}
    assert result.past.seconds >= before.seconds
    moments = [sample.at_s for sample in result.past.samples]
    assert moments == sorted(moments)
    assert not (folder / ASIDE).exists()


def test_cases_that_were_cut_off_come_first(folder: Path) -> None:
    past = run_standin(folder, 6, parallel=1).past
    cut = replace(past, cases=tuple(row for row in past.cases if row.number not in (2, 5)))
    numbers = missing_numbers(cut)
    assert [next(numbers) for _ in range(3)] == [2, 5, 7]


def test_interruption_ends_in_order_with_a_result(folder: Path) -> None:
    begun = itertools.count(1)

    def behave(place: Path, reference: str, parameters: Mapping[str, str]) -> None:
        if next(begun) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        passes(place, reference, parameters)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, where this runs in the background
    try:
        with pytest.raises(KeyboardInterrupt):
            run_standin(folder, None, behave)
    finally:
        signal.signal(signal.SIGINT, before)
    value = json.loads((folder / SOAK_FILE).read_text())
    assert value["state"] == "interrupted"
    assert value["cases"]
    assert "Cut off" in (folder / "soak.html").read_text()
    with at_work(folder, "cprlib soak"):
        pass  # nobody holds it
    assert whole(run_standin(folder, 3).past.cases) == wanted_of(len(read_past(folder).cases))


def test_failing_case_is_kept_with_its_report(folder: Path) -> None:
    def behave(place: Path, reference: str, parameters: Mapping[str, str]) -> None:
        if "test-a" in reference:
            put_cell(place, "FAIL", "verdict: fail: x", replace(good_case(), fds=replace(good_case().fds, unpaired=3)))
        else:
            passes(place, reference, parameters)

    result = run_standin(folder, 3, behave)
    failed = [row for row in result.past.cases if row.outcome == CellOutcome.DETECTED]
    assert failed
    assert result.exit_status == ExitStatus.FAIL
    assert (folder / failed[0].folder / "report.html").exists()
    assert (folder / failed[0].folder / "cases").is_dir()


def test_leak_of_the_harness_is_found(folder: Path) -> None:
    leaked = []

    def behave(place: Path, reference: str, parameters: Mapping[str, str]) -> None:
        leaked.append(os.open("/dev/null", os.O_RDONLY))
        passes(place, reference, parameters)

    try:
        result = run_standin(folder, 24, behave, parallel=1, rest_s=0)
    finally:
        for descriptor in leaked:
            os.close(descriptor)
    assert result.trends["descriptors"].outcome == "fail"
    assert result.exit_status == ExitStatus.FAIL


def test_process_that_a_case_leaves_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cprlib.campaign.soak import work  # noqa: PLC0415
    from cprlib.campaign.soak.processes import mark  # noqa: PLC0415

    monkeypatch.setattr(work, "GONE_S", 0.2)
    left = subprocess.Popen(["sleep", "60"], env={**os.environ, **mark(str(folder), 1)})
    try:
        command = Path(f"/proc/{left.pid}/cmdline")
        Deadline(5, "its command line").poll(lambda: command.read_bytes().startswith(b"sleep") or None)
        result = run_standin(folder, 3, parallel=1)
    finally:
        left.kill()
        left.wait()
    assert result.past.cases[0].left == (f"{left.pid} sleep 60",)
    assert result.exit_status == ExitStatus.FAIL
    assert [row.left for row in result.past.cases[1:]] == [()] * (len(result.past.cases) - 1)


def test_two_cannot_work_at_once(folder: Path) -> None:
    with at_work(folder, "cprlib soak"), pytest.raises(UsageError, match="another cprlib soak"):
        run_standin(folder, 1)


def test_suite_without_a_drawn_test_cannot_go_on(folder: Path) -> None:
    wanted = replace(WANTED, tests=("test-a", "gone"))
    other = new_soak(folder.parent, wanted)
    with pytest.raises(UsageError, match="no test 'gone'"):
        run_standin(other, 1)
    assert len(TESTS) == 3


def test_time_that_is_left(folder: Path) -> None:
    assert seconds_left(folder, WANTED, None) == 3600
    run_standin(folder, 1)
    assert 3590 < seconds_left(folder, WANTED, None) < 3600
    assert seconds_left(folder, WANTED, 0.5) == 1800
    with pytest.raises(UsageError, match="give --hours for more"):
        seconds_left(folder, replace(WANTED, hours=1e-6), None)


def test_rests_fit_the_length_of_a_session() -> None:
    assert [rest_seconds(hours * 3600) for hours in (0.05, 1, 24)] == [15, 90, 120]


def test_latest_soak_is_the_one_begun_last(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is none"):
        latest_soak(tmp_path)
    first = new_soak(tmp_path, replace(WANTED, started_ns=2))
    new_soak(tmp_path, replace(WANTED, started_ns=1))
    (tmp_path / "latest").symlink_to(first.name)
    assert latest_soak(tmp_path) == first
    assert read_wanted(first) == replace(WANTED, started_ns=2)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 9}', '{"schema": 1, "cases": [{"number": "one"}]}'])
def test_broken_file_is_a_usage_error(folder: Path, text: str) -> None:
    (folder / SOAK_FILE).write_text(text)
    with pytest.raises(UsageError, match=r"soak\.json"):
        read_past(folder)
