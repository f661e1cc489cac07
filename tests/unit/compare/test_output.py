"""What is printed and saved: enough to tell from the text alone, a schema that fits, a page that does no harm."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from cprlib.campaign.compare.comparison import Comparison, Side
from cprlib.campaign.compare.decide import decide
from cprlib.campaign.compare.findings import Effect, Sample
from cprlib.campaign.compare.looks import ONCE
from cprlib.campaign.compare.output import comparison_value, schema_file, write_comparison
from cprlib.campaign.compare.session import Round
from cprlib.campaign.compare.text import comparison_text
from cprlib.report.environment import Environment
from tests.unit.mutation.samples import HOSTILE

from .samples import CASE, chain, sample

ENVIRONMENT = Environment(mode="lab", engine="uml", kernel="6.18", python="3.11", cprlib="0.1.0", cores=2)


def comparison(*samples: Sample, **more: object) -> Comparison:
    shown = samples or (sample(1.3),)
    sides = [{name: (getattr(shown[0], name)[number],) for name in "ab"} for number in range(len(shown[0].a))]
    made = Comparison(
        "session",
        Side("/opt/a/qemu", "10.0.13", "a" * 64),
        Side("/opt/b/qemu", "10.0.13", "b" * 64),
        shown,
        decide(shown, ONCE, Effect()),
        ONCE,
        Effect(),
        "default",
        ENVIRONMENT,
        looks=(12,),
        rounds=tuple(Round(n, (("a", CASE), ("b", CASE)), side, 20.0, n) for n, side in enumerate(sides, 1)),
        budget_s=300.0,
        seed=7,
        command="cprlib compare --b /opt/b/qemu",
        started_ns=1_700_000_000_000_000_000,
        finished_ns=1_700_000_300_000_000_000,
    )
    return replace(made, **more)  # type: ignore[arg-type]


def test_a_slower_b_can_be_told_from_the_text_alone() -> None:
    lines = comparison_text(comparison()).splitlines()
    assert lines[-1].startswith("verdict: REGRESSION (")
    row = next(line for line in lines if "STOP to RESUME" in line)
    assert row.endswith("REGRESS")
    assert "1.3" in row
    assert "12 pairs of guests, 120 and 120 updates" in "\n".join(lines)
    assert max(map(len, lines[:-1])) <= 130


def test_a_lost_packet_is_told_with_its_chain() -> None:
    good = tuple(chain() for _ in range(12))
    text = comparison_text(comparison(Sample(CASE, good, (*good[:11], chain(lost=[1])), True)))
    assert f"refused: {CASE} with B, 1 of 12 chains: loss: 1 packets lost forward" in text
    assert text.splitlines()[-1].startswith("verdict: REGRESSION (")


def test_equals_end_with_no_regression_and_what_would_have_been_seen() -> None:
    text = comparison_text(comparison(sample(1.0)))
    assert text.splitlines()[-1] == "verdict: NO REGRESSION (no difference of 15 % or more, nothing lost)"
    assert "would be seen in 120 updates of B with more than 99.9 % (29 are needed for 95 %)" in text


def test_undecided_says_what_is() -> None:
    assert "verdict: UNDECIDED (not decided:" in comparison_text(comparison(sample(1.3, scatter=0.8)))


@pytest.mark.parametrize("ratio", [1.0, 1.3])
def test_json_fits_its_schema(ratio: float) -> None:
    made = comparison(sample(ratio), control=decide([sample(1.0)], ONCE, Effect()), crossings=(chain(updates=1),))
    value = json.loads(json.dumps(comparison_value(made)))
    jsonschema.validate(value, json.loads(schema_file().read_text()), cls=jsonschema.Draft202012Validator)
    assert value["verdict"] == ("regress" if ratio > 1 else "same")
    assert value["cases"][0]["durations"][0]["change"] == value["verdict"]
    assert len(value["rounds"]) == 12
    assert len(value["a_against_a"]) == 5


def test_the_page_needs_nothing_from_elsewhere_and_says_what_the_text_says(tmp_path: Path) -> None:
    write_comparison(comparison(crossings=(chain(updates=1),)), tmp_path)
    page = (tmp_path / "compare.html").read_text()
    assert "✗ REGRESSION" in page
    assert page.count("data:image/svg+xml;base64,") == 1
    for foreign in ("http://", "https://", "<script", "<link", "@import", "url("):
        assert foreign not in page
    assert (tmp_path / "compare.txt").read_text() == comparison_text(comparison(crossings=(chain(updates=1),)))


def test_foreign_text_does_no_harm(tmp_path: Path) -> None:
    bad = chain(failures=(f"loss: {HOSTILE}",), doubts=(), folder=f"cells/{HOSTILE}")
    made = comparison(
        Sample(CASE, (chain(),) * 6, (bad,) * 6, True), notes=(HOSTILE,), b=Side(HOSTILE, HOSTILE), command=HOSTILE
    )
    write_comparison(made, tmp_path)
    for text in ((tmp_path / "compare.html").read_text(), comparison_text(made)):
        assert "\x1b" not in text
        assert "\u202e" not in text
    assert "<script" not in (tmp_path / "compare.html").read_text()
