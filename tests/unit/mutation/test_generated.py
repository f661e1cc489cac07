"""Generated mutants: the choice, the order of tests, and the score."""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from cprlib.build.assets import Assets
from cprlib.build.generated_mutants import GeneratedMutant, MutantSet
from cprlib.build.mutated_qemu import MutatedQemu
from cprlib.build.progress import Progress
from cprlib.build.series import find_series
from cprlib.campaign.job import SuiteTest
from cprlib.campaign.mutation import generated_run
from cprlib.campaign.mutation.generated import (
    ChosenMutants,
    EquivalentMutant,
    GeneratedReport,
    GeneratedResult,
    MutantState,
    choose_generated,
    generated_report,
    killers_text,
    load_equivalent,
    load_killers,
    mutant_digest,
)
from cprlib.campaign.mutation.generated_run import GeneratedStrategy, RunningMutant, prove_generated
from cprlib.campaign.mutation.output import SUMMARY_LINES, report_html, report_markdown, report_text
from cprlib.campaign.mutation.plan import Build, MutationRequest
from cprlib.campaign.mutation.run import BuiltQemu, MutationJobs
from cprlib.campaign.mutation.score import MUTATION_SCHEMA_FILE
from cprlib.campaign.outcome import JobOutcome, JudgedJob
from cprlib.campaign.pool import Children, Pool
from cprlib.campaign.progress import ProgressLines
from cprlib.campaign.session import Session
from cprlib.codec import encode
from cprlib.errors import UsageError
from cprlib.evidence.records import Outcome
from cprlib.guest.image import GuestImage
from cprlib.qemu.binary import QemuBinary
from tests.unit.mutation.samples import HOSTILE, judged, report
from tests.unit.mutation.samples import results as build_results_of

TESTS = tuple(SuiteTest(name, f"/x/test_x.py:X.{name}") for name in ("cheap", "dear", "broken"))
FAILED, PASSED = judged(JobOutcome.FAILED, "loss: 1 lost"), judged(JobOutcome.PASSED)


def mutant(number: int, patch: int = 6, **changes: object) -> GeneratedMutant:
    made = GeneratedMutant(
        number, f"{patch:04}-p.patch", "net/tap.c", number, "f", "delete the statement", f"s{number};", ";", 1
    )
    return replace(made, **changes)  # type: ignore[arg-type]


SET = MutantSet(
    tuple(mutant(number, 6 if number < 20 else 7) for number in range(1, 31)), (mutant(0),), {"in a macro": 3}
)
EQUIVALENT = EquivalentMutant("net/tap.c", "f", "delete the statement", "s3;", "it is never read")


def request(**changes: object) -> MutationRequest:
    return replace(MutationRequest("10.0", generated=True), **changes)  # type: ignore[arg-type]


def test_choice_by_patch_leaves_out_equivalent_ones() -> None:
    chosen = choose_generated(SET, request(patches=(6,)), [EQUIVALENT])
    assert [item.number for item in chosen.to_run] == [number for number in range(1, 20) if number != 3]
    assert {item.mutant.number: item.reason for item in chosen.left_out} == {0: "", 3: "it is never read"}
    with pytest.raises(UsageError, match="none was generated"):
        choose_generated(SET, request(patches=(12,)), [])


def test_sample_stays_while_the_set_grows() -> None:
    first = choose_generated(SET, request(sample=10, seed=1), [])
    fewer = MutantSet(tuple(item for item in SET.mutants if item.number % 3), (), {})
    again = choose_generated(fewer, request(sample=10, seed=1), [])
    assert len(first.to_run) == 10
    assert {item for item in first.to_run if item.number % 3} <= set(again.to_run)
    assert choose_generated(SET, request(sample=10, seed=2), []).to_run != first.to_run


def test_entry_covers_one_text_or_one_occurrence() -> None:
    assert EQUIVALENT.covers(mutant(3))
    assert not EQUIVALENT.covers(mutant(4))
    assert not replace(EQUIVALENT, occurrence=2).covers(mutant(3))
    assert not replace(EQUIVALENT, mutated="x").covers(mutant(3))
    assert replace(EQUIVALENT, line="return s3;").covers(mutant(3, source="return s3;"))
    assert not replace(EQUIVALENT, line="return s3;").covers(mutant(3, source="if (s3) {"))


def test_entries_of_the_project_can_be_read(tmp_path: Path) -> None:
    assert all(item.reason for item in load_equivalent())
    bad = tmp_path / "bad.toml"
    bad.write_text("[[equivalent]]\nfile = 1\n")
    with pytest.raises(UsageError, match=r"bad\.toml"):
        load_equivalent(bad)
    with pytest.raises(UsageError, match=r"missing\.toml.*; see the comments"):
        load_equivalent(tmp_path / "missing.toml")


def test_entries_of_the_project_name_functions_of_the_series() -> None:
    text = "".join(patch.read_text(encoding="utf-8") for patch in find_series("10.0").patches)
    assert [item.function for item in load_equivalent() if f"{item.function}(" not in text] == []


def running_mutant(
    outcomes: Mapping[str, JobOutcome], reaching: Sequence[str], unproven: Sequence[str]
) -> RunningMutant:
    """A mutant with the outcomes of tests that reach it; some of them do not pass without it."""
    tests = {test.id: test for test in TESTS}
    return RunningMutant(
        mutant(1),
        {test: tests[test] for test in reaching},
        dict.fromkeys(unproven, FAILED),
        "",
        "",
        {test: judged(outcome) for test, outcome in outcomes.items()},
    )


@pytest.mark.parametrize(
    ("outcomes", "state"),
    [
        ({}, MutantState.NOT_RUN),
        ({"cheap": JobOutcome.FAILED}, MutantState.KILLED),
        ({"cheap": JobOutcome.PASSED}, MutantState.NOT_RUN),
        ({"cheap": JobOutcome.PASSED, "dear": JobOutcome.PASSED}, MutantState.SURVIVED),
        ({"cheap": JobOutcome.CRASHED, "dear": JobOutcome.PASSED}, MutantState.INCONCLUSIVE),
        ({"cheap": JobOutcome.CRASHED, "dear": JobOutcome.FAILED}, MutantState.KILLED),
    ],
)
def test_state(outcomes: dict[str, JobOutcome], state: MutantState) -> None:
    assert running_mutant(outcomes, ["cheap", "dear"], []).state == state


@pytest.mark.parametrize(
    ("outcomes", "reaching", "unproven", "state"),
    [
        ({}, [], [], MutantState.NOT_REACHED),
        ({}, [], ["broken"], MutantState.INCONCLUSIVE),
        ({}, ["cheap"], ["broken"], MutantState.NOT_RUN),
        ({"cheap": JobOutcome.PASSED}, ["cheap"], ["broken"], MutantState.INCONCLUSIVE),
        ({"cheap": JobOutcome.FAILED}, ["cheap"], ["broken"], MutantState.KILLED),
    ],
)
def test_state_with_a_test_that_does_not_pass_without_the_mutant(
    outcomes: dict[str, JobOutcome], reaching: list[str], unproven: list[str], state: MutantState
) -> None:
    assert running_mutant(outcomes, reaching, unproven).state == state


class FakeWork:
    """Tests that reach some mutants; "dear" kills mutant 1, "broken" fails without a mutant and alone reaches 5.

    :param hidden: a mutant that is not reached beside others. :param dear_s: seconds of "dear"; the others take 5.
    """

    def __init__(self, folder: Path, reached: Sequence[int] = (1, 2), hidden: int = 0, dear_s: float = 9.0) -> None:
        self.folder = folder
        self.reached = reached
        self.hidden = hidden
        self.dear_s = dear_s
        self.ran: list[tuple[int, str]] = []
        self.groups: list[tuple[tuple[int, ...], str]] = []
        self.lock = threading.Lock()
        self.stored: set[str] = set()

    def stored_tests(self, build: Build) -> set[str]:
        return self.stored if any(build.numbers) else set()

    def adopt(self, build: Build, _built: BuiltQemu, test: SuiteTest) -> bool:
        return test.id in self.stored_tests(build)

    def judge(self, build: Build, test: SuiteTest) -> JudgedJob:
        return FAILED if 1 in build.numbers and test.id == "dear" else PASSED

    def final(self, build: Build, test: SuiteTest) -> Path:
        return self.folder / build.folder / test.id

    def run(self, build: Build, _built: BuiltQemu, test: SuiteTest) -> JudgedJob:
        grouped, none = len(build.numbers) > 1, build.numbers == (0,)
        with self.lock:
            if grouped:
                self.groups.append((build.numbers, test.id))
            else:
                self.ran.append((build.numbers[0], test.id))
        if grouped or none:
            cases = self.final(build, test) / "cases" / test.id
            cases.mkdir(parents=True)
            reachable = [*self.reached, 5] if test.id == "broken" else self.reached
            reached = [number for number in reachable if none or number in {*build.numbers} - {self.hidden}]
            (cases / "reached-source.bin").write_bytes(bytes(number in reached for number in range(31)))
        if none:
            if test.id == "broken":
                return FAILED
            return replace(PASSED, seconds=self.dear_s if test.id == "dear" else 5.0)
        return self.judge(build, test)

    def share(self, group: Build, build: Build, _built: BuiltQemu, test: SuiteTest) -> JudgedJob:
        assert set(build.numbers) < set(group.numbers)
        return self.judge(build, test)


def test_tests_that_reach_a_mutant_run_until_one_kills_it(tmp_path: Path) -> None:
    chosen = choose_generated(SET, request(patches=(6,)), [])
    work = FakeWork(tmp_path)
    jobs: MutationJobs = work  # type: ignore[assignment]
    strategy = GeneratedStrategy(chosen, TESTS, jobs, BuiltQemu(None), ProgressLines(lambda _: None))
    Pool(strategy, 2, Children()).run()
    by_number = {item.mutant.number: item for item in strategy.results()}
    assert by_number[1].state == MutantState.KILLED
    assert by_number[1].killed_by == "dear"
    assert by_number[4].state == MutantState.NOT_REACHED
    for number in (2, 5):  # the broken test might kill them
        assert by_number[number].state == MutantState.INCONCLUSIVE
        assert by_number[number].reason == "broken: failed without a mutant: loss: 1 lost"
    assert {name for number, name in work.ran if number} == {"cheap", "dear"}  # the broken one kills nothing
    assert [name for number, name in work.ran if number == 1] == ["cheap", "dear"]


def test_each_mutant_has_a_test_before_one_has_two(tmp_path: Path) -> None:
    chosen = choose_generated(SET, request(patches=(6,)), [])
    work = FakeWork(tmp_path)
    jobs: MutationJobs = work  # type: ignore[assignment]
    Pool(GeneratedStrategy(chosen, TESTS, jobs, BuiltQemu(None), ProgressLines(lambda _: None)), 1, Children()).run()
    numbers = [number for number, _ in work.ran if number]
    assert [sorted(numbers[:2]), sorted(numbers[2:])] == [[1, 2], [1, 2]]


def test_mutants_with_three_tests_run_in_groups(tmp_path: Path) -> None:
    mutants = tuple(mutant(number, function=f"f{min(number, 4)}") for number in range(1, 6))  # 4 and 5 in one function
    tests = tuple(SuiteTest(name, f"/x/test_x.py:X.{name}") for name in ("a", "b", "c", "dear", "e"))
    chosen = choose_generated(MutantSet(mutants, (), {}), request(patches=(6,)), [])
    work = FakeWork(tmp_path, reached=range(1, 6), hidden=3, dear_s=90.0)
    jobs: MutationJobs = work  # type: ignore[assignment]
    strategy = GeneratedStrategy(chosen, tests, jobs, BuiltQemu(None), ProgressLines(lambda _: None))
    Pool(strategy, 1, Children()).run()
    states = {item.mutant.number: item.state for item in strategy.results()}
    assert states == {1: MutantState.KILLED} | dict.fromkeys(range(2, 6), MutantState.SURVIVED)
    assert [item.run for item in strategy.results()][1:] == [5, 5, 5, 5]
    assert any(1 in numbers for numbers, test in work.groups if test == "dear")
    assert not any({4, 5} <= set(numbers) for numbers, _ in work.groups)
    assert (1, "dear") in work.ran  # the half of a half
    assert {(3, "e")} <= set(work.ran)  # it was not reached in the group
    assert not {(4, "dear"), (5, "dear")} <= set(work.ran)


def test_stored_results_decide_before_a_test_runs(tmp_path: Path) -> None:
    chosen = choose_generated(SET, request(patches=(6,)), [])
    work = FakeWork(tmp_path)
    work.stored = {"dear"}
    jobs: MutationJobs = work  # type: ignore[assignment]
    strategy = GeneratedStrategy(chosen, TESTS, jobs, BuiltQemu(None), ProgressLines(lambda _: None))
    Pool(strategy, 1, Children()).run()
    assert [ran for ran in work.ran if ran[0]] == [(2, "cheap")]
    assert strategy.results()[0].killed_by == "dear"


def test_tests_of_the_own_patch_come_first(tmp_path: Path) -> None:
    chosen = choose_generated(SET, request(patches=(6,)), [])
    work = FakeWork(tmp_path)
    jobs: MutationJobs = work  # type: ignore[assignment]
    lines = ProgressLines(lambda _: None)
    Pool(GeneratedStrategy(chosen, TESTS, jobs, BuiltQemu(None), lines, {"dear": {"patch:6"}}), 1, Children()).run()
    assert next(name for number, name in work.ran if number == 1) == "dear"


def test_the_test_that_killed_a_mutant_before_comes_first(tmp_path: Path) -> None:
    chosen = choose_generated(SET, request(patches=(6,)), [])
    path = tmp_path / "killers.json"
    path.write_text(killers_text({}, [GeneratedResult(mutant(1), MutantState.KILLED, killed_by="dear")]))
    known = load_killers(path)
    again = killers_text(known, [GeneratedResult(mutant(2), MutantState.KILLED, killed_by="cheap")])
    path.write_text(again)
    assert load_killers(path) == {mutant_digest(mutant(1)): "dear", mutant_digest(mutant(2)): "cheap"}
    work = FakeWork(tmp_path, dear_s=90.0)
    jobs: MutationJobs = work  # type: ignore[assignment]
    lines = ProgressLines(lambda _: None)
    Pool(GeneratedStrategy(chosen, TESTS, jobs, BuiltQemu(None), lines, known=known), 1, Children()).run()
    assert [name for number, name in work.ran if number == 1] == ["dear"]
    assert load_killers(tmp_path / "missing.json") == {}
    path.write_text("[1]")
    with pytest.raises(UsageError, match=r"killers\.json"):
        load_killers(path)


def test_no_test_begins_after_the_time(tmp_path: Path) -> None:
    chosen = choose_generated(SET, request(patches=(6,)), [])
    work = FakeWork(tmp_path)
    jobs: MutationJobs = work  # type: ignore[assignment]
    lines = ProgressLines(lambda _: None, itertools.count().__next__)  # a second for each look at the clock
    strategy = GeneratedStrategy(chosen, TESTS, jobs, BuiltQemu(None), lines, seconds=4)
    Pool(strategy, 1, Children()).run()
    assert 0 < len(work.ran) < 4
    made = generated_report(strategy.results(), chosen, SET, request(), Path("/x/qemu"))
    assert (made.total.not_run, made.verdict) == (made.total.counted, Outcome.INCONCLUSIVE)
    assert made.sentence == "generated mutants: 0 of 19 killed (0.0 %), 19 not run"


def test_interrupted_run_shows_its_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class InterruptedWork(FakeWork):
        def run(self, build: Build, built: BuiltQemu, test: SuiteTest) -> JudgedJob:
            if build.numbers == (2,):
                raise KeyboardInterrupt
            return super().run(build, built, test)

    (tmp_path / "qemu").write_text("qemu")
    qemu = QemuBinary(tmp_path / "qemu")
    session = Session(tmp_path, tmp_path / ".partial", Assets(qemu, GuestImage(qemu.path, qemu.path, "d")), "uml")
    monkeypatch.setattr(generated_run, "open_session", lambda *_: contextlib.nullcontext(session))
    monkeypatch.setattr(generated_run, "build_mutated", lambda *_: MutatedQemu(qemu, SET))
    monkeypatch.setattr(generated_run, "MutationJobs", lambda *_: InterruptedWork(tmp_path))
    asked = request(patches=(6,), engine="uml")
    with pytest.raises(KeyboardInterrupt):
        prove_generated(tmp_path, asked, TESTS, parallel=1, progress=Progress(), say=lambda _: None)
    total = json.loads((tmp_path / "mutation.json").read_text())["generated"]["total"]
    assert (total["counted"], total["not_reached"], total["not_run"]) == (19, 16, 2)
    assert (tmp_path / "killers.json").exists()


def made_report(*states: MutantState, **changes: object) -> GeneratedReport:
    chosen = choose_generated(SET, request(patches=(6,)), [EQUIVALENT])
    results = [
        GeneratedResult(replace(item, original=HOSTILE), state, "cheap", HOSTILE, tests=2, run=2)
        for item, state in zip(chosen.to_run, states, strict=False)
    ]
    return generated_report(results, chosen, SET, request(**changes), Path("/x/qemu"))


def test_score_leaves_out_what_cannot_be_killed() -> None:
    made = made_report(*[MutantState.KILLED] * 8, MutantState.SURVIVED, MutantState.NOT_REACHED)
    assert (made.total.counted, made.total.killed, made.total.equivalent, made.total.not_compiled) == (10, 8, 1, 1)
    assert made.sentence == "generated mutants: 8 of 10 killed (80.0 %)"
    assert [item.patch for item in made.patches] == ["0006-p.patch"]


@pytest.mark.parametrize(
    ("last", "at_least", "verdict"),
    [
        (MutantState.SURVIVED, 90.0, Outcome.PASS),
        (MutantState.SURVIVED, 95.0, Outcome.FAIL),
        (MutantState.INCONCLUSIVE, 95.0, Outcome.INCONCLUSIVE),
    ],
)
def test_verdict(last: MutantState, at_least: float, verdict: Outcome) -> None:
    assert made_report(*[MutantState.KILLED] * 9, last, at_least=at_least).verdict == verdict


def test_reports_show_scores_and_survivors(tmp_path: Path) -> None:
    generated = made_report(MutantState.KILLED, MutantState.SURVIVED, MutantState.NOT_REACHED)
    whole = report(generated=generated, tests_per_mutant="reaching")
    MUTATION_SCHEMA_FILE.check(encode(whole))
    assert json.dumps(encode(whole)).count('"not reached"') == 1
    text, page, markdown = report_text(whole), report_html(tmp_path, whole), report_markdown(whole)
    assert "33.3 %" in text
    assert "net/tap.c:2" in text
    for made in (text, markdown, page):
        assert "\x1b" not in made
        assert "<script>" not in made or made is text
    assert "net/tap.c:2" in page
    assert "33.3 %" in markdown


@pytest.mark.parametrize("patches", [1, 15, 20, 30])
def test_summary_keeps_its_length_and_the_good_build(patches: int) -> None:
    mutants = tuple(mutant(number, 1 + number % patches) for number in range(1, 61))
    survived = [GeneratedResult(item, MutantState.SURVIVED) for item in mutants]
    generated = generated_report(survived, ChosenMutants(mutants, (), 60), SET, request(), Path("/x/qemu"))
    good = build_results_of(Build(), {f"test-{number}": FAILED for number in range(12)})
    text = report_markdown(report(good, generated=generated, command="cprlib prove"))
    assert len(text.splitlines()) <= SUMMARY_LINES
    assert "good build, run 1 |" in text
    assert "- survived: net/tap.c:1 " in text
    assert "| all |" in text
