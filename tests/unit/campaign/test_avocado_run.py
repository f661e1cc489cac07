"""What Avocado's tests left is gathered into one place, and nothing is taken twice."""

import json
from pathlib import Path

import pytest

from cprlib.errors import EnvironmentFailure
from cprlib.evidence.case import CaseEvidence
from cprlib.evidence.records import Outcome
from cprlib.lab import avocado_run
from cprlib.lab.avocado_run import SuiteRun, repeat_tests, run_and_collect
from cprlib.lab.job_display import JobDisplay
from cprlib.lab.job_results import collect_cases
from cprlib.report.read_results import AvocadoTest, read_cases, read_jobs
from cprlib.report.results_folder import start_case
from cprlib.update.mechanism import Mechanism
from cprlib.verdict.findings import Verdict, inconclusive
from cprlib.verdict.judge import JudgedCase

pytestmark = pytest.mark.fast


def job(results: Path) -> Path:
    folder = results / "avocado" / "job-2026-01-01T00.00-abc"
    folder.mkdir(parents=True)
    return folder


def case(job_folder: Path, test: str, name: str) -> None:
    folder = job_folder / "test-results" / test / "data" / "cases" / name
    folder.mkdir(parents=True)
    (folder / "case.json").write_text("{}")


def test_cases_are_moved_and_named_apart(tmp_path: Path) -> None:
    folder = job(tmp_path)
    case(folder, "1-a", "tap")
    case(folder, "2-b", "tap")
    (folder / "test-results" / "by-status").symlink_to(folder / "test-results" / "1-a")
    (tmp_path / "avocado" / "latest").symlink_to(folder)
    collect_cases(tmp_path)
    assert sorted(path.name for path in (tmp_path / "cases").iterdir()) == ["tap", "tap-2"]


def test_lab_that_died_is_counted_with_its_case(tmp_path: Path) -> None:
    folder = job(tmp_path)
    test = folder / "test-results" / "1-a"
    CaseEvidence("tap", Mechanism.CPR).write(test / "data" / "cases" / "tap")
    (test / "lab.json").write_text('{"attempts": 2, "lost": ["the kernel panicked"]}')
    assert collect_cases(tmp_path) == 1
    assert CaseEvidence.read(tmp_path / "cases" / "tap").retries == 1


def test_runs_of_one_test_are_distinguished(tmp_path: Path) -> None:
    folder = job(tmp_path)
    name = "/x/test_tap.py:Tap.test_tap"
    for number in (1, 2, 10):
        evidence = CaseEvidence("tap", Mechanism.CPR, test=f"1-{name}")  # in a lab each is the first
        evidence.write(folder / "test-results" / f"{number}-_x_test_tap.py_Tap.test_tap" / "data" / "cases" / "tap")
    collect_cases(tmp_path)
    tests = [AvocadoTest(f"{number}-{name}", name, "PASS") for number in (1, 2, 10)]
    cases = read_cases(tmp_path, tests)
    assert sorted(case.test for case in cases) == sorted(test.id for test in tests)
    assert [case.id for case in cases] == ["tap", "tap-2", "tap-3"]


def test_job_that_never_was_is_the_environment(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFailure, match="Avocado created no job"):
        collect_cases(tmp_path)


def test_lab_runs_as_many_at_once_as_there_are_cores_and_native_one(tmp_path: Path) -> None:
    native = SuiteRun(tmp_path, [], {"rate": "500"}).command(tmp_path / "avocado.conf")
    assert native[native.index("--max-parallel-tasks") + 1] == "1"
    assert "rate=500" in native
    lab = SuiteRun(tmp_path, ["x.py"], {}, engine="uml").command(tmp_path / "avocado.conf")
    assert lab[lab.index("--spawner") + 1] == "lab"
    assert "x.py" in lab


def test_what_had_ended_before_an_interrupt_is_gathered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case(job(tmp_path), "1-a", "tap")

    def interrupted(_suite: SuiteRun, _display: JobDisplay) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(avocado_run, "run_shown", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_and_collect(SuiteRun(tmp_path, [], {}))
    assert (tmp_path / "cases" / "tap" / "case.json").exists()


def test_an_interrupt_before_the_job_stays_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_suite: SuiteRun, _display: JobDisplay) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(avocado_run, "run_shown", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_and_collect(SuiteRun(tmp_path, [], {}))


def avocado_results(job_folder: Path, test: str, *statuses: str) -> None:
    """The results of a job that ran one test once for each status."""
    tests = [
        {"id": f"{number}-{test}", "name": test, "status": status, "fail_reason": "", "time_elapsed": 1.0}
        for number, status in enumerate(statuses, 1)
    ]
    (job_folder / "results.json").write_text(json.dumps({"total": len(tests), "tests": tests}))


def first_try(name: str, test: str, reason: str) -> JudgedCase:
    case = CaseEvidence(name, Mechanism.CPR, test=test)
    return JudgedCase(case, Verdict(Outcome.INCONCLUSIVE, (inconclusive("lab", reason),)))


def test_repeated_test_takes_the_place_of_its_first_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = "/x/test_tap.py:Tap.test_tap"
    folder = job(tmp_path)
    CaseEvidence("tap", Mechanism.CPR, test=f"1-{test}", warnings=("first",)).write(
        folder / "test-results" / "1-a" / "data" / "cases" / "tap"
    )
    avocado_results(folder, test, "ERROR")
    collect_cases(tmp_path)
    ran: list[SuiteRun] = []

    def second_run(suite: SuiteRun, _display: JobDisplay) -> int:
        ran.append(suite)
        again = tmp_path / suite.job_folder / "job-2"
        CaseEvidence("tap", Mechanism.CPR, test=f"1-{test}", sent=7).write(
            again / "test-results" / "1-a" / "data" / "cases" / "tap"
        )
        avocado_results(again, test, "PASS")
        (again.parent / "latest").symlink_to(again)
        return 0

    monkeypatch.setattr(avocado_run, "run_shown", second_run)
    suite = SuiteRun(tmp_path, [], {}, engine="uml", parallel=2)
    assert repeat_tests(suite, [first_try("tap", f"1-{test}", "the machine was busy")]) == 0
    assert (ran[0].tests, ran[0].parallel) == ((test,), 1)
    (case,) = read_cases(tmp_path, read_jobs(tmp_path).tests)
    assert (case.id, case.sent, case.first_try, case.checks) == ("tap", 7, ("the machine was busy",), ())
    assert CaseEvidence.read(tmp_path / "first-tries" / "tap").warnings == ("first",)


def test_test_whose_first_try_left_no_case_is_reported_as_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = "/x/test_tap.py:Tap.test_tap"
    avocado_results(job(tmp_path), test, "ERROR")
    collect_cases(tmp_path)
    (first,) = read_cases(tmp_path, read_jobs(tmp_path).tests)

    def second_run(suite: SuiteRun, _display: JobDisplay) -> int:
        again = tmp_path / suite.job_folder / "job-2"
        for name in ("tap", "tap-off"):
            evidence = CaseEvidence(name, Mechanism.CPR, test=f"1-{test}")
            evidence.write(again / "test-results" / "1-a" / "data" / "cases" / name)
        avocado_results(again, test, "PASS")
        return 0

    monkeypatch.setattr(avocado_run, "run_shown", second_run)
    repeat_tests(SuiteRun(tmp_path, [], {}), [first_try(first.id, first.test, "the lab died")])
    cases = read_cases(tmp_path, read_jobs(tmp_path).tests)
    assert {case.id: case.first_try for case in cases} == {"tap": ("the lab died",), "tap-off": ("the lab died",)}


def test_repeated_guests_of_one_test_leave_the_others_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = "/x/test_tap.py:Tap.test_tap"

    def run_guests(folder: Path, sent: int, *statuses: str) -> None:
        for number, status in enumerate(statuses, 1):
            left = folder / "test-results" / f"{number}-a" / "data" / "cases" / "tap"
            concluded = Outcome.PASS if status == "PASS" else Outcome.INCONCLUSIVE
            CaseEvidence("tap", Mechanism.CPR, test=f"1-{test}", sent=sent, concluded=concluded).write(left)
        avocado_results(folder, test, *statuses)

    bad = (2, 5)
    run_guests(job(tmp_path), 1, *("ERROR" if number in bad else "PASS" for number in range(1, 9)))
    collect_cases(tmp_path)
    ran: list[SuiteRun] = []

    def second_run(suite: SuiteRun, _display: JobDisplay) -> int:
        ran.append(suite)
        again = tmp_path / suite.job_folder / "job-2"
        again.mkdir(parents=True)
        run_guests(again, 2, "ERROR", "PASS")
        return 0

    monkeypatch.setattr(avocado_run, "run_shown", second_run)
    repeat_tests(SuiteRun(tmp_path, [], {}), [first_try(f"tap-{n}", f"{n}-{test}", "busy") for n in bad])
    assert ran[0].tests == (test, test)
    tests = read_jobs(tmp_path).tests
    assert sorted(item.id for item in tests) == [f"{number}-{test}" for number in range(1, 9)]
    cases = {case.id: case for case in read_cases(tmp_path, tests)}
    assert sorted(cases) == ["tap", *(f"tap-{number}" for number in range(2, 9))]
    assert {name for name, case in cases.items() if case.sent == 2 and case.first_try} == {"tap-2", "tap-5"}
    assert not any(case.checks for case in cases.values())
    assert (cases["tap-2"].concluded, cases["tap-5"].concluded) == (Outcome.INCONCLUSIVE, Outcome.PASS)


def test_a_repeated_guest_that_leaves_no_evidence_keeps_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = "/x/test_tap.py:Tap.test_tap"
    folder = job(tmp_path)
    for number in (1, 2):
        evidence = CaseEvidence("tap", Mechanism.CPR, test=f"1-{test}")
        evidence.write(folder / "test-results" / f"{number}-a" / "data" / "cases" / "tap")
    avocado_results(folder, test, "PASS", "ERROR")
    collect_cases(tmp_path)

    def second_run(suite: SuiteRun, _display: JobDisplay) -> int:
        again = tmp_path / suite.job_folder / "job-2"
        start_case(again / "test-results" / "1-a" / "data", "tap", test=f"1-{test}")
        avocado_results(again, test, "ERROR")
        return 0

    monkeypatch.setattr(avocado_run, "run_shown", second_run)
    repeat_tests(SuiteRun(tmp_path, [], {}), [first_try("tap-2", f"2-{test}", "busy")])
    cases = {case.id: case for case in read_cases(tmp_path, read_jobs(tmp_path).tests)}
    assert sorted(cases) == ["tap", "tap-2"]
    assert (cases["tap"].test, cases["tap"].checks) == (f"1-{test}", ())
    assert (cases["tap-2"].test, {check.name for check in cases["tap-2"].checks}) == (
        f"2-{test}",
        {"evidence", "avocado-test"},
    )


def test_nothing_is_repeated_without_a_first_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(avocado_run, "run_shown", lambda *_: pytest.fail("ran the whole suite"))
    assert repeat_tests(SuiteRun(tmp_path, [], {}), []) == 0
