"""A QEMU source tree that is kept, with its build beside it, so that another series compiles only what it changes.

A series is applied to pristine copies of the files it touches, in a folder aside; only files whose content then differs
are written to the tree. Time stamps of the others stay, so ninja leaves their objects alone. A patch that does not
apply, or an interruption, leaves a tree that the next switch puts right.

Layout::

    source/        the source with a series applied
    pristine/      the original of every file that a series has touched
    touched.json   the names of these files
    build/         the build folder
    ready          written last, when the tree was unpacked and configured
"""

from __future__ import annotations

import contextlib
import filecmp
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cprlib.build.series import Series
from cprlib.files import locked, write_json, write_text


@dataclass(frozen=True, slots=True)
class SourceTree:
    """A kept tree; see the module's text for its layout."""

    folder: Path

    @property
    def source(self) -> Path:
        """The source's top."""
        return self.folder / "source"

    @property
    def build(self) -> Path:
        """The build folder."""
        return self.folder / "build"

    @property
    def is_ready(self) -> bool:
        """True when it was unpacked and configured to the end."""
        return (self.folder / "ready").exists()

    def prepare(self, unpack: Callable[[Path], None], configure: Callable[[Path], None]) -> None:
        """Unpack and configure anew, whatever was there before.

        :param unpack: makes the source in a folder that does not exist yet.
        :param configure: makes the build folder's contents from ``source``; both are at their final place.
        """
        self.discard()
        try:
            self.folder.mkdir(parents=True)
            unpack(self.source)
            self.build.mkdir()
            configure(self.build)
            write_text(self.folder / "ready", "")
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Remove the tree; the next build starts from the beginning."""
        (self.folder / "ready").unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def switch_to(self, series: Series) -> tuple[str, ...]:
        """Make the source be the pristine one with ``series`` applied.

        :returns: names of the files that were written or removed.
        :raises BuildFailed: a patch does not apply; the tree is as before.
        """
        names = self._touched() | series.touched()
        self._keep_pristine(names)
        with tempfile.TemporaryDirectory(dir=self.folder, prefix="stage.") as name:
            stage = Path(name)
            for item in names:
                _copy(self.folder / "pristine" / item, stage / item)
            series.apply(stage)
            return tuple(item for item in sorted(names) if _bring(stage / item, self.source / item))

    def _touched(self) -> set[str]:
        try:
            return set(json.loads((self.folder / "touched.json").read_bytes()))
        except FileNotFoundError:
            return set()

    def _keep_pristine(self, names: set[str]) -> None:
        """Copy the originals of files that no series has touched before; then remember that they are touched."""
        known = self._touched()
        for item in names - known:
            _copy(self.source / item, self.folder / "pristine" / item)
        write_json(self.folder / "touched.json", sorted(names | known))


@contextlib.contextmanager
def kept_tree(folder: Path) -> Iterator[SourceTree]:
    """A kept tree, for one user at a time."""
    with locked(folder.with_name(f".{folder.name}.lock")):
        yield SourceTree(folder)


def _copy(origin: Path, copy: Path) -> None:
    """Copy a file, or the fact that there is none."""
    if origin.exists():
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(origin, copy)


def _bring(staged: Path, target: Path) -> bool:
    """Make ``target`` be as ``staged``, with a new time stamp; False when it already was."""
    if not staged.exists():
        if not target.exists():
            return False
        target.unlink()
        return True
    if target.exists() and filecmp.cmp(staged, target, shallow=False):
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.new")
    aside.write_bytes(staged.read_bytes())
    aside.chmod(staged.stat().st_mode)
    aside.replace(target)
    return True
