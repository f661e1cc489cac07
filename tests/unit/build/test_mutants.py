"""Reading of mutant files, and the mutants of the project."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cprlib.build import mutants
from cprlib.build.mutants import build_mutant, find_mutant, load_mutants, mutants_folder
from cprlib.build.progress import Progress
from cprlib.build.series import Series, diff_of, find_series
from cprlib.campaign.mutation.list_page import mutants_page
from cprlib.errors import UsageError
from cprlib.files import project_folder

pytestmark = pytest.mark.fast

DIFF = "--- a/net/tap.c\n+++ b/net/tap.c\n@@ -1 +1 @@\n-a\n+b\n"
GOOD = """\
From: A Developer <a@invalid>
Subject: [PATCH] tap: lose one packet

A user sees that
a packet is missing.

Killed-by: a-case
Message: lost \\d+
Leaves-out: 0002, 0003
---
"""


def write(file: Path, text: str = GOOD) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def test_mutant_is_read(tmp_path: Path) -> None:
    write(tmp_path / "tap" / "a-one.patch", GOOD + DIFF)
    text = GOOD.replace("Killed-by: a-case", "Killed-by: a-case\nKilled-by: b-case\nBases: 10.0")
    write(tmp_path / "series" / "b-two.patch", text)
    one, two = load_mutants(tmp_path)
    assert (one.name, one.group, one.subject) == ("a-one", "tap", "tap: lose one packet")
    assert one.body == "A user sees that\na packet is missing."
    assert (one.leaves_out, one.killed_by) == (("0002", "0003"), ("a-case",))
    assert one.patches == (tmp_path / "tap" / "a-one.patch",)
    assert re.search(one.message, "they lost 3")
    assert one.bases[0] == "10.0"
    assert (two.killed_by, two.patches, two.bases) == (("a-case", "b-case"), (), ("10.0",))
    assert find_mutant("b-two", tmp_path) == two


def test_base_without_a_series_is_no_error_of_a_mutant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def find(base: str) -> Series:
        raise UsageError(f"build QEMU {base} with a series", "no *.patch")

    monkeypatch.setattr(mutants, "find_series", find)
    write(tmp_path / "tap" / "a-one.patch", GOOD.replace("Leaves-out: 0002, 0003\n", "") + DIFF)
    assert [mutant.name for mutant in load_mutants(tmp_path)] == ["a-one"]
    write(tmp_path / "tap" / "b-two.patch", GOOD)
    with pytest.raises(UsageError, match=r"build QEMU [\d.]+ with a series"):
        load_mutants(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("From: ", "Fron: ", 1, "in the header"),
        ("Subject: [PATCH] tap: lose one packet", "Subject: tap: lose", 2, "in the header"),
        ("Subject: [PATCH] tap: lose one packet\n", "", 2, "in the header"),
        ("A user sees that\na packet is missing.\n\n", "", 4, "body is empty"),
        ("A user", "Message: x\nA user", 4, "Message outside of the last paragraph"),
        ("Killed-by: a-case\n", "", 8, "no Killed-by"),
        ("Killed-by: a-case", "Killed-by:", 7, "Killed-by is empty"),
        ("Killed-by: a-case", "Killed-by: a\nKilled-by: a", 8, "twice"),
        ("Killed-by", "Signed-off-by", 7, "is no trailer"),
        ("Killed-by", "killed-by", 7, "is no trailer"),
        ("Message: lost \\d+", "Message: (", 8, "no regular expression"),
        ("Message: lost \\d+", "Message: a\nMessage: b", 9, "a second Message"),
        ("Message: lost \\d+\n", "", 8, "no Message"),
        ("0002, 0003", "0077", 9, "0 patches have this name"),
        ("0002, 0003", "0002, 0002", 9, "no list of different names"),
        ("0002, 0003", "0002,", 9, "no list of different names"),
        ("Leaves-out: 0002, 0003\n", "", 1, "good build"),
        ("Leaves-out", "Bases: 9.9\nLeaves-out", 9, "no base '9.9'"),
        ("---\n", DIFF, 10, "no line '---'"),
    ],
)
def test_bad_file_is_refused_with_file_and_line(tmp_path: Path, old: str, new: str, line: int, words: str) -> None:
    assert old in GOOD
    file = write(tmp_path / "tap" / "bad.patch", GOOD.replace(old, new, 1))
    with pytest.raises(UsageError, match=re.escape(words)) as caught:
        load_mutants(tmp_path)
    assert f"read {file}, line {line}:" in str(caught.value)


def test_bad_names_and_a_missing_folder_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "Bad_Name.patch")
    with pytest.raises(UsageError, match="bad name 'Bad_Name'"):
        load_mutants(tmp_path)
    with pytest.raises(UsageError, match="no such folder"):
        load_mutants(tmp_path / "absent")


def test_one_name_in_two_groups_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "tap" / "one.patch")
    write(tmp_path / "vhost" / "one.patch")
    with pytest.raises(UsageError, match="has the same name"):
        load_mutants(tmp_path)


def test_unknown_mutant_is_refused_with_a_list(tmp_path: Path) -> None:
    write(tmp_path / "a-one.patch")
    for name in ("a-two", "../a-one", ""):
        with pytest.raises(UsageError, match="there are: a-one"):
            find_mutant(name, tmp_path)


def test_mutant_is_built_on_its_bases_only(tmp_path: Path) -> None:
    write(tmp_path / "v.patch", GOOD.replace("---\n", "Bases: 10.0\n---\n"))
    with pytest.raises(UsageError, match=r"it is made for: 10\.0"):
        build_mutant(find_mutant("v", tmp_path), "10.2", Progress())


def test_mutants_of_the_project_are_complete_and_different() -> None:
    """Each patch of the series is left out once, in number or in effect, and no two mutants are the same build."""
    mutants = load_mutants()
    assert mutants_folder().is_dir()
    for patch in find_series("10.0").names:
        assert any(mutant.name.startswith(f"without-{patch[:4]}") for mutant in mutants), patch
    contents = [
        (
            mutant.leaves_out,
            tuple(diff_of(patch) for patch in mutant.patches),
        )
        for mutant in mutants
    ]
    assert len(set(contents)) == len(contents)
    assert len({mutant.subject for mutant in mutants}) == len(mutants)


def test_page_matches_the_files() -> None:
    page = (project_folder() / "docs" / "mutants.md").read_text(encoding="utf-8")
    assert page == mutants_page(load_mutants()), "run: cprlib build --list --markdown > docs/mutants.md"
