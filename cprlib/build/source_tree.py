"""A QEMU source tree that is reused with its build folder, so that another series compiles only what it changes.

A series is applied to pristine copies of the files that it touches, in a temporary folder. Only files whose content
then differs are written to the tree; the others keep their time stamps, and ninja keeps their objects. After a patch
that does not apply, or an interruption, the next switch repairs the tree.

Layout::

    source/        the source with a series applied
    pristine/      the original of every file that a series touched
    touched.json   the names of these files
    build/         the build folder
    ready          written last, after unpacking and configuring
"""

from __future__ import annotations

import filecmp
import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cprlib.build.series import Series
from cprlib.errors import EnvironmentFailure
from cprlib.files import write_json, write_text


@dataclass(frozen=True, slots=True)
class CompileCommand:
    """How a file is compiled.

    :param file: relative to the source; outside of it with ``..``.
    :param output: relative to the build folder, in which the command runs.
    """

    file: str
    output: str
    command: str

    @property
    def words(self) -> list[str]:
        """The words of the command; to split those of all files takes seconds."""
        return shlex.split(self.command)


class SourceTree:
    """A source tree; the layout is in the docstring of the module."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = folder / "source"
        self.build = folder / "build"
        self.log = folder.with_name(f"{folder.name}.log")
        self.pristine = folder / "pristine"

    @property
    def is_ready(self) -> bool:
        """True when unpacking and configuring are complete."""
        return (self.folder / "ready").exists()

    def prepare(self, unpack: Callable[[Path], None], configure: Callable[[Path], None]) -> None:
        """Discard the tree, unpack the source and configure it.

        :param unpack: creates the source in a folder that does not exist.
        :param configure: fills the build folder; source and build folder have their final paths.
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

    def compile_commands(self) -> tuple[CompileCommand, ...]:
        """How each file is compiled, as meson records it.

        :raises EnvironmentFailure: the record cannot be read.
        """
        path = self.build / "compile_commands.json"
        try:
            return tuple(
                CompileCommand(
                    os.path.relpath(os.path.normpath(self.build / item["file"]), self.source),
                    item["output"],
                    item["command"],
                )
                for item in json.loads(path.read_bytes())
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise EnvironmentFailure(f"read {path}", str(error)) from error

    def switch_to(self, series: Series) -> tuple[str, ...]:
        """Change the source to the pristine one with ``series`` applied.

        :returns: files that were written or removed.
        :raises PatchFailed: a patch does not apply; the tree is unchanged.
        """
        names = self._touched() | series.touched()
        self._save_pristine(names)
        with tempfile.TemporaryDirectory(dir=self.folder, prefix="stage.") as name:
            stage = Path(name)
            for item in names:
                _copy(self.pristine / item, stage / item)
            series.apply(stage)
            return tuple(item for item in sorted(names) if _update_file(stage / item, self.source / item))

    def overwrite(self, texts: Mapping[str, bytes]) -> None:
        """Replace or add files of the source; the next :meth:`switch_to` takes this back.

        :param texts: whole content by name, relative to the source.
        """
        self._save_pristine(set(texts))
        with tempfile.TemporaryDirectory(dir=self.folder, prefix="stage.") as name:
            for item, text in texts.items():
                staged = Path(name, item)
                staged.parent.mkdir(parents=True, exist_ok=True)
                staged.write_bytes(text)
                _update_file(staged, self.source / item)

    def _touched(self) -> set[str]:
        try:
            return set(json.loads((self.folder / "touched.json").read_bytes()))
        except FileNotFoundError:
            return set()

    def _save_pristine(self, names: set[str]) -> None:
        """Copy the originals of files that no series touched before, then record their names."""
        known = self._touched()
        for item in names - known:
            _copy(self.source / item, self.pristine / item)
        write_json(self.folder / "touched.json", sorted(names | known))


def _copy(origin: Path, copy: Path) -> None:
    """Copy a file if it exists."""
    if origin.exists():
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(origin, copy)


def _update_file(staged: Path, target: Path) -> bool:
    """Make ``target`` equal to ``staged``, with a new time stamp; False when it was equal."""
    if not staged.exists():
        if not target.exists():
            return False
        target.unlink()
        return True
    if target.exists() and filecmp.cmp(staged, target, shallow=False):
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.new")
    temporary.write_bytes(staged.read_bytes())
    temporary.chmod(staged.stat().st_mode)
    temporary.replace(target)
    return True
