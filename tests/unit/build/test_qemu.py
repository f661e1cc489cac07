"""A source tree that is reused is discarded for what it may have broken, not for an error in a patch."""

from __future__ import annotations

from pathlib import Path

import pytest

from cprlib.build import qemu
from cprlib.build.command import error_line
from cprlib.build.progress import Progress
from cprlib.build.series import Series, find_base
from cprlib.build.source_tree import SourceTree
from cprlib.errors import BuildFailed, DownloadFailed

OUTPUT = "[1/2] cc\nFAILED: net_tap.c.o\ncc -c ../source/net/tap.c\n../source/{}:3:1: error: expected ';'\n"


class Tree(SourceTree):
    """A tree that was built before, and counts how often it is discarded."""

    discarded = 0
    is_ready = True

    def discard(self) -> None:
        self.discarded += 1


def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> int:
    """How often the tree is discarded when its build ends with an error."""

    def fail(*_: object) -> Path:
        raise error

    patch = tmp_path / "0001-x.patch"
    patch.write_text("--- a/net/tap.c\n+++ b/net/tap.c\n@@ -1 +1 @@\n-a\n+b\n")
    tree = Tree(tmp_path)
    monkeypatch.setattr(qemu, "_compile_once", fail)
    with pytest.raises(type(error)):
        qemu._compile(tree, find_base("10.0"), Series((patch,)), None, Progress())  # type: ignore[arg-type]
    return tree.discarded


@pytest.mark.parametrize(("file", "discarded"), [("net/tap.c", 0), ("hw/net/tap.c", 1), ("net/vhost.c", 1)])
def test_compiler_error_in_a_patched_file_keeps_the_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, discarded: int
) -> None:
    output = OUTPUT.format(file)
    error = BuildFailed("compile QEMU", f"ninja: exit status 1: {error_line(output)}", details=output)
    assert build(tmp_path, monkeypatch, error) == discarded


def test_any_other_error_discards_the_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert build(tmp_path, monkeypatch, BuildFailed("compile QEMU", "ninja: build.ninja: No such file")) == 1
    assert build(tmp_path, monkeypatch, DownloadFailed("fetch QEMU", "it is gone")) == 1
