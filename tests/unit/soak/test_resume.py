"""An interrupted soak, also one that was killed, continues with exactly the cases that it would have had."""

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

from cprlib.campaign.outcome import JobOutcome
from cprlib.campaign.soak.draw import draw
from cprlib.campaign.soak.output import write_json_file
from cprlib.campaign.soak.result import (
    CASES_FILE,
    SOAK_FILE,
    STORE,
    SoakCase,
    SoakResult,
    append_case,
    read_soak,
    write_cases,
)
from cprlib.campaign.soak.run import missing_numbers, sample_interval, seconds_left
from cprlib.campaign.store import PARTIAL
from cprlib.deadline import Deadline
from cprlib.errors import ExitStatus, UsageError
from cprlib.files import project_folder
from tests.unit.evidence.samples import good_case
from tests.unit.mutation.samples import put_job
from tests.unit.soak.samples import REQUEST
from tests.unit.soak.standin import TESTS, passes, run_standin


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return STORE.begin(tmp_path / "soaks", REQUEST)


def whole(cases: tuple[SoakCase, ...]) -> dict[int, tuple[str, dict[str, str]]]:
    """The cases by number, each once."""
    found = {case.number: (case.test, dict(case.parameters)) for case in cases}
    assert len(found) == len(cases)
    return found


def drawn_cases(count: int) -> dict[int, tuple[str, dict[str, str]]]:
    return {
        number: (test, dict(parameters))
        for number in range(1, count + 1)
        for test, parameters in [draw(REQUEST.seed, number, REQUEST.tests, REQUEST.choices)]
    }


def test_session_runs_the_draws_in_order_and_keeps_nothing_of_those_that_pass(folder: Path) -> None:
    result = run_standin(folder, 9)
    cases = result.history.cases
    assert len(cases) == 9
    assert whole(cases) == drawn_cases(len(cases))
    assert {case.outcome for case in cases} == {JobOutcome.PASSED}
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "session.json", "soak.html", "soak.json"]
    assert read_soak(folder) == result.history


def test_killed_soak_continues_with_the_same_cases(folder: Path) -> None:
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
    before = read_soak(folder)
    assert len(before.sessions) == 3
    assert len(before.cases) >= 12
    result = run_standin(folder, 5)
    assert len(result.history.cases) > len(before.cases)
    assert whole(result.history.cases) == drawn_cases(len(result.history.cases))
    assert result.history.cases[: len(before.cases)] == before.cases
    assert {case.session for case in result.history.cases} == {0, 1, 2, 3}
    assert result.history.seconds >= before.seconds
    moments = [sample.at_s for sample in result.history.samples]
    assert moments == sorted(moments)
    assert not (folder / PARTIAL).exists()


def test_cases_since_the_last_sample_are_in_a_file_whose_last_line_may_be_cut_off(folder: Path) -> None:
    history = run_standin(folder, 6, parallel=1).history
    *before, other = history.cases
    late = replace(other, started_ns=history.sessions[0].started_ns + 9000 * 10**9, seconds=6.0)
    write_cases(folder, replace(history, cases=tuple(before)))  # the cases in soak.json stay, as after a kill
    append_case(folder, late)
    known = read_soak(folder)
    assert known.cases == (*before, late)
    assert known.seconds == 9006
    path = folder / CASES_FILE
    path.write_bytes(path.read_bytes()[:-10])
    assert read_soak(folder).cases == history.cases[:-1]
    result = run_standin(folder, 1, parallel=1)
    assert whole(result.history.cases) == drawn_cases(6)
    assert not path.exists()
    assert read_soak(folder) == result.history


def test_soak_json_is_written_at_samples_alone_and_has_the_cases_at_the_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cprlib.campaign.soak import run  # noqa: PLC0415

    written: list[int] = []

    def write(result: SoakResult) -> Path:
        written.append(len(result.history.cases))
        return write_json_file(result)

    monkeypatch.setattr(run, "write_json_file", write)
    run_standin(folder, 9, interval_s=1000)
    assert written == [0, 0, 9]


def test_interrupted_cases_come_first(folder: Path) -> None:
    history = run_standin(folder, 6, parallel=1).history
    cut = replace(history, cases=tuple(case for case in history.cases if case.number not in (2, 5)))
    numbers = missing_numbers(cut)
    assert [next(numbers) for _ in range(3)] == [2, 5, 7]


def test_interruption_writes_a_result_and_frees_the_lock(folder: Path) -> None:
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
    assert "Interrupted" in (folder / "soak.html").read_text()
    with STORE.locked(folder):
        pass  # the lock is free
    assert whole(run_standin(folder, 3).history.cases) == drawn_cases(len(read_soak(folder).cases))


def test_failing_case_is_kept_with_its_report(folder: Path) -> None:
    def behave(place: Path, reference: str, parameters: Mapping[str, str]) -> None:
        if "test-a" in reference:
            put_job(place, "FAIL", "verdict: fail: x", replace(good_case(), fds=replace(good_case().fds, unpaired=3)))
        else:
            passes(place, reference, parameters)

    result = run_standin(folder, 3, behave)
    failed = [case for case in result.history.cases if case.outcome == JobOutcome.FAILED]
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
        result = run_standin(folder, 24, behave, parallel=1, interval_s=0)
    finally:
        for descriptor in leaked:
            os.close(descriptor)
    assert result.trends["descriptors"].verdict == "fail"
    assert result.exit_status == ExitStatus.FAIL


def test_process_that_a_case_leaves_is_found(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from cprlib.campaign.soak import jobs  # noqa: PLC0415
    from cprlib.campaign.soak.resources import mark  # noqa: PLC0415

    monkeypatch.setattr(jobs, "GONE_S", 0.2)
    left = subprocess.Popen(["sleep", "60"], env={**os.environ, **mark(str(folder), 1)})
    try:
        command = Path(f"/proc/{left.pid}/cmdline")
        Deadline(5, "its command line").poll(lambda: command.read_bytes().startswith(b"sleep"))
        result = run_standin(folder, 3, parallel=1)
    finally:
        left.kill()
        left.wait()
    assert result.history.cases[0].left == (f"{left.pid} sleep 60",)
    assert result.exit_status == ExitStatus.FAIL
    assert "failed after" in capsys.readouterr().out
    assert [case.left for case in result.history.cases[1:]] == [()] * (len(result.history.cases) - 1)


def test_two_sessions_cannot_run_at_once(folder: Path) -> None:
    with STORE.locked(folder), pytest.raises(UsageError, match="another cprlib soak"):
        run_standin(folder, 1)


def test_soak_whose_test_is_gone_cannot_be_resumed(folder: Path) -> None:
    wanted = replace(REQUEST, tests=("test-a", "gone"))
    other = STORE.begin(folder.parent, wanted)
    with pytest.raises(UsageError, match="no test 'gone'"):
        run_standin(other, 1)
    assert len(TESTS) == 3


def test_soak_of_another_qemu_at_the_same_path_cannot_be_resumed(folder: Path) -> None:
    first = run_standin(folder, 1).history
    (folder.parent / "qemu").write_text("built again")
    with pytest.raises(UsageError, match="QEMU is another binary"):
        run_standin(folder, 2)
    assert read_soak(folder).cases == first.cases


def test_rest_of_the_time(folder: Path) -> None:
    assert seconds_left(folder, REQUEST, None) == 3600
    run_standin(folder, 1)
    assert 3590 < seconds_left(folder, REQUEST, None) < 3600
    assert seconds_left(folder, REQUEST, 0.5) == 1800
    with pytest.raises(UsageError, match="give --hours for more"):
        seconds_left(folder, replace(REQUEST, hours=1e-6), None)


def test_interval_of_samples_fits_the_length_of_a_session() -> None:
    assert [sample_interval(hours * 3600) for hours in (0.05, 1, 24)] == [15, 90, 120]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 1}', '{"schema": 2, "cases": [{"number": "one"}]}'])
def test_broken_file_is_a_usage_error(folder: Path, text: str) -> None:
    (folder / SOAK_FILE).write_text(text)
    with pytest.raises(UsageError, match=r"soak\.json"):
        read_soak(folder)
