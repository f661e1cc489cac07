"""Series of patches, and the source tree that follows them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from cprlib.build.series import Series, find_base, find_series, load_bases, releases
from cprlib.build.source_tree import SourceTree
from cprlib.errors import BuildFailed, UsageError
from cprlib.report.patch_results import patch_number, subject_of

pytestmark = pytest.mark.fast

FIRST = """\
Change one line.

--- a/one.c
+++ b/one.c
@@ -1,3 +1,3 @@
 a
-b
+B
 c
"""
SECOND = """\
Add a file.

--- /dev/null
+++ b/sub/new.c
@@ -0,0 +1 @@
+new
"""
THIRD = FIRST.replace("-b\n+B", "-B\n+BB")


@pytest.fixture
def patches(tmp_path: Path) -> tuple[Path, ...]:
    folder = tmp_path / "patches"
    folder.mkdir()
    for name, text in (("0001-first", FIRST), ("0002-second", SECOND), ("0003-third", THIRD)):
        (folder / f"{name}.patch").write_text(text)
    return tuple(sorted(folder.iterdir()))


@pytest.fixture
def tree(tmp_path: Path) -> SourceTree:
    def unpack(folder: Path) -> None:
        folder.mkdir()
        (folder / "one.c").write_text("a\nb\nc\n")
        (folder / "two.c").write_text("two\n")

    tree = SourceTree(tmp_path / "tree")
    tree.prepare(unpack, lambda _build: None)
    return tree


def test_folder_is_a_series_in_the_order_of_names(
    patches: tuple[Path, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = tmp_path / "images" / "qemu" / "series"
    top.parent.mkdir(parents=True)
    monkeypatch.setattr("cprlib.build.series.project_folder", lambda: tmp_path)
    with pytest.raises(UsageError, match=r"no \*.patch"):
        find_series("10.0")
    (top / "10.2").parent.mkdir()
    (top / "10.2").symlink_to(patches[0].parent)
    assert find_series("10.2").names == tuple(patch.name for patch in patches)
    with pytest.raises(UsageError, match=r"there is one for: 10\.2"):
        find_series("10.0")


def test_series_without_a_patch(patches: tuple[Path, ...]) -> None:
    series = Series(patches)
    assert series.without(["0002"]).names == ("0001-first.patch", "0003-third.patch")
    with pytest.raises(UsageError, match="3 patches have this name"):
        series.without(["000"])
    with pytest.raises(UsageError, match="0 patches have this name"):
        series.without(["9"])


def test_digest_depends_on_content_and_order(patches: tuple[Path, ...]) -> None:
    assert Series(patches).digest == Series(patches).digest
    assert Series(patches).digest != Series(patches[::-1]).digest
    assert Series(patches[:2]).digest != Series(patches).digest


def test_patch_must_stay_in_the_source(tmp_path: Path) -> None:
    bad = tmp_path / "bad.patch"
    bad.write_text(FIRST.replace("one.c", "../one.c"))
    with pytest.raises(UsageError, match="outside the source"):
        Series((bad,)).touched()


def test_tree_follows_the_series(tree: SourceTree, patches: tuple[Path, ...]) -> None:
    assert tree.switch_to(Series(patches)) == ("one.c", "sub/new.c")
    assert (tree.source / "one.c").read_text() == "a\nBB\nc\n"
    assert tree.switch_to(Series(patches)) == ()
    assert tree.switch_to(Series(patches[:2])) == ("one.c",)
    assert (tree.source / "one.c").read_text() == "a\nB\nc\n"
    assert tree.switch_to(Series()) == ("one.c", "sub/new.c")
    assert (tree.source / "one.c").read_text() == "a\nb\nc\n"
    assert not (tree.source / "sub" / "new.c").exists()


def test_unchanged_files_keep_their_times(tree: SourceTree, patches: tuple[Path, ...]) -> None:
    tree.switch_to(Series(patches[:2]))
    os.utime(tree.source / "sub" / "new.c", ns=(1, 1))
    tree.switch_to(Series(patches))
    assert (tree.source / "sub" / "new.c").stat().st_mtime_ns == 1


def test_patch_that_does_not_apply_leaves_the_tree_unchanged(tree: SourceTree, patches: tuple[Path, ...]) -> None:
    tree.switch_to(Series(patches[:1]))
    with pytest.raises(BuildFailed, match=r"apply 0003-third\.patch"):
        tree.switch_to(Series(patches[2:]))
    assert (tree.source / "one.c").read_text() == "a\nB\nc\n"
    assert list(tree.folder.glob("stage.*")) == []
    assert tree.switch_to(Series(patches)) == ("one.c", "sub/new.c")


def test_patches_apply_without_fuzz(tree: SourceTree, tmp_path: Path) -> None:
    fuzzy = tmp_path / "fuzzy.patch"
    fuzzy.write_text(FIRST.replace(" c\n", " C\n"))
    with pytest.raises(BuildFailed):
        tree.switch_to(Series((fuzzy,)))


def test_incomplete_tree_is_discarded(tmp_path: Path) -> None:
    tree = SourceTree(tmp_path / "tree")

    def interrupted(folder: Path) -> None:
        folder.mkdir()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tree.prepare(interrupted, lambda _build: None)
    assert not tree.is_ready
    assert not tree.folder.exists()


def test_bases_and_series_of_the_project() -> None:
    assert {"10.0", "10.2"} <= set(load_bases())
    assert find_base("10.0").suite == "trixie"
    with pytest.raises(UsageError, match=r"there are: 10\.0"):
        find_base("9.9")
    assert "10.2-local" not in releases()
    assert find_base("10.2-local") == replace(find_base("10.2"), name="10.2-local", stand_in_on="10.2")
    names = find_series("10.0").names
    assert [name[:4] for name in names] == [f"{number:04}" for number in range(1, len(names) + 1)]


def test_text_before_a_diff_does_not_change_the_digest(tmp_path: Path) -> None:
    patch = tmp_path / "0001-first.patch"
    digests = []
    for text in (FIRST, FIRST.replace("Change", "Replace"), FIRST.replace("+B", "+C")):
        patch.write_text(text)
        digests.append(Series((patch,)).digest)
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("base", sorted(load_bases()))
def test_every_patch_of_the_series_has_a_number_and_a_subject(base: str) -> None:
    patches = find_series(base).patches
    numbers = [patch_number(patch) for patch in patches]
    assert numbers == sorted(set(numbers))
    assert all(not patch.stem.endswith(subject_of(patch).replace(" ", "-")) for patch in patches)


def test_subject_is_one_line_without_its_prefix(tmp_path: Path, patches: tuple[Path, ...]) -> None:
    patch = tmp_path / "0004-x.patch"
    patch.write_text(f"Subject: [PATCH] one: change a line\n and say so\n\n{FIRST}")
    assert subject_of(patch) == "one: change a line and say so"
    assert subject_of(patches[0]) == "first"
