"""Commands that run a case again, the environment of a folder that is judged again, and commands in Markdown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click
import pytest

from cprlib.cli.run import run
from cprlib.lab.engine import ENGINES
from cprlib.report.build_report import build_report
from cprlib.report.environment import Environment
from cprlib.report.formatting import command_span
from cprlib.report.rerun import FLAGS, OPTIONAL_VALUES, SELECTION, rerun_command
from cprlib.report.summary import MARKDOWN_LINES, markdown_summary, result_table
from cprlib.traffic.figures import PerDirection
from cprlib.verdict.policy_file import load_policy
from tests.unit.evidence.samples import good_case

CASE = "cprlib run tests/functional/test_x.py:X.test_y"


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        ("cprlib run", CASE),
        ("", CASE),
        ("avocado run x", CASE),
        ("cprlib run 'broken", CASE),
        (
            "cprlib run --qemu '/my builds/qemu' -p rate=500 --policy strict tests/functional",
            "cprlib run --qemu '/my builds/qemu' -p rate=500 --policy strict tests/functional/test_x.py:X.test_y",
        ),
        ("cprlib run -t vhost:on --out=/x --parallel 2 --lab kvm", f"cprlib run --lab kvm {CASE[11:]}"),
        ("cprlib run --lab tests/functional/test_a.py", f"cprlib run --lab {CASE[11:]}"),
        ("cprlib run --native -prate=5 test_a.py:A.test_b", f"cprlib run --native -prate=5 {CASE[11:]}"),
        ("cprlib run --matrix push --points '*-cpr-*' --shard=1/2 -p rate=500", f"cprlib run -p rate=500 {CASE[11:]}"),
        ("cprlib run --no-repeat a.py", f"cprlib run --no-repeat {CASE[11:]}"),
        ("cprlib run --repeat a.py --qemu /q", f"cprlib run --repeat --qemu /q {CASE[11:]}"),
        ("cprlib -v run --qemu /q -p rate=500", f"cprlib run --qemu /q -p rate=500 {CASE[11:]}"),
        ("cprlib run -v --qemu /q a.py", f"cprlib run --qemu /q {CASE[11:]}"),
        ("cprlib run --qemu /q my-tests/", f"cprlib run --qemu /q {CASE[11:]}"),
        ("cprlib run -tvhost:on --lab -- my-tests/", f"cprlib run --lab {CASE[11:]}"),
        ("cprlib run --policy mine.toml a.py", f"cprlib run --policy mine.toml {CASE[11:]}"),
    ],
)
def test_rerun_command_keeps_options_of_the_run(command: str, wanted: str) -> None:
    assert rerun_command(command, CASE) == wanted


def test_options_are_those_of_the_command_line() -> None:
    options = [parameter for parameter in run.params if isinstance(parameter, click.Option)]
    names = {name for option in options for name in (*option.opts, *option.secondary_opts)}
    assert {name for option in options if option.is_flag for name in (*option.opts, *option.secondary_opts)} == FLAGS
    assert {option.opts[0] for option in options if not option.is_flag and isinstance(option.flag_value, str)} == set(
        OPTIONAL_VALUES
    )
    assert OPTIONAL_VALUES["--lab"] == ENGINES
    assert names >= SELECTION


def test_rerun_command_gives_each_option_and_parameter_once() -> None:
    case = "cprlib run -p nic.packed=on --qemu /q -p 'qemu_args=-sandbox on' -p queues=4 a.py:A.b"
    whole = "cprlib run -p nic.packed=on --qemu /q --qemu-arg '-sandbox on'"
    assert rerun_command(whole, case) == f"{whole} -p queues=4 a.py:A.b"


def test_case_without_a_command_has_no_rerun_command() -> None:
    assert rerun_command("cprlib run", "") == ""


def test_judging_again_keeps_machine_and_command(tmp_path: Path) -> None:
    good_case().write(tmp_path / "cases" / good_case().id)
    machine = Environment(mode="lab", engine="uml", kernel="6.1-theirs", cores=7, packages={"scapy": "1"})
    build_report(tmp_path, load_policy("default"), environment=machine, command="cprlib run -p rate=500")
    second = build_report(tmp_path, load_policy("strict"))
    assert second.environment == machine
    assert second.command == "cprlib run -p rate=500"
    third = build_report(tmp_path, load_policy("strict"))
    assert third.environment == machine


@pytest.mark.parametrize("text", ["", "[]", '{"environment": 3}', '{"environment": {"cores": 1}, "command": null}'])
def test_broken_earlier_report_is_ignored(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    good_case().write(tmp_path / "cases" / good_case().id)
    assert build_report(tmp_path, load_policy("default")).command == ""


def test_summary_and_table_have_the_exact_command(tmp_path: Path) -> None:
    replace(good_case(), loss=PerDirection(2, 0)).write(tmp_path / "cases" / good_case().id)
    command = "cprlib run --qemu '/q|x y' -p rate=500 " + " ".join(f"-p memory={number}" for number in range(64, 90))
    report = build_report(tmp_path, load_policy("default"), environment=Environment(), command=command)
    wanted = f"{command} tests/functional/test_update.py:UpdateTest.test_no_loss"
    summary = markdown_summary(report)
    assert f"run again: `{wanted}`\n" in summary
    assert f"Command: `{command}`\n" in summary
    assert len(summary.splitlines()) <= MARKDOWN_LINES
    assert f"run again: {wanted}\n" in result_table(report)


@pytest.mark.parametrize(
    ("text", "wanted"), [("a b", "`a b`"), ("a `b` c", "``a `b` c``"), ("a ``b", "```a ``b```"), ("`a", "`` `a ``")]
)
def testcommand_span_shows_its_text_unchanged(text: str, wanted: str) -> None:
    assert command_span(text) == wanted
