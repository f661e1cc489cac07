"""The n-th case depends on the seed and on n alone, and the shipped choices fit the suite."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cprlib.campaign.soak.draw import Choices, draw, read_choices
from cprlib.errors import UsageError
from cprlib.files import project_folder
from cprlib.report.results_folder import case_id
from cprlib.testing.parameters import check_parameters
from tests.unit.soak.samples import CHOICES, REQUEST


def test_draws_stay_the_same_in_every_version() -> None:
    """A change of these breaks every soak that was begun before it."""
    drawn = [draw(7, number, REQUEST.tests, CHOICES) for number in range(1, 8)]
    assert [test for test, _ in drawn] == ["test-c", "test-b", "test-a", "test-b", "test-b", "test-b", "test-a"]
    assert dict(drawn[2][1]) == {"rate": "400", "size": "44"}
    assert dict(drawn[0][1]) == {}


@given(seed=st.integers(0, 10**9), number=st.integers(1, 10**6))
def test_draw_does_not_depend_on_earlier_draws(seed: int, number: int) -> None:
    alone = draw(seed, number, REQUEST.tests, CHOICES)
    for other in range(number, number + 3):
        draw(seed, other, REQUEST.tests, CHOICES)
    assert draw(seed, number, REQUEST.tests, CHOICES) == alone
    assert alone[0] in REQUEST.tests
    for name, value in alone[1].items():
        assert value in CHOICES.values[name]


def test_further_parameter_changes_no_other_draw() -> None:
    more = Choices({**CHOICES.values, "dscp": ("0", "46")}, {"test-a": ("dscp", "rate", "size")})
    for number in range(1, 50):
        test, parameters = draw(3, number, REQUEST.tests, more)
        assert draw(3, number, REQUEST.tests, CHOICES) == (test, {k: v for k, v in parameters.items() if k != "dscp"})


def test_all_tests_and_values_are_drawn_about_equally() -> None:
    drawn = [draw(1, number, REQUEST.tests, CHOICES) for number in range(1, 3001)]
    for test in REQUEST.tests:
        assert 900 < sum(name == test for name, _ in drawn) < 1100
    rates = [parameters["rate"] for test, parameters in drawn if test == "test-a"]
    assert 0.45 < rates.count("400") / len(rates) < 0.55


def test_other_seed_is_another_soak() -> None:
    first, second = ([draw(seed, number, REQUEST.tests, CHOICES) for number in range(1, 30)] for seed in (1, 2))
    assert first != second


def test_parameter_can_keep_its_default() -> None:
    drawn = [draw(7, number, REQUEST.tests, CHOICES.without("rate")) for number in range(1, 50)]
    assert {name for _, parameters in drawn for name in parameters} == {"size"}


def test_shipped_choices_fit_the_suite() -> None:
    methods = [
        node.name
        for path in (project_folder() / "tests" / "functional").glob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    ]
    choices = read_choices()
    assert set(choices.vary) <= {case_id(name) for name in methods}
    for name, values in choices.values.items():
        for value in values:
            check_parameters({name: value})
    for version in choices.values["ip_version"]:
        for size in choices.values["size"]:
            check_parameters({"ip_version": version, "size": size})


@pytest.mark.parametrize(
    "text", ["", "[values]\n", "values = 1\nvary = 1", '[values]\n[vary]\na = ["rate"]', "[values]\nrate = 1\n[vary]\n"]
)
def test_malformed_choices_are_a_usage_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(UsageError, match=r"x\.toml"):
        read_choices(tmp_path / "x.toml")
