"""The commands that are run for the documents: blocks are parsed correctly, and the substitutes match them."""

from __future__ import annotations

from pathlib import Path

import pytest

from cprlib.files import project_folder
from tests.documents.__main__ import main
from tests.documents.checkout import Checkout
from tests.documents.commands import pages, shown_commands
from tests.documents.substitutes import SUBSTITUTES, substitute_for
from tests.unit.docs.command_lines import problems_of, split

TOP = project_folder()
SHOWN = [shown for page in pages(TOP) for shown in shown_commands(page)]


def test_every_page_with_commands_is_read() -> None:
    assert set(pages(TOP)) == {TOP / "README.md", TOP / "CONTRIBUTING.md", *(TOP / "docs").glob("*.md")}
    assert len(SHOWN) > 60


def test_every_substitute_is_for_a_shown_command_and_unique() -> None:
    shown = [entry.shown for entry in SUBSTITUTES]
    assert len(shown) == len(set(shown))
    assert not set(shown) - {one.text for one in SHOWN}


def test_every_substitute_has_a_reason_and_valid_commands() -> None:
    for entry in SUBSTITUTES:
        assert entry.reason or entry.command is None, entry
        lines = split(f"for {entry.shown}", entry.command or "")
        assert not [problem for line in lines for problem in problems_of(line)], entry


def test_placeholders_are_never_run() -> None:
    for one in SHOWN:
        executed = substitute_for(one.text).executed
        assert not {"PATH", "NAME", "FOLDER", "TAG"} & set(executed.split()), one
        assert "/path/to" not in executed, one


def test_continued_lines_comments_and_other_blocks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```sh\ncprlib run \\\n  -p rate=5   # why\n# nothing\n\nT=x\n```\n```\ncprlib gone\n```\n")
    assert [(one.location, one.text) for one in shown_commands(page)] == [
        ("page.md:3", "cprlib run -p rate=5"),
        ("page.md:6", "T=x"),
    ]


def test_a_command_runs_in_the_folder_and_is_interrupted_at_the_time_limit(tmp_path: Path) -> None:
    checkout, log = Checkout(tmp_path, {"PATH": "/usr/bin:/bin"}), tmp_path / "log"
    assert checkout.execute("T=tests/x.py", log, 5) == 0
    assert checkout.execute("echo $T; pwd; false | true", log, 5) == 1
    assert log.read_text() == f"tests/x.py\n{tmp_path}\n"
    assert checkout.execute("sleep 600", log, 0.1) is None


def test_list_prints_commands_and_substitutes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list", "--page", "tutorial.md"]) == 0
    output = capsys.readouterr().out
    assert "cprlib doctor\n" in output
    assert "(CI runs the whole suite)" in output
