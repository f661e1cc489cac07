"""The records of coverage.json."""

from __future__ import annotations

import pytest

from cprlib.campaign.coverage.records import CoverageReport, LineCoverage, PatchCoverage

pytestmark = pytest.mark.fast

RUN = LineCoverage("net/tap.c", 10, "    if (s->cpr) {", 7, (7, 0), ("tests/functional/test_x.py:X.test_one",))
EXPLAINED = LineCoverage("net/tap.c", 12, "        return -1;", 0, reason="out of memory")
OPEN = LineCoverage("net/tap.c", 14, "        goto out;", 0)
REPORT = CoverageReport("10.0", "abc", (PatchCoverage(6, "0006-x.patch", "x", (RUN, EXPLAINED, OPEN)),), RUN.tests)


def test_figures_count_lines_and_branches() -> None:
    figures = REPORT.patches[0].figures
    assert (figures.lines, figures.lines_run, figures.branches, figures.branches_taken) == (3, 1, 2, 1)
    assert round(figures.percent) == 33


def test_line_with_a_reason_is_not_open() -> None:
    assert REPORT.open_lines == (OPEN,)
