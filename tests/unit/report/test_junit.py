"""junit.xml and results.tap have the verdicts and reasons of the report."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from cprlib.evidence.case import CaseEvidence
from cprlib.evidence.records import Check, Outcome
from cprlib.report.build_report import build_report
from cprlib.report.environment import Environment
from cprlib.report.results_folder import start_case
from cprlib.traffic.figures import PerDirection
from cprlib.update.mechanism import Mechanism
from cprlib.verdict.policy_file import load_policy
from tests.unit.evidence.samples import good_case

SKIPPED = CaseEvidence("skipped", Mechanism.LINK_SWITCH, skipped="no other QEMU", skip_word="no-target")


@pytest.fixture
def suite(tmp_path: Path) -> ET.Element:
    good, bad = good_case("good"), replace(good_case("bad"), loss=PerDirection(2, 0))
    odd = good_case("odd").with_checks(Check("x\0", Outcome.INCONCLUSIVE, "a", "b", "]]> <b> \ufffe \ud800"))
    for case in (good, bad, odd, SKIPPED):
        case.write(start_case(tmp_path, case.id, test=case.test))
    (tmp_path / "avocado" / "job-1").mkdir(parents=True)
    build_report(tmp_path, load_policy("default"), environment=Environment(), command="cprlib run --qemu /q")
    return ET.parse(tmp_path / "junit.xml").getroot()[0]  # noqa: S314 - our own file


def test_each_case_has_its_verdict(suite: ET.Element) -> None:
    found = {case.attrib["name"]: [element.tag for element in case] for case in suite}
    assert found == {"good": [], "bad": ["failure"], "odd": ["error"], "skipped": ["skipped"], "complete": ["error"]}
    assert suite.attrib | {"tests": "5", "failures": "1", "errors": "2", "skipped": "1"} == suite.attrib


def test_failure_has_cause_reasons_and_command(suite: ET.Element) -> None:
    failure = suite.find("testcase[@name='bad']/failure")
    assert failure is not None
    assert failure.attrib["message"].startswith("2 packets lost forward: 1 case")
    assert "cprlib run --qemu /q tests/functional/test_update.py:UpdateTest.test_no_loss" in str(failure.text)
    case = suite.find("testcase[@name='bad']")
    assert case is not None
    assert case.attrib["classname"] == "test_update.UpdateTest"
    assert case.attrib["time"] == "18.000"


def test_skip_has_its_reason(suite: ET.Element) -> None:
    skip = suite.find("testcase[@name='skipped']/skipped")
    assert skip is not None
    assert skip.attrib["message"] == "no-target: no other QEMU"


def test_tap_agrees(suite: ET.Element, tmp_path: Path) -> None:
    lines = (tmp_path / "results.tap").read_text().splitlines()
    assert lines[0] == f"1..{len(suite)}"
    results = [line for line in lines[1:] if not line.startswith("#")]
    assert sorted(line.split(" - ")[1] for line in results) == [
        "bad",
        "good",
        "odd",
        "run",
        "skipped # SKIP no-target: no other QEMU",
    ]
    assert [line[:3] for line in results].count("not") == 3


@pytest.mark.parametrize("cases", [(), (SKIPPED,)])
def test_run_that_proves_nothing_is_not_green(tmp_path: Path, cases: tuple[CaseEvidence, ...]) -> None:
    for case in cases:
        case.write(start_case(tmp_path, case.id, test=case.test))
    build_report(tmp_path, load_policy("default"), environment=Environment())
    suite = ET.parse(tmp_path / "junit.xml").getroot()[0]  # noqa: S314 - our own file
    assert suite.attrib["errors"] == "1"
    assert [error.attrib["message"] for error in suite.iter("error")] == ["no case ran to its end"]
    assert "timestamp" not in suite.attrib
    plan, *results = (tmp_path / "results.tap").read_text().splitlines()
    assert plan == f"1..{len(cases) + 1}"
    assert results[-2:] == [f"not ok {len(cases) + 1} - run", "# inconclusive: no case ran to its end"]
