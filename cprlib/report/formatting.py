"""Figures as people read them, the same in the terminal, on the page and in Markdown."""

from __future__ import annotations

import unicodedata

from cprlib.evidence.case import CaseEvidence, Interruption, Outcome, PerDirection

UNKNOWN = "-"
MARK = {Outcome.PASS: "✓", Outcome.FAIL: "✗", Outcome.INCONCLUSIVE: "?", Outcome.SKIP: "○"}
LONGEST_TEXT = 2000  # characters of one piece of foreign text


def number(value: float | None, digits: int = 0) -> str:
    """A number with thousands separated, a dash for what is not known."""
    return UNKNOWN if value is None else f"{value:,.{digits}f}"


def duration(value: float | None) -> str:
    """Milliseconds: one digit after the point below 100."""
    return UNKNOWN if value is None else f"{value:,.{1 if abs(value) < 100 else 0}f}"


def span(seen: Interruption) -> str:
    """A range of milliseconds: ``286-288``; one figure when both ends read the same."""
    low, high = duration(seen.low_ms), duration(seen.high_ms)
    if UNKNOWN in (low, high):
        return UNKNOWN
    return low if low == high else f"{low}-{high}"


def both(counts: PerDirection) -> str:
    """Forward and return: ``0 / 2``."""
    return f"{number(counts.forward)} / {number(counts.return_)}"


def fds(case: CaseEvidence) -> str:
    """``2 of 2``: paired of all that were found."""
    if case.fds.paired is None or case.fds.unpaired is None:
        return UNKNOWN
    return f"{case.fds.paired} of {case.fds.paired + case.fds.unpaired}"


def clean(text: str) -> str:
    """Foreign text made safe to show: control and direction characters replaced, length bounded."""
    if len(text) > LONGEST_TEXT:
        text = f"{text[:LONGEST_TEXT]} … ({len(text) - LONGEST_TEXT:,} characters more)"
    return "".join(
        character
        if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co")
        else "\ufffd"
        for character in text
    )


def one_line(text: str, width: int = 300) -> str:
    """Foreign text as one line of at most ``width`` characters."""
    line = " ".join(clean(text).split())
    return line if len(line) <= width else f"{line[: width - 1]}…"


def share(part: int | None, whole: int | None) -> str:
    """A part of a whole in percent: ``25.1 %``."""
    return UNKNOWN if part is None or not whole else f"{100 * part / whole:.1f} %"
