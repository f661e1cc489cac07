"""The report: a text that suffices, JSON that fits its schema, a page in which foreign text does no harm."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from cprlib.campaign.compare import Effect
from cprlib.campaign.compare.comparison import COMPARE_SCHEMA_FILE, Comparison, Round, Side, make_comparison
from cprlib.campaign.compare.decide import decide
from cprlib.campaign.compare.decision import Sample
from cprlib.campaign.compare.output import comparison_text, sample_line, write_comparison
from cprlib.campaign.compare.statistics import SINGLE_ANALYSIS
from cprlib.codec import encode
from cprlib.report.environment import Environment
from cprlib.verdict.policy_file import load_policy
from tests.unit.mutation.samples import HOSTILE

from .samples import CASE, guest, refused, sample

ENVIRONMENT = Environment(mode="lab", engine="uml", kernel="6.18", python="3.11", cprlib="0.1.0", cores=2)


def comparison(*samples: Sample, **more: object) -> Comparison:
    made = make_comparison(
        "session",
        Side("/opt/a/qemu", "10.0.13", "a" * 64),
        Side("/opt/b/qemu", "10.0.13", "b" * 64),
        samples or (sample(1.3),),
        Effect(),
        load_policy("default"),
        ENVIRONMENT,
        command="cprlib compare --b /opt/b/qemu",
    )
    rounds = tuple(Round(n, (("a", CASE), ("b", CASE)), 20.0, n) for n in range(1, len(made.samples[0].a) + 1))
    made = replace(made, interim_analyses=(12,), rounds=rounds, budget_s=300.0, seed=7, started="2023-11-14 22:13:20")
    return replace(made, **more)  # type: ignore[arg-type]


def test_text_shows_a_slower_b() -> None:
    lines = comparison_text(comparison()).splitlines()
    assert lines[-1].startswith("verdict: REGRESSION (")
    row = next(line for line in lines if "STOP to RESUME" in line)
    assert row.endswith("REGRESS")
    assert "1.3" in row
    assert "12 pairs of guests, 120 and 120 updates" in "\n".join(lines)
    assert max(map(len, lines[:-1])) <= 130


def test_one_pair_of_guests_is_in_the_singular() -> None:
    one = Sample(CASE, (guest(),), (guest(problems=("no figures",)),), True)
    assert sample_line(one) == "1 pair of guests, 10 and 0 updates; 1 guest discarded"


def test_text_shows_a_lost_packet_with_its_guest() -> None:
    good = tuple(guest() for _ in range(12))
    text = comparison_text(comparison(Sample(CASE, good, (*good[:11], guest(lost=[1])), True)))
    assert f"refused: {CASE} with B, 1 of 12 guests: loss: 1 packets lost forward" in text
    assert text.splitlines()[-1].startswith("verdict: REGRESSION (")


def test_equals_end_with_no_regression_and_what_would_have_been_seen() -> None:
    text = comparison_text(comparison(sample(1.0)))
    assert text.splitlines()[-1] == "verdict: NO REGRESSION (no difference of 15 % or more, nothing lost)"
    text = " ".join(text.split())
    assert "120 updates of B show a loss in one update of 10 with a probability of more than 99.9 %" in text
    assert "(29 are needed for 95 %)" in text


def test_failed_update_from_a_to_b_is_not_carried_out() -> None:
    failed = guest(updates=0, failures=(refused("update-completes", "no CPR state"),))
    text = comparison_text(comparison(a_to_b=(guest(updates=1), failed)))
    assert "update from A to B: 1 of 2 carried out" in text


def test_undecided_says_what_is() -> None:
    assert "verdict: UNDECIDED (undecided:" in comparison_text(comparison(sample(1.3, scatter=0.8)))


@pytest.mark.parametrize("ratio", [1.0, 1.3])
def test_json_fits_its_schema(ratio: float) -> None:
    made = comparison(
        sample(ratio), a_against_a=decide([sample(1.0)], SINGLE_ANALYSIS, Effect()), a_to_b=(guest(updates=1),)
    )
    value = json.loads(json.dumps(encode(made)))
    jsonschema.validate(value, json.loads(COMPARE_SCHEMA_FILE.path.read_text()), cls=jsonschema.Draft202012Validator)
    assert value["verdict"] == ("regress" if ratio > 1 else "same")
    assert value["decision"]["durations"][0]["change"] == value["verdict"]
    assert len(value["rounds"]) == 12
    assert len(value["a_against_a"]["durations"]) == 5


@pytest.mark.pictures
def test_page_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    write_comparison(comparison(a_to_b=(guest(updates=1),)), tmp_path)
    page = (tmp_path / "compare.html").read_text()
    assert "✗ REGRESSION" in page
    assert page.count("data:image/svg+xml;base64,") == 1
    for foreign in ("http://", "https://", "<script", "<link", "@import", "url("):
        assert foreign not in page
    assert (tmp_path / "compare.txt").read_text() == comparison_text(comparison(a_to_b=(guest(updates=1),)))


def test_foreign_text_does_no_harm(tmp_path: Path) -> None:
    bad = guest(failures=(refused("loss", HOSTILE),), problems=(HOSTILE,), folder=f"results/{HOSTILE}")
    made = comparison(
        Sample(CASE, (guest(),) * 6, (bad,) * 6, True), notes=(HOSTILE,), b=Side(HOSTILE, HOSTILE), command=HOSTILE
    )
    write_comparison(made, tmp_path)
    for text in ((tmp_path / "compare.html").read_text(), comparison_text(made)):
        assert "\x1b" not in text
        assert "\u202e" not in text
    assert "<script" not in (tmp_path / "compare.html").read_text()
