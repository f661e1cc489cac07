"""Which patch wrote which line."""

from __future__ import annotations

from pathlib import Path

import pytest

from cprlib.build.added_lines import patched_files
from cprlib.build.series import Series
from cprlib.errors import PatchFailed

pytestmark = pytest.mark.fast

FIRST = """\
A first change.

--- a/one.c
+++ b/one.c
@@ -1,3 +1,4 @@
 a
-b
+B
+C
 c
"""
MOVED = """\
--- a/one.c
+++ b/one.c
@@ -1,2 +1,2 @@
-B
+BB
 C
@@ -9 +9,2 @@
 d
+e
"""
NEW = """\
--- /dev/null
+++ b/sub/new.c
@@ -0,0 +1 @@
+new
"""
REMOVED = """\
--- a/sub/new.c
+++ /dev/null
@@ -1 +0,0 @@
-new
"""


def _series(folder: Path, *texts: str) -> Series:
    paths = [folder / f"{number:04}.patch" for number in range(1, len(texts) + 1)]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text)
    return Series(tuple(paths))


@pytest.fixture
def pristine(tmp_path: Path) -> Path:
    folder = tmp_path / "pristine"
    folder.mkdir()
    (folder / "one.c").write_text("a\nb\nc\nd\n")
    return folder


def test_line_belongs_to_the_last_patch_that_added_it(tmp_path: Path, pristine: Path) -> None:
    files = patched_files(_series(tmp_path, FIRST, MOVED, NEW), pristine)
    assert files["one.c"].lines == ["a", "BB", "C", "c", "d", "e"]
    assert files["one.c"].added == {2: "0002.patch", 3: "0001.patch", 6: "0002.patch"}
    assert files["sub/new.c"].added == {1: "0003.patch"}


def test_removed_file_is_left_out(tmp_path: Path, pristine: Path) -> None:
    assert not patched_files(_series(tmp_path, NEW, REMOVED), pristine)


def test_patch_that_does_not_apply_is_an_error(tmp_path: Path, pristine: Path) -> None:
    with pytest.raises(PatchFailed, match=r"0001\.patch in one\.c: no such lines"):
        patched_files(_series(tmp_path, MOVED), pristine)
