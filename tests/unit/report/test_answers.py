"""The head of a report answers three questions, for each verdict and for a QEMU without the feature."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from cprlib.evidence.case import CaseEvidence
from cprlib.evidence.records import Check, Outcome, Role
from cprlib.qemu.facts import QemuFacts
from cprlib.report.build_report import judge_results
from cprlib.report.environment import Environment
from cprlib.report.html import report_page
from cprlib.report.patch_results import lacks_feature, read_test_sources
from cprlib.report.results_folder import start_case
from cprlib.report.run_report import RunReport, answers
from cprlib.report.summary import markdown_summary, result_table
from cprlib.traffic.figures import PerDirection
from cprlib.update.mechanism import Mechanism
from cprlib.verdict.policy import NOT_ASKED_FOR
from cprlib.verdict.policy_file import load_policy
from tests.unit.evidence.samples import good_case

STOCK = QemuFacts("/q", "10.0.13", "ab" * 32, netdev_cpr=False, cpr_transfer=True, migration_local=False)


def report_of(results: Path, *cases: CaseEvidence, policy: str = "default") -> RunReport:
    for case in cases:
        case.write(start_case(results, case.id, test=case.test))
    return judge_results(results, load_policy(policy), environment=Environment(), command="cprlib run --qemu /q")


def without_feature(number: int) -> CaseEvidence:
    reason = "its NetdevTapOptions has no member 'cpr'"
    return CaseEvidence(f"c{number}", Mechanism.CPR, skipped=reason, skip_word="no-cpr", source=STOCK)


def test_failure_is_named(tmp_path: Path) -> None:
    lost = [replace(good_case(name), loss=PerDirection(2, 0)) for name in ("a", "b")]
    said = answers(report_of(tmp_path, good_case(), *lost))
    assert said.may_it_ship == "No: 2 cases of 3 fail, by policy default."
    assert said.why_not == "2 packets lost forward: 2 cases."


def test_part_of_the_suite_is_no_yes(tmp_path: Path) -> None:
    said = answers(report_of(tmp_path, good_case()))
    assert said.may_it_ship.startswith("This run found nothing against it")
    assert (said.why_not, said.not_looked_at) == ("Nothing failed.", "The whole series.")
    assert [question for question, _ in said.lines] == ["May it ship?", "What was not looked at?"]


def test_many_patches_without_a_case_are_a_number(tmp_path: Path) -> None:
    report = report_of(tmp_path, good_case())
    for covered, words in ((2, "13 of 15 patches of the series"), (12, "Patches 13, 14, 15 of the series")):
        patches = tuple(
            replace(report.patches[0], number=number, verdict=Outcome.PASS if number <= covered else None)
            for number in range(1, 16)
        )
        assert answers(replace(report, patches=patches)).not_looked_at.startswith(words)


@pytest.mark.parametrize("skip_word", ["", "no-target"])
def test_yes_needs_a_case_of_each_property(tmp_path: Path, skip_word: str) -> None:
    # first the one that is left out: its patches have other tests
    tests = sorted(read_test_sources(), key=lambda each: "CprTap" not in each.key)
    cases = [CaseEvidence(f"c{n}", Mechanism.CPR, Role.CHECKS, test=each.key) for n, each in enumerate(tests)]
    passing = [replace(case, checks=good_case().checks) for case in cases]
    if skip_word:
        passing[0] = replace(cases[0], skipped="no other QEMU", skip_word=skip_word)
    whole = report_of(tmp_path / "whole", *passing)
    assert answers(whole).may_it_ship == "Yes, by policy default."
    part = answers(report_of(tmp_path / "part", *passing[1:]))
    assert part.may_it_ship.startswith("This run found nothing against it")
    assert part.not_looked_at.startswith("1 of ")


def test_run_without_a_case_says_so(tmp_path: Path) -> None:
    said = answers(report_of(tmp_path))
    assert said.may_it_ship.startswith("Not known")
    assert said.why_not == "No case ran to its end."


def test_skips_are_what_was_not_looked_at(tmp_path: Path) -> None:
    skipped = replace(good_case("s"), skipped="no other QEMU", skip_word="no-target")
    said = answers(report_of(tmp_path, good_case(), skipped))
    assert "updates between two QEMUs (--target-base or --target-qemu): 1 case skipped" in said.not_looked_at


def test_qemu_without_the_feature_gets_one_sentence(tmp_path: Path) -> None:
    test = "tests/functional/test_cpr_off.py:CprOff.test_cpr_off_sends_no_descriptor"
    passed = replace(good_case("good"), mechanism=Mechanism.NONE, test=test, source=STOCK)
    report = report_of(tmp_path, passed, *(without_feature(number) for number in range(30)))
    assert lacks_feature(report.cases)
    assert report.exit_status == 3
    said = answers(report)
    assert said.may_it_ship == "Not tested: this QEMU does not have the feature."
    advice = "/q (10.0.13) has no option cpr=on of -netdev tap: apply images/qemu/series to it, build it, and run again"
    assert said.why_not == f"{advice} with --qemu PATH."
    assert {patch.verdict for patch in report.patches} == {None}
    for text in (result_table(report), markdown_summary(report)):
        assert text.count("NetdevTapOptions") == 0
        assert "c7" not in text
        assert len(text.splitlines()) <= 20


def test_qemu_that_has_only_parameter_local_is_tested_by_it(tmp_path: Path) -> None:
    """Its cases say nothing about the series."""
    test = "tests/functional/test_cpr_tap.py:CprTap.test_update_with_tap_1_queue_loses_nothing"
    local = replace(good_case("by-local"), mechanism=Mechanism.LOCAL, test=test, source=STOCK)
    report = report_of(tmp_path, local, *(without_feature(number) for number in range(3)))
    assert (report.exit_status, lacks_feature(report.cases)) == (0, False)
    said = answers(report)
    assert said.may_it_ship.startswith("This run found nothing against it")
    assert said.not_looked_at == "The whole series; updates with cpr=on (this QEMU cannot do them): 3 cases skipped."
    assert {patch.verdict for patch in report.patches} == {None}


def test_qemu_without_the_feature_whose_case_fails(tmp_path: Path) -> None:
    bad = CaseEvidence("bad", Mechanism.NONE, Role.CHECKS, checks=(Check("survives", Outcome.FAIL),), source=STOCK)
    said = answers(report_of(tmp_path, bad, *(without_feature(number) for number in range(3))))
    assert said.may_it_ship == "No: 1 case of 4 fails, by policy default."
    assert said.why_not.startswith(
        "QEMU or its guest died, refused or hangs: 1 case; /q (10.0.13) has no option cpr=on"
    )


def test_policy_that_allows_no_skip_has_the_advice_too(tmp_path: Path) -> None:
    said = answers(report_of(tmp_path, without_feature(1), policy="strict"))
    assert said.may_it_ship == "No: 1 case of 1 fails, by policy strict."
    assert said.why_not.startswith("/q (10.0.13) has no option cpr=on of -netdev tap: apply")


def test_qemu_without_the_mode_is_too_old_for_the_series(tmp_path: Path) -> None:
    old = replace(without_feature(1), source=replace(STOCK, version="9.2", cpr_transfer=False))
    advice = "/q (9.2) has no migration mode cpr-transfer: take QEMU 10.0 or newer, apply images/qemu/series to it, "
    assert answers(report_of(tmp_path, old)).why_not == f"{advice}build it, and run again with --qemu PATH."


def test_other_skips_of_the_mechanism_do_not_hide_the_feature(tmp_path: Path) -> None:
    assert not lacks_feature(report_of(tmp_path, without_feature(1), good_case()).cases)


def test_page_folds_what_passed_and_opens_the_first_failure(tmp_path: Path) -> None:
    checks = replace(CaseEvidence("checks", Mechanism.CPR, Role.CHECKS), checks=good_case().checks)
    test = "tests/functional/test_cpr_tap.py:CprTap.test_update_with_tap_1_queue_loses_nothing"
    bad = [replace(good_case(name), loss=PerDirection(2, 0), test=test) for name in ("bad-1", "bad-2")]
    page = report_page(report_of(tmp_path, good_case("good"), checks, *bad))
    sections = re.findall(r'<details class="case"( open)?>.*?<b class="name">(.*?)</b>', page, re.DOTALL)
    assert [name for opened, name in sections if opened] == ["bad-1"]
    assert [name for _, name in sections] == ["bad-1", "bad-2", "checks", "good"]
    assert '<td colspan="9">3 of 3 checks</td>' in page
    assert "2 passed cases" in page
    assert page.index("May it ship?") < page.index("What is wrong, by cause") < page.index("Patches of the series")


def test_table_has_the_number_of_checks(tmp_path: Path) -> None:
    checks = replace(CaseEvidence("checks", Mechanism.CPR, Role.CHECKS), checks=good_case().checks)
    assert "pass     checks  cpr  3 of 3 checks" in result_table(report_of(tmp_path, checks))


def test_skip_that_the_policy_does_not_allow_shows_its_reason(tmp_path: Path) -> None:
    skipped = CaseEvidence("odd", Mechanism.CPR, test="1-t.py:T.test_odd", skipped="no time", skip_word="a|b")
    unnamed = replace(skipped, id="plain", test="2-t.py:T.test_plain", skip_word="")
    report = report_of(tmp_path, skipped, unnamed)
    assert report.to_repeat == ()
    table, summary, page = result_table(report), markdown_summary(report), report_page(report)
    assert "odd    cpr  a|b: no time" in table
    assert '<td colspan="9">a|b: no time</td>' in page
    assert "| ? inconclusive | odd | a\\|b |" in summary
    assert "| ? inconclusive | plain | other |" in summary
    assert not any("0 of 0 checks" in text for text in (table, summary, page))


@pytest.mark.parametrize("policy", ["default", "strict"])
def test_markdown_has_twenty_lines_with_many_causes(tmp_path: Path, policy: str) -> None:
    cases = [replace(without_feature(number), skip_word=f"word-{number}") for number in range(9)]
    assert len(markdown_summary(report_of(tmp_path, *cases, policy=policy)).splitlines()) <= 20


@pytest.mark.parametrize("word", NOT_ASKED_FOR)
def test_a_skip_that_is_always_allowed_is_named_in_words(word: str, tmp_path: Path) -> None:
    skipped = CaseEvidence("c", Mechanism.CPR, skipped="it cannot", skip_word=word)
    assert word not in answers(report_of(tmp_path, good_case(), skipped)).not_looked_at.lower()
