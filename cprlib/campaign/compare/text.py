"""A comparison as plain text for the terminal: from it alone one can tell; its last line is the verdict."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from cprlib.campaign.compare.chain import Chain
from cprlib.campaign.compare.comparison import WORDS, Comparison
from cprlib.campaign.compare.findings import Change, CountResult, DurationResult, Findings, Sample
from cprlib.campaign.compare.rare import SURE, WORTH_SEEING, chance_to_see, updates_needed
from cprlib.report.formatting import UNKNOWN, duration, one_line

WIDTH = 120
DURATION_HEADINGS = (
    "metric",
    "A, ms",
    "B, ms",
    "B/A",
    "interval",
    "p worse",
    "noise",
    "drift of A",
    "matters",
    "verdict",
)
CONTROL_HEADINGS = tuple({"B, ms": "again, ms", "B/A": "ratio"}.get(name, name) for name in DURATION_HEADINGS)
COUNT_HEADINGS = ("metric", "A", "in updates", "B", "in updates", "p worse", "B at most in", "verdict")


def comparison_text(made: Comparison) -> str:
    """Everything that decides, case by case."""
    lines = [
        f"A  {_side(made.a.label, made.a.version, made.a.sha256)}",
        f"B  {_side(made.b.label, made.b.version, made.b.sha256)}",
    ]
    for sample in made.samples:
        lines += ["", *_case(made, sample)]
    if made.crossings:
        lines += ["", crossing_line(made.crossings)]
    if made.control:
        lines += [
            "",
            "A against A, in the same rounds:",
            *_table(CONTROL_HEADINGS, [duration_row(item) for item in made.control.durations]),
        ]
    lines += ["", *(_wrap(f"refused: {one_line(text)}") for text in refusals(made))]
    lines += [_wrap(f"note: {one_line(text)}") for text in (*made.notes, *made.doubts)]
    lines.append(_wrap(f"interval and levels: {levels(made)}"))
    lines.append(f"verdict: {verdict_words(made)}")
    return "\n".join(lines) + "\n"


def verdict_words(made: Comparison) -> str:
    """``REGRESSION (chain-...: STOP to RESUME; ...)``."""
    return f"{WORDS[made.change]} ({one_line(made.reason, 500)})"


def levels(made: Comparison) -> str:
    """What the figures of this comparison mean."""
    looks = f"{len(made.looks)} look{'s' * (len(made.looks) != 1)}" if made.looks else "one look"
    return (
        f"95 % over {looks} for the ratio; false alarm on equals at most {100 * 0.01:.0f} % over all looks and metrics;"
        f" matters: {100 * made.effect.ratio:.0f} % of A, at least {made.effect.floor_ms:g} ms"
    )


def refusals(made: Comparison) -> list[str]:
    """What the policy refuses, with how often it was seen."""
    texts = [
        f"{item.case} with B, {item.chains} of {item.of} chains: {item.text}" + ("; so with A" if item.also_a else "")
        for item in made.findings.accusations
    ]
    return [*texts, *made.crossing_failures]


def crossing_line(chains: Sequence[Chain]) -> str:
    """Updates from A to B in a line."""
    shown = ", ".join(duration(chain.middle("interruption-return")) for chain in chains)
    lost = sum(chain.packets.get("lost", 0) for chain in chains)
    late = sum(chain.packets.get("reordered", 0) for chain in chains)
    bad = sum(bool(chain.failures) for chain in chains)
    skipped = next((chain.skipped for chain in chains if chain.skipped), "")
    if skipped:
        return f"update from A to B: skipped: {one_line(skipped)}"
    return (
        f"update from A to B: {len(chains)} carried out, interruption back {shown} ms, {lost} lost, "
        f"{late} reordered, {bad or 'none'} refused by policy"
    )


def _side(label: str, version: str, sha256: str) -> str:
    return "  ".join(filter(None, [one_line(label), one_line(version), sha256[:12]]))


def sample_line(sample: Sample) -> str:
    """How much there is of a case."""
    good = [sum(chain.updates for chain in side if chain.believed) for side in (sample.a, sample.b)]
    chains = f"{len(sample.a)} pairs of guests" if sample.paired else f"{len(sample.a)} and {len(sample.b)} guests"
    doubted = sum(not chain.believed for chain in (*sample.a, *sample.b))
    rest = f"; {doubted} not believed" if doubted else ""
    return f"{sample.case}: {chains}, {good[0]} and {good[1]} updates{rest}"


def _case(made: Comparison, sample: Sample) -> list[str]:
    found = made.findings
    lines = [sample_line(sample)]
    lines += _table(DURATION_HEADINGS, [duration_row(item) for item in found.durations if item.case == sample.case])
    counts = [item for item in found.counts if item.case == sample.case]
    lines += ["", *_table(COUNT_HEADINGS, [count_row(item) for item in counts])]
    lines.append(_wrap(seen_line(found, sample.case)))
    return lines


def seen_line(found: Findings, case: str) -> str:
    """How rare a loss these updates would have shown."""
    updates = next((item.b_updates for item in found.counts if item.case == case), 0)
    chance = chance_to_see(updates)
    shown = "more than 99.9 %" if chance > 0.999 else f"{100 * chance:.1f} %"
    return (
        f"a loss in one update of {1 / WORTH_SEEING:.0f} would be seen in {updates} updates of B with {shown}"
        f" ({updates_needed()} are needed for {100 * SURE:.0f} %)"
    )


def duration_row(item: DurationResult) -> tuple[str, ...]:
    """Cells of a duration."""
    interval = UNKNOWN if item.low is None or item.high is None else f"{item.low:.2f} to {item.high:.2f}"
    return (
        item.metric.label,
        duration(item.a),
        duration(item.b),
        UNKNOWN if item.ratio is None else f"{item.ratio:.2f}",
        interval,
        p_text(item.worse),
        percent(item.noise),
        percent(item.drift),
        f"{100 * item.effect:.0f} %",
        change_text(item.change),
    )


def percent(part: float | None) -> str:
    """A part of a value, without digits after the point."""
    return UNKNOWN if part is None else f"{100 * part:.0f} %"


def count_row(item: CountResult) -> tuple[str, ...]:
    """Cells of a count."""
    return (
        item.metric.label,
        str(item.a),
        f"{item.a_affected} of {item.a_updates}",
        str(item.b),
        f"{item.b_affected} of {item.b_updates}",
        p_text(item.worse),
        f"{100 * item.at_most:.1f} %",
        change_text(item.change),
    )


def change_text(change: Change) -> str:
    """Upper case where something became worse, so that the eye finds it."""
    return change.value.upper() if change == Change.REGRESS else change.value


def p_text(value: float) -> str:
    """Three digits; never 0."""
    return f"{value:.3f}" if value >= 0.001 else "<0.001"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    every = [headings, *rows]
    last = len(headings) - 1
    widths = [max(len(row[column]) for row in every) for column in range(len(headings))]

    def line(row: Sequence[str]) -> str:
        cells = [cell.ljust(widths[i]) if i in (0, last) else cell.rjust(widths[i]) for i, cell in enumerate(row)]
        return "  " + "  ".join(cells).rstrip()

    return [line(headings), "  " + "  ".join("-" * width for width in widths), *(line(row) for row in rows)]


def _wrap(text: str) -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent="    ", break_on_hyphens=False)
