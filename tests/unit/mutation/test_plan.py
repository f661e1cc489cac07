"""What is to be run where, what is refused before anything is run, and how progress reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from cprlib.campaign.mutation.matrix import Build
from cprlib.campaign.mutation.outcome import CellOutcome
from cprlib.campaign.mutation.pool import BuiltRow, PlannedRow
from cprlib.campaign.mutation.progress import ProofProgress
from cprlib.campaign.mutation.proof import Wanted, new_proof
from cprlib.campaign.mutation.prove import chosen_variants, make_plan
from cprlib.campaign.mutation.tests import SuiteTest, named_tests
from cprlib.cli.main import main
from cprlib.errors import ExitStatus, UsageError
from cprlib.qemu.binary import QemuBinary
from cprlib.report.results_folder import case_id
from tests.unit.mutation.samples import HOSTILE, judged, variant

TESTS = named_tests([f"test_x.py:X.test_{name}" for name in ("first", "second", "third")], Path("."))
ONE, TWO = variant("one", killed_by=("first",)), variant("two", killed_by=("third", "first"))


def ids(row: PlannedRow) -> list[str]:
    return [test.id for test in row.tests]


def test_whole_runs_everything_everywhere_and_repeats_the_good_build_last() -> None:
    plan = make_plan([ONE, TWO], TESTS, Wanted("10.0", repeat=2))
    assert [row.build.folder for row in plan] == ["good/run-1", "variants/one", "variants/two", "good/run-2"]
    assert all(ids(row) == ["first", "second", "third"] for row in plan)


def test_quick_runs_what_must_catch_a_variant_and_all_of_that_on_the_good_build() -> None:
    plan = make_plan([ONE, TWO], TESTS, Wanted("10.0", whole=False))
    assert [ids(row) for row in plan] == [["first", "third"], ["first"], ["third", "first"]]


def test_variant_that_names_a_test_that_is_not_there_is_refused() -> None:
    with pytest.raises(UsageError, match="variant bad: the suite has no test with the case id 'gone'"):
        make_plan([variant("bad", killed_by=("gone",))], TESTS, Wanted("10.0"))


def test_tests_get_the_ids_of_their_cases() -> None:
    assert case_id("CprTap.test_update_with_vhost_1_queue_loses_nothing") == "update-with-vhost-1-queue-loses-nothing"
    assert case_id("/x/test_a.py:A.test_b;run-1-abc") == "b"
    assert case_id("/x/test_a.py:A.test_b;run-base-10.0-abc") == "b"
    with pytest.raises(UsageError, match="have one id"):
        named_tests(["a.py:A.test_x", "b.py:B.test_x"], Path("."))
    with pytest.raises(UsageError, match="no test"):
        named_tests([], Path("."))


def put_variant(top: Path, name: str, bases: str = "10.0") -> None:
    (top / f"{name}.patch").write_text(
        f"Subject: [PATCH] s\n\nd\n\nKilled-by: first\nMessage: m\nBases: {bases}\nLeaves-out: 0009\n"
    )


def test_variants_are_those_made_for_the_base(tmp_path: Path) -> None:
    put_variant(tmp_path, "one")
    put_variant(tmp_path, "two", "10.2")
    assert [item.name for item in chosen_variants([], "10.2", tmp_path)] == ["two"]
    assert [item.name for item in chosen_variants(["one", "one"], "10.0", tmp_path)] == ["one"]
    with pytest.raises(UsageError, match=r"it is made for: 10\.2"):
        chosen_variants(["two"], "10.0", tmp_path)
    with pytest.raises(UsageError, match="no variant is made for it"):
        chosen_variants([], "11.0", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--variant", "no-such"], "find mutant 'no-such'"),
        (["--base", "1.0"], "no such base"),
        (["--native", "--lab"], "both --native and --lab"),
        (["--resume"], "there is none in"),
        (["--resume", "--base", "10.2"], "resume a proof with --base"),
        (["--resume", "--quick"], "resume a proof with --whole or --quick"),
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


def test_malformed_manifest_is_told_before_anything_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "bad.patch").write_text("Subject: 3\n")
    assert main(["prove", "--variants", str(tmp_path / "v"), "--out", str(tmp_path / "o")]) == ExitStatus.USAGE
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_broken_proof_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (new_proof(tmp_path, Wanted("10.0")) / "proof.json").write_text("{")
    assert main(["prove", "--resume", "--out", str(tmp_path)]) == ExitStatus.USAGE
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_progress_counts_and_estimates() -> None:
    lines: list[str] = []
    now = [0.0]
    progress = ProofProgress(lines.append, 6, 2, 2, clock=lambda: now[0])
    good, row = PlannedRow(Build(), TESTS), PlannedRow(Build(ONE), TESTS)
    built = BuiltRow(QemuBinary(Path("/q"), None))
    assert progress.left() is None
    progress.built(good, built, 0.0)
    progress.kept(good, 2)
    now[0] = 10.0
    progress.ran(good, TESTS[2], judged(CellOutcome.PASSED, seconds=20.0))
    assert progress.left() == pytest.approx(30.0)  # three cells of 20 s, two at once
    progress.built(row, built, 4.0)
    progress.ran(row, SuiteTest("first", "x"), judged(CellOutcome.DETECTED, HOSTILE, seconds=1.0))
    progress.ran(row, TESTS[1], judged(CellOutcome.PASSED))
    progress.built(row, BuiltRow(None, problem="no gcc"), 1.0)
    assert lines[0].endswith("2/6 good build, run 1: 2 of 3 tests were run before")
    assert "4 left" not in lines[0]
    assert "about 30 s left] 3/6 good build, run 1, third: passed after 20.0 s" in lines[1]
    assert "first: detected (not as the variant's manifest says) after 1.0 s" in lines[3]
    assert all("\x1b" not in line and "\n" not in line for line in lines)
