"""junit.xml and results.tap: the judged cases for pipelines, with the verdicts and reasons of the report.

Avocado's own files have the status of each test before the run is judged: no group, no policy, no evidence that is
missing. JUnit has no schema of its own; this is what GitLab and Jenkins read: ``testsuites``, ``testsuite``,
``testcase`` with ``failure``, ``error`` or ``skipped``.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from cprlib.evidence.records import Outcome
from cprlib.report.formatting import MAX_COMMAND, bounded, one_line, seconds_of, utc
from cprlib.report.patch_results import suite_key
from cprlib.report.run_report import RunReport
from cprlib.verdict.judge import JudgedCase

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, production 2 (Char)
_ELEMENTS = {Outcome.FAIL: "failure", Outcome.INCONCLUSIVE: "error", Outcome.SKIP: "skipped"}


def junit_text(report: RunReport) -> str:
    """The text of ``junit.xml``: a failed case is a failure; an inconclusive one, and what the run lacks, an error."""
    top = ET.Element("testsuites")
    suite = ET.SubElement(top, "testsuite", name="cprlib")
    if started := utc(report.started_ns):
        suite.set("timestamp", started.removesuffix("Z"))
    for case in report.cases:
        _add_case(suite, report, case)
    for reason in report.own_reasons:
        element = ET.SubElement(suite, "testcase", classname="run", name="complete", time="0.000")
        ET.SubElement(element, "error", type=Outcome.INCONCLUSIVE.value, message=_text(reason))
    count = report.count
    suite.attrib |= {
        "tests": str(len(report.cases) + len(report.own_reasons)),
        "failures": str(count[Outcome.FAIL]),
        "errors": str(count[Outcome.INCONCLUSIVE] + len(report.own_reasons)),
        "skipped": str(count[Outcome.SKIP]),
        "time": f"{sum(seconds_of(case.evidence) or 0.0 for case in report.cases):.3f}",
    }
    ET.indent(top)
    return ET.tostring(top, encoding="unicode", xml_declaration=True) + "\n"


def _add_case(suite: ET.Element, report: RunReport, case: JudgedCase) -> None:
    evidence = case.evidence
    class_name, _, method = suite_key(evidence.test).rpartition(".")
    element = ET.SubElement(
        suite,
        "testcase",
        classname=_text(class_name.replace(".py:", ".")) or "cprlib",
        name=_text(evidence.id if method else evidence.title or evidence.id),
        time=f"{seconds_of(evidence) or 0.0:.3f}",
    )
    if case.outcome == Outcome.PASS:
        return
    reasons = [f"{finding.about}: {finding.text}" for finding in case.verdict.reasons]
    headings = [group.heading for group in report.groups if evidence.id in group.cases]
    message = "; ".join(headings) or (evidence.skip_text if case.outcome == Outcome.SKIP else "; ".join(reasons))
    result = ET.SubElement(element, _ELEMENTS[case.outcome], type=case.outcome.value, message=_text(one_line(message)))
    lines = list(map(one_line, reasons))
    if folder := report.evidence_folder(evidence.id):
        lines.append(f"evidence: {folder}/")
    if command := report.rerun_command(evidence):
        lines.append(f"run again: {one_line(command, MAX_COMMAND)}")
    result.text = "\n".join(map(_text, lines))


def _text(text: str) -> str:
    """Untrusted text without characters that XML does not have."""
    return _NOT_XML.sub("\ufffd", bounded(text))


def tap_text(report: RunReport) -> str:
    """The text of ``results.tap`` (Test Anything Protocol 12)."""
    lines = [f"1..{len(report.cases) + len(report.own_reasons)}"]
    for number, case in enumerate(report.cases, 1):
        name = one_line(case.evidence.id).replace("#", "_")
        match case.outcome:
            case Outcome.PASS:
                lines.append(f"ok {number} - {name}")
            case Outcome.SKIP:
                lines.append(f"ok {number} - {name} # SKIP {one_line(case.evidence.skip_text)}")
            case _:
                lines.append(f"not ok {number} - {name}")
                reasons = case.verdict.reasons
                lines += [f"# {case.outcome}: {one_line(f'{each.about}: {each.text}')}" for each in reasons]
    for number, reason in enumerate(report.own_reasons, len(report.cases) + 1):
        lines += [f"not ok {number} - run", f"# inconclusive: {one_line(reason)}"]
    return "\n".join(lines) + "\n"
