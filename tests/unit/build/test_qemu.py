"""A source tree that is reused is discarded for what it may have broken, not for an error in a patch."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from cprlib.build import qemu
from cprlib.build.command import error_line
from cprlib.build.progress import Progress
from cprlib.build.series import Series, find_base
from cprlib.build.source_tree import SourceTree
from cprlib.errors import BuildFailed, DeadlineExceeded, EnvironmentFailure

OUTPUT = "[1/2] cc\nFAILED: net_tap.c.o\ncc -c ../source/net/tap.c\n../source/{}:3:1: error: expected ';'\n"


class Tree(SourceTree):
    """A tree that was built before, and counts how often it is discarded."""

    discarded = 0
    is_ready = True

    def discard(self) -> None:
        self.discarded += 1


def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, commands: bool = True) -> int:
    """How often the tree is discarded when its build ends with an error."""

    def fail(*_: object) -> Path:
        raise error

    patch = tmp_path / "0001-x.patch"
    patch.write_text("--- a/net/tap.c\n+++ b/net/tap.c\n@@ -1 +1 @@\n-a\n+b\n")
    tree = Tree(tmp_path)
    if commands:
        tree.build.mkdir()
        (tree.build / "compile_commands.json").write_text("[]")
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


@pytest.mark.parametrize(
    "error",
    [BuildFailed("compile QEMU", "ninja: x.o: No such file"), ValueError("no JSON"), FileNotFoundError("tap.c")],
)
def test_tree_that_may_be_broken_is_discarded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    assert build(tmp_path, monkeypatch, error) == 1


def test_tree_without_commands_of_the_compiler_is_discarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = EnvironmentFailure("compile QEMU", "No such file or directory")
    assert build(tmp_path, monkeypatch, error, commands=False) == 1


@pytest.mark.parametrize(
    "error",
    [
        DeadlineExceeded("compile QEMU", "nothing after 1800 s"),
        EnvironmentFailure("compile QEMU", "No such file or directory: 'ninja'"),
        BuildFailed("compile QEMU", "ninja: exit status 1", details="as: x.o: No space left on device"),
        OSError(errno.ENOSPC, "No space left on device"),
    ],
)
def test_tree_is_kept_when_it_is_not_to_blame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    assert build(tmp_path, monkeypatch, error) == 0
