"""What is typed for a document's commands: the blocks are read rightly, and the table of exceptions fits them."""

from __future__ import annotations

from pathlib import Path

import pytest

from cprlib.files import project_folder
from tests.documents.__main__ import main
from tests.documents.otherwise import TABLE, otherwise
from tests.documents.reader import Reader
from tests.documents.shown import pages, shown_in
from tests.unit.docs.command_lines import problems_of, split

TOP = project_folder()
SHOWN = [shown for page in pages(TOP) for shown in shown_in(page)]


def test_every_page_with_commands_is_read() -> None:
    assert set(pages(TOP)) == {TOP / "README.md", TOP / "CONTRIBUTING.md", *(TOP / "docs").glob("*.md")}
    assert len(SHOWN) > 60


def test_no_exception_is_out_of_date_or_said_twice() -> None:
    shown = [row.shown for row in TABLE]
    assert len(shown) == len(set(shown))
    assert not set(shown) - {one.text for one in SHOWN}


def test_what_is_typed_otherwise_has_a_reason_and_exists() -> None:
    for row in TABLE:
        assert row.why or row.typed is None, row
        assert not [problem for line in split(f"for {row.shown}", row.typed or "") for problem in problems_of(line)], (
            row
        )


def test_what_stands_for_something_is_never_typed_as_it_is() -> None:
    for one in SHOWN:
        typed = otherwise(one.text).command
        assert not {"PATH", "NAME", "FOLDER", "TAG"} & set(typed.split()), one
        assert "/path/to" not in typed, one


def test_joined_lines_comments_and_other_blocks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```sh\ncprlib run \\\n  -p rate=5   # why\n# nothing\n\nT=x\n```\n```\ncprlib gone\n```\n")
    assert [(one.place, one.text) for one in shown_in(page)] == [
        ("page.md:3", "cprlib run -p rate=5"),
        ("page.md:6", "T=x"),
    ]


def test_a_command_is_typed_in_the_folder_and_ended_when_it_takes_too_long(tmp_path: Path) -> None:
    one, log = Reader(tmp_path, {"PATH": "/usr/bin:/bin"}), tmp_path / "log"
    assert one.type("T=tests/x.py", log, 5) == 0
    assert one.type("echo $T; pwd; false | true", log, 5) == 1
    assert log.read_text() == f"tests/x.py\n{tmp_path}\n"
    assert one.type("sleep 600", log, 0.1) is None


def test_list_shows_what_is_typed_and_types_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list", "--page", "tutorial.md"]) == 0
    said = capsys.readouterr().out
    assert "cprlib doctor\n" in said
    assert "(CI runs the whole suite)" in said
