"""Policies: shipped ones load, and whatever is not understood is refused with file and line."""

from __future__ import annotations

from dataclasses import replace as replace_case
from pathlib import Path

import pytest
from msgspec.structs import fields, replace

from cprlib.errors import UsageError
from cprlib.evidence.records import DescriptorCount, Outcome
from cprlib.files import project_folder
from cprlib.verdict.judge import judge
from cprlib.verdict.policy import Policy, PolicyTable
from cprlib.verdict.policy_file import load_policy, shipped_policies
from tests.unit.evidence.samples import good_case

pytestmark = pytest.mark.fast


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


def test_shipped_policies_are_the_three() -> None:
    assert shipped_policies() == ("default", "slow-machine", "strict")
    for name in shipped_policies():
        assert load_policy(name).name == name
        assert load_policy(name).description


def test_empty_file_is_as_strict_as_can_be(tmp_path: Path) -> None:
    assert load_policy(write(tmp_path, "")) == Policy(name="mine")


def test_strict_file_says_what_is_built_in() -> None:
    assert replace(load_policy("strict"), description="") == Policy()


def test_limits_are_lifted_by_none(tmp_path: Path) -> None:
    policy = load_policy(write(tmp_path, '[interruption]\nmax_ms = "none"\nrequired = false\n'))
    assert policy.interruption.max_ms is None


def test_a_limit_of_what_need_not_be_measured_is_no_contradiction(tmp_path: Path) -> None:
    """It counts where descriptors were compared, or where there is a ledger."""
    text = "[identity]\nrequired = false\nunpaired = 2\n[ledger]\nunexplained = 3\nrequired = false\n"
    policy = load_policy(write(tmp_path, text))
    assert (policy.identity.unpaired, policy.ledger.unexplained) == (2, 3)
    case = replace_case(good_case(), fds=DescriptorCount(2, 1), unexplained=2)
    assert judge(case, policy).outcome == Outcome.PASS
    less = load_policy(write(tmp_path, text.replace("2", "0").replace("3", "1")))
    assert judge(case, less).outcome == Outcome.FAIL


def test_each_key_is_described() -> None:
    described = (project_folder() / "docs" / "reading-a-report.md").read_text()
    for table in fields(Policy):
        value = getattr(Policy(), table.name)
        if isinstance(value, PolicyTable):
            for key in fields(value):
                name = key.encode_name
                assert f"`{table.name}.{name}`" in described or f"`.{name}`" in described, (table.name, name)


def test_extends_changes_single_keys(tmp_path: Path) -> None:
    policy = load_policy(write(tmp_path, 'extends = "default"\n[loss]\nforward = 3\n'))
    assert policy.loss.forward == 3
    assert policy.loss.overflow == load_policy("default").loss.overflow
    assert policy.interruption == load_policy("default").interruption


def test_extends_a_file_beside_it(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text("[interruption]\nmax_ms = 7\n")
    assert load_policy(write(tmp_path, 'extends = "base.toml"\n')).interruption.max_ms == 7.0


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("[loss]\nforward = 0\nforwards = 1\n", 3, "unknown key 'forwards'"),
        ("retries = 0\n[lost]\nforward = 0\n", 2, "unknown table 'lost'"),
        ("colour = 1\n", 1, "unknown key 'colour'"),
        ("\n\n[loss]\nforward = -1\n", 4, "0 or more"),
        ("[loss]\nforward = 1.5\n", 2, "a whole number"),
        ("[loss]\nforward = true\n", 2, "a whole number"),
        ("[loss]\noverflow = 'warn'\n", 2, '"fail" or "inconclusive"'),
        ("[interruption]\nmax_ms = 0\n", 2, "above 0"),
        ("[interruption]\nmax_ms = inf\n", 2, "above 0"),
        ("[interruption]\nmax_ms = nan\n", 2, "above 0"),
        ("[interruption]\nrequired = 'yes'\n", 2, "true or false"),
        ("[skips]\nallow = 'no-cpr'\n", 2, "a list of texts"),
        ("[skips]\nallow = [1]\n", 2, "a list of texts"),
        ("description = 1\n", 1, "must be text"),
        ("loss = 3\n", 1, "must be a table"),
        ("extends = 3\n", 1, "must be text"),
        ("loss.forwards = 3\n", 1, "unknown key 'forwards'"),
        ("retries = 1\nloss = { forwards = 3 }\n", 2, "unknown key 'forwards'"),
        ("[loss]\nforward = \n", 2, "Invalid value"),
        ("[loss]\nforward = 1\nforward = 2\n", 3, "Cannot overwrite"),
        ("[interruption]\nmax_ms = 2\nrequired = false\n", 2, "contradicts"),
        ("[skips]\nwhole_mechanism = true\n", 2, "contradicts"),
        ("[skips]\nallow = ['*']\nallow_checks = ['*']\notherwise = 'fail'\n", 4, "contradicts"),
        ("extends = 'mine.toml'\n", 1, "extends this file"),
        ("\nextends = 'gone.toml'\n", 2, "extends 'gone.toml': there is no file"),
        ("\nextends = 'lenient'\n", 2, "extends 'lenient': there is no policy of that name"),
        ("retries = 1\n\n[[loss]]\nforward = 1\n", 3, "must be a table"),
        ("\n[loss.forward]\na = 1\n", 2, "a whole number"),
        ('description = """\n[loss]\n"""\n[loss]\nforwards = 2\n', 5, "unknown key 'forwards'"),
        ("retries = 1.0\n", 1, "a whole number"),
        ("[interruption]\nmax_ms = '5'\n", 2, "above 0"),
        ("[identity]\nrequired = false\n[downgrade]\nforbidden = 'no'\n", 4, "true or false"),
    ],
)
def test_bad_files_are_refused_with_the_line(tmp_path: Path, text: str, line: int, words: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        load_policy(path)
    assert str(path) in str(caught.value)
    assert f"line {line}" in str(caught.value)
    assert words in str(caught.value)


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(UsageError, match="default, slow-machine, strict"):
        load_policy("relaxed")


def test_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        load_policy(tmp_path / "none.toml")


def test_binary_file_is_a_usage_error(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError):
        load_policy(path)
