"""Samples of coverage."""

from __future__ import annotations

from pathlib import Path

from cprlib.build.coverage import CoverageBuild, SourceLine
from cprlib.build.series import Series
from cprlib.campaign.coverage.collect import CaseCounts, LineCounts
from cprlib.campaign.coverage.make_report import UncoveredReason, make_report
from cprlib.campaign.coverage.records import CoverageReport
from cprlib.qemu.binary import QemuBinary
from cprlib.report.environment import Environment

FIRST, SECOND = "0001-one.patch", "0002-two.patch"
TAP = "net/tap.c"
LINES = (
    SourceLine(FIRST, TAP, 10, "    if (s->cpr) {"),
    SourceLine(FIRST, TAP, 11, "        /* a comment */"),
    SourceLine(SECOND, TAP, 12, "        return -1;"),
    SourceLine(FIRST, TAP, 13, "    }"),
    SourceLine(FIRST, TAP, 20, "        return -1;"),
    SourceLine(SECOND, "net/net.c", 5, "    x();"),
)
TEXTS = {line.line: line.text for line in LINES if line.file == TAP}
SOURCES = {TAP: tuple(TEXTS.get(number, "    context") for number in range(1, 25)), "net/net.c": ("",) * 4 + ("x();",)}
BUILD = CoverageBuild(QemuBinary(Path("qemu")), Path(), LINES, SOURCES)
ONE, TWO = "tests/functional/test_a.py:A.test_one", "tests/functional/test_a.py:A.test_two"
CASES = (
    CaseCounts(ONE, True, {(TAP, 10): LineCounts(3, (3, 0)), (TAP, 12): LineCounts(0), (TAP, 20): LineCounts(0)}),
    CaseCounts(TWO, False, {(TAP, 10): LineCounts(2, (1, 1)), (TAP, 12): LineCounts(1), (TAP, 20): LineCounts(0)}),
)
REASON = UncoveredReason(TAP, "return -1;", "out of memory")


def series(folder: Path) -> Series:
    for name, subject in ((FIRST, "one: <b>bold</b>"), (SECOND, "two")):
        (folder / name).write_text(f"Subject: [PATCH] {subject}\n\n")
    return Series((folder / FIRST, folder / SECOND))


def report(folder: Path, *reasons: UncoveredReason) -> CoverageReport:
    return make_report("10.0", series(folder), BUILD, CASES, reasons, environment=Environment())
