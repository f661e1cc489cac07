"""What a build of QEMU does after an error: of a patch, of its reused source tree, of a replaced source."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from cprlib.build import qemu
from cprlib.build.command import error_line
from cprlib.build.control import Remote
from cprlib.build.debian import Source
from cprlib.build.progress import Progress
from cprlib.build.series import Base, Series, find_base
from cprlib.build.source_tree import SourceTree
from cprlib.errors import BuildFailed, DeadlineExceeded, DownloadFailed, EnvironmentFailure

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


class ReplacedSource:
    """Debian after it has replaced version 1 of a source; the recorded look-up has that until it is forgotten."""

    recorded = "1"

    def __init__(self, suite: str, progress: Progress) -> None:
        del suite, progress
        self.version = self.recorded

    def source(self, name: str, _version: str) -> Source:
        return Source(name, self.version, "trixie", (Remote(f"qemu_{self.version}.dsc", 1, self.version * 64),))

    def download_source(self, name: str, version: str) -> None:
        if self.version == "1":
            raise DownloadFailed(f"download {self.source(name, version).files[0].name}", "404 Not Found")

    def forget(self) -> dict[Path, str]:
        self.version = "2"
        return {Path("record"): self.recorded}


def test_build_of_a_replaced_source_has_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_it(tree: SourceTree, base: Base, _series: Series, archive: ReplacedSource, _: Progress) -> Path:
        archive.download_source("qemu", base.version)
        tree.folder.mkdir(parents=True)
        (tree.folder / "program").write_text(archive.version)
        return tree.folder / "program"

    (tmp_path / "firmware").mkdir()
    monkeypatch.setattr(qemu, "Archive", ReplacedSource)
    monkeypatch.setattr(qemu, "find_firmware", lambda *_: tmp_path / "firmware")
    monkeypatch.setattr(qemu, "_compile", compile_it)
    built = qemu.build_qemu("10.0", False, Progress()).path
    assert built.read_text() == "2"
    assert '"qemu 2"' in (built.parent.parent / "build.json").read_text()
    monkeypatch.setattr(ReplacedSource, "recorded", "2")
    monkeypatch.setattr(qemu, "_compile", lambda *_: pytest.fail("it is under another key"))
    assert qemu.build_qemu("10.0", False, Progress()).path == built
