"""The report of a comparison: compare.json for programs, compare.html and compare.txt for people.

The last line of the text is the verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cprlib.campaign.compare.comparison import COMPARE_SCHEMA_FILE, WORDS, Comparison, a_to_b_failures
from cprlib.campaign.compare.decision import OUTCOMES, Change, CountResult, DurationResult, Sample
from cprlib.campaign.compare.guest import GuestResult
from cprlib.campaign.compare.statistics import CONFIDENCE, FALSE_ALARM, WORTH_SEEING, chance_to_see, updates_needed
from cprlib.campaign.page import TEMPLATES, indented_table, picture, write_document, write_page
from cprlib.report.formatting import UNKNOWN, duration, one_line, wrap
from cprlib.report.html import render
from cprlib.report.plotting import DOT, INK, SOFT
from cprlib.words import counted

PAGE_FILE, TEXT_FILE = "compare.html", "compare.txt"
CHANGE_WORDS = {Change.SAME: "no difference", Change.REGRESS: "REGRESS"}  # upper case, so that the eye finds it
_DECISION = ("interval", "p worse", "noise", "smallest relevant difference", "verdict")
DURATION_HEADINGS = ("metric", "A, ms", "B, ms", "B/A", *_DECISION)
CONTROL_HEADINGS = ("metric", "A, ms", "again, ms", "ratio", *_DECISION)
COUNT_HEADINGS = ("metric", "A", "in updates", "B", "in updates", "p worse", "upper bound for B, 95 %", "verdict")
COLUMNS = 3  # of pictures


def write_comparison(made: Comparison, folder: Path) -> None:
    """Write compare.txt, compare.html and compare.json into a folder.

    :raises InstrumentError: the comparison does not fit the schema.
    :raises EnvironmentFailure: the folder cannot be written.
    """
    write_page(folder / TEXT_FILE, comparison_text(made))
    write_page(folder / PAGE_FILE, comparison_html(made))
    write_document(folder, COMPARE_SCHEMA_FILE, made)  # last: a session that has it is not resumed


# --- compare.html ---


def comparison_html(made: Comparison) -> str:
    """The page: tables and a picture of every guest's value, the order of the rounds, links to the evidence."""
    return render(
        "compare.html",
        TEMPLATES,
        made=made,
        verdict=WORDS[made.verdict],
        refusals=refusals(made),
        cases=[_case_view(made, sample) for sample in made.samples],
        a_to_b=a_to_b_line(made.a_to_b) if made.a_to_b else "",
        control=[(item, duration_row(item)) for item in made.a_against_a.durations] if made.a_against_a else (),
        headings={"durations": DURATION_HEADINGS, "counts": COUNT_HEADINGS, "control": CONTROL_HEADINGS},
        outcomes=OUTCOMES,
        levels=levels(made),
    )


def _case_view(made: Comparison, sample: Sample) -> dict[str, object]:
    durations = [item for item in made.decision.durations if item.case == sample.case]
    counts = [item for item in made.decision.counts if item.case == sample.case]
    shown = [item for item in durations if item.a_values]
    return {
        "sample": sample,
        "summary": sample_line(sample),
        "rare": rare_line(counts),
        "durations": [(item, duration_row(item)) for item in durations],
        "counts": [(item, count_row(item)) for item in counts],
        "picture": _picture(shown, sample.paired) if shown else "",
    }


def _picture(results: Sequence[DurationResult], paired: bool) -> str:
    """A panel for each metric: hollow circles are A's guests, filled squares B's; a pair side by side."""
    spaces = {"hspace": 0.62, "wspace": 0.24}
    return picture(results, COLUMNS, 2.35, lambda axis, item: _draw(axis, item, paired), gridspec_kw=spaces)


def _draw(axis: Any, result: DurationResult, paired: bool) -> None:
    first = list(range(1, len(result.a_values) + 1))
    second = list(range(1, len(result.b_values) + 1))
    if paired:
        axis.vlines(first, result.a_values, result.b_values, color=SOFT, lw=0.8, zorder=1)
    else:
        second = [len(first) + 1 + place for place in second]
    axis.scatter(first, result.a_values, s=22, facecolors="white", edgecolors=INK, linewidths=1.1, zorder=3, label="A")
    axis.scatter(second, result.b_values, s=20, color=DOT, marker="s", linewidths=0, zorder=2, label="B")
    for value, dashes in ((result.a, "solid"), (result.b, (0, (4, 2)))):
        if value is not None:
            axis.axhline(value, color=INK if dashes == "solid" else DOT, lw=0.8, ls=dashes, zorder=0)
    top = max((*result.a_values, *result.b_values), default=1.0)
    axis.set_ylim(0, top * 1.12)
    ratio = "" if result.ratio is None else f"   B/A {result.ratio:.2f}"
    axis.set_title(f"{result.metric.label}{ratio}\n{change_text(result.change)}", fontsize=8.5, loc="left", color=INK)
    axis.set_ylabel("ms")
    axis.set_xlabel("valid pair" if paired else "guests of A, then of B")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.legend(loc="lower right", fontsize=7.5, frameon=False, ncols=2, handletextpad=0.1, borderaxespad=0.1)


# --- compare.txt ---


def comparison_text(made: Comparison) -> str:
    """Everything that decides, case by case; the last line is the verdict."""
    lines = [
        f"A  {_side(made.a.label, made.a.version, made.a.sha256)}",
        f"B  {_side(made.b.label, made.b.version, made.b.sha256)}",
    ]
    for sample in made.samples:
        counts = [item for item in made.decision.counts if item.case == sample.case]
        durations = [duration_row(item) for item in made.decision.durations if item.case == sample.case]
        lines += ["", f"{sample.case}: {sample_line(sample)}", *indented_table(DURATION_HEADINGS, durations)]
        lines += ["", *indented_table(COUNT_HEADINGS, [count_row(item) for item in counts]), wrap(rare_line(counts))]
    if made.a_to_b:
        lines += ["", a_to_b_line(made.a_to_b)]
    if made.a_against_a:
        rows = [duration_row(item) for item in made.a_against_a.durations]
        lines += ["", "A against A, in the same rounds:", *indented_table(CONTROL_HEADINGS, rows)]
    lines += ["", *(wrap(f"refused: {one_line(text)}") for text in refusals(made))]
    lines += [wrap(f"note: {one_line(text)}") for text in (*made.notes, *made.problems)]
    lines.append(wrap(f"interval and levels: {levels(made)}"))
    lines.append(f"verdict: {WORDS[made.verdict]} ({one_line(made.reason, 500)})")
    return "\n".join(lines) + "\n"


def _side(label: str, version: str, sha256: str) -> str:
    return "  ".join(filter(None, [one_line(label), one_line(version), sha256[:12]]))


def levels(made: Comparison) -> str:
    count = len(made.interim_analyses)
    analyses = f"{count} interim analyses" if count > 1 else "one analysis"
    return (
        f"95 % over {analyses} for the ratio; false alarm between equal QEMUs at most {100 * FALSE_ALARM:.0f} %"
        f" over all analyses and metrics; smallest relevant difference: {100 * made.min_effect.ratio:.0f} % of A,"
        f" at least {made.min_effect.floor_ms:g} ms"
    )


def refusals(made: Comparison) -> list[str]:
    """What the policy refuses, and in how many guests."""
    texts = [
        f"{item.case} with B, {item.guests} of {item.of} guests: {item.text}"
        + (f"; with A, {item.a_guests} of {item.a_of}" if item.a_guests else "")
        for item in made.decision.refusals
    ]
    return [*texts, *a_to_b_failures(made.a_to_b)]


def a_to_b_line(guests: Sequence[GuestResult]) -> str:
    """Updates from A to B in a line; each guest has one."""
    skipped = next((guest.skipped for guest in guests if guest.skipped), "")
    if skipped:
        return f"update from A to B: skipped: {one_line(skipped)}"
    shown = ", ".join(duration(guest.median_ms("interruption-return")) for guest in guests)
    known = [[guest.packets[name] for guest in guests if name in guest.packets] for name in ("lost", "reordered")]
    lost, reordered = (sum(counts) if counts else UNKNOWN for counts in known)
    updates, refused = sum(guest.updates for guest in guests), sum(bool(guest.failures) for guest in guests)
    return (
        f"update from A to B: {updates} of {len(guests)} carried out, interruption return {shown} ms, {lost} lost, "
        f"{reordered} reordered, {refused or 'none'} refused by policy"
    )


def sample_line(sample: Sample) -> str:
    updates = [sum(guest.updates for guest in side if guest.valid) for side in (sample.a, sample.b)]
    guests = (
        f"{counted(len(sample.a), 'pair')} of guests"
        if sample.paired
        else f"{len(sample.a)} and {len(sample.b)} guests"
    )
    discarded = sum(not guest.valid for guest in (*sample.a, *sample.b))
    rest = f"; {counted(discarded, 'guest')} discarded" if discarded else ""
    return f"{guests}, {updates[0]} and {updates[1]} updates{rest}"


def rare_line(counts: Sequence[CountResult]) -> str:
    """With which probability these updates show a rare loss."""
    updates = counts[0].b_updates if counts else 0
    chance = chance_to_see(updates)
    shown = "more than 99.9 %" if chance > 0.999 else f"{100 * chance:.1f} %"
    return (
        f"{updates} updates of B show a loss in one update of {1 / WORTH_SEEING:.0f} with a probability of {shown}"
        f" ({updates_needed()} are needed for {100 * CONFIDENCE:.0f} %)"
    )


def duration_row(item: DurationResult) -> tuple[str, ...]:
    interval = UNKNOWN if item.low is None or item.high is None else f"{item.low:.2f} to {item.high:.2f}"
    return (
        item.metric.label,
        duration(item.a),
        duration(item.b),
        UNKNOWN if item.ratio is None else f"{item.ratio:.2f}",
        interval,
        _p(item.worse),
        UNKNOWN if item.noise is None else f"{100 * item.noise:.0f} %",
        f"{100 * item.effect:.0f} %",
        change_text(item.change),
    )


def count_row(item: CountResult) -> tuple[str, ...]:
    return (
        item.metric.label,
        str(item.a),
        f"{item.a_affected} of {item.a_updates}",
        str(item.b),
        f"{item.b_affected} of {item.b_updates}",
        _p(item.worse),
        f"{100 * item.at_most:.1f} %",
        change_text(item.change),
    )


def change_text(change: Change) -> str:
    return CHANGE_WORDS.get(change, change.value)


def _p(value: float) -> str:
    """Three digits; never 0."""
    return f"{value:.3f}" if value >= 0.001 else "<0.001"
