"""Which tests run on which builds, what is refused before anything runs, and lines of progress."""

from __future__ import annotations

from pathlib import Path

import pytest

from cprlib.campaign.job import SuiteTest, suite_tests
from cprlib.campaign.mutation.plan import STORE, Build, MutationRequest, PlannedBuild, choose_mutants, make_plan
from cprlib.campaign.mutation.run import BuiltQemu, MutationProgress
from cprlib.campaign.outcome import JobOutcome
from cprlib.campaign.progress import ProgressLines
from cprlib.cli.main import main
from cprlib.errors import ExitStatus, UsageError
from cprlib.qemu.binary import QemuBinary
from cprlib.report.results_folder import case_id
from tests.unit.mutation.samples import HOSTILE, judged, mutant

pytestmark = pytest.mark.fast

TESTS = suite_tests([f"test_x.py:X.test_{name}" for name in ("first", "second", "third")], Path("."))
ONE, TWO = mutant("one", killed_by=("first",)), mutant("two", killed_by=("third", "first"))


def ids(planned: PlannedBuild) -> list[str]:
    return [test.id for test in planned.tests]


def test_whole_runs_everything_everywhere_and_repeats_the_good_build_last() -> None:
    plan = make_plan([ONE, TWO], TESTS, MutationRequest("10.0", repeat=2))
    assert [planned.build.folder for planned in plan] == ["good/run-1", "mutants/one", "mutants/two", "good/run-2"]
    assert all(ids(planned) == ["first", "second", "third"] for planned in plan)


def test_quick_runs_the_tests_that_must_kill_a_mutant_and_all_of_them_on_the_good_build() -> None:
    plan = make_plan([ONE, TWO], TESTS, MutationRequest("10.0", whole=False))
    assert [ids(planned) for planned in plan] == [["first", "third"], ["first"], ["third", "first"]]


def test_mutant_that_names_a_missing_test_is_refused() -> None:
    with pytest.raises(UsageError, match="mutant bad: the suite has no test with the case id 'gone'"):
        make_plan([mutant("bad", killed_by=("gone",))], TESTS, MutationRequest("10.0"))


def test_tests_get_the_ids_of_their_cases() -> None:
    assert case_id("CprTap.test_update_with_vhost_1_queue_loses_nothing") == "update-with-vhost-1-queue-loses-nothing"
    assert case_id("/x/test_a.py:A.test_b;run-1-abc") == "b"
    assert case_id("/x/test_a.py:A.test_b;run-base-10.0-abc") == "b"
    with pytest.raises(UsageError, match="have the same id"):
        suite_tests(["a.py:A.test_x", "b.py:B.test_x"], Path("."))
    with pytest.raises(UsageError, match="no test"):
        suite_tests([], Path("."))


def put_mutant(top: Path, name: str, bases: str = "10.0") -> None:
    (top / f"{name}.patch").write_text(
        f"Subject: [PATCH] s\n\nd\n\nKilled-by: first\nMessage: m\nBases: {bases}\nLeaves-out: 0009\n"
    )


def test_mutants_are_those_made_for_the_base(tmp_path: Path) -> None:
    put_mutant(tmp_path, "one")
    put_mutant(tmp_path, "two", "10.2")
    assert [item.name for item in choose_mutants([], "10.2", tmp_path)] == ["two"]
    assert [item.name for item in choose_mutants(["one", "one"], "10.0", tmp_path)] == ["one"]
    with pytest.raises(UsageError, match=r"it is made for: 10\.2; choose another --base"):
        choose_mutants(["two"], "10.0", tmp_path)
    with pytest.raises(UsageError, match="no mutant is made for it"):
        choose_mutants([], "11.0", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--mutant", "no-such"], "find mutant 'no-such'"),
        (["--base", "1.0"], "no such base"),
        (["--native", "--lab"], "both --native and --lab"),
        (["--resume"], "no session in"),
        (["--resume", "--base", "10.2"], "resume cprlib prove with --base"),
        (["--resume", "--quick"], "resume cprlib prove with --quick"),
        (["--sample", "3"], "with --sample: it is for --generated"),
        (["--generated", "--mutant", "x"], "with --mutant: it is for the mutants of images/qemu/mutants"),
        (["--generated", "--base", "1.0"], "no such base"),
        (["--generated", "--patch", "6", "--patch", "99"], "patch 99: the series for QEMU 10.0 has no such patch"),
        (["--repeat", "0"], "0 is not in the range"),
        (["--parallel", "x"], "not a valid integer"),
        (["TEST"], "unexpected extra argument"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main(["prove", "--out", str(tmp_path / "out"), *arguments]) == ExitStatus.USAGE
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_malformed_mutant_is_refused_before_anything_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "bad.patch").write_text("Subject: 3\n")
    assert main(["prove", "--mutants", str(tmp_path / "v"), "--out", str(tmp_path / "o")]) == ExitStatus.USAGE
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_broken_session_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (STORE.begin(tmp_path, MutationRequest("10.0")) / "session.json").write_text("{")
    assert main(["prove", "--resume", "--out", str(tmp_path)]) == ExitStatus.USAGE
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_progress_counts_and_estimates() -> None:
    lines: list[str] = []
    now = [0.0]
    good, planned = PlannedBuild(Build(), TESTS), PlannedBuild(Build(ONE), TESTS)
    progress = MutationProgress(ProgressLines(lines.append, lambda: now[0]), [good, planned])
    built = BuiltQemu(QemuBinary(Path("/q"), None))
    assert progress.left() is None
    progress.built(good, built, 1, 0.0)
    now[0] = 10.0
    progress.ran(good, TESTS[2], judged(JobOutcome.PASSED, seconds=20.0))
    assert progress.left() == pytest.approx(30.0)  # one test in 10 s; three are left
    progress.built(planned, built, 3, 4.0)
    progress.ran(planned, SuiteTest("first", "x"), judged(JobOutcome.FAILED, HOSTILE, seconds=1.0))
    progress.ran(planned, SuiteTest("first", "x"), judged(JobOutcome.FAILED, "loss: 2 packets lost"))
    progress.ran(planned, TESTS[1], judged(JobOutcome.PASSED))
    progress.built(planned, BuiltQemu(None, problem="no gcc"), 0, 1.0)
    assert lines[0].endswith("2/6 good build, run 1: 2 of 3 results are stored")
    assert "4 left" not in lines[0]
    assert "about 30 s left] 3/6 good build, run 1, third: passed after 20.0 s" in lines[1]
    assert "first: failed with another message (must kill the mutant) after 1.0 s" in lines[3]
    assert "first: killed after 12.3 s" in lines[4]
    assert all("\x1b" not in line and "\n" not in line for line in lines)
