"""A soak's summary for the terminal."""

from __future__ import annotations

import textwrap

from cprlib.campaign.soak.resources import RESOURCES
from cprlib.campaign.soak.result import SoakResult, resource_finding
from cprlib.evidence.terms import Outcome
from cprlib.report.formatting import one_line

WIDTH = 120
MOST_REASONS = 12


def soak_text(result: SoakResult) -> str:
    """Each resource, why the cases did not pass, and the verdict."""
    width = max(len(resource.name) for resource in RESOURCES)
    lines = []
    for resource in RESOURCES:
        finding = resource_finding(resource, result.trends[resource.name])
        lines.append(_wrap(f"{finding.outcome:<13} {resource.name:<{width}}  {one_line(finding.text)}", 15 + width))
    lines.append("")
    findings = [item for item in result.cases_verdict.findings if item.outcome in (Outcome.FAIL, Outcome.INCONCLUSIVE)]
    for finding in findings[:MOST_REASONS]:
        lines.append(_wrap(f"{finding.outcome:<13} {one_line(finding.about)}: {one_line(finding.text)}", 14))
    if len(findings) > MOST_REASONS:
        lines.append(f"{'':13} and {len(findings) - MOST_REASONS} more")
    lines += [""] if findings else []
    lines.append(_wrap(f"verdict: {result.verdict.outcome.upper()} ({result.sentence})", 4))
    return "\n".join(lines) + "\n"


def _wrap(line: str, indent: int) -> str:
    return textwrap.fill(line, WIDTH, subsequent_indent=" " * indent, break_on_hyphens=False)
