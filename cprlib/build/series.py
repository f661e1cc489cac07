"""Bases and series: QEMU releases, and ordered patches on them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cprlib.build import store
from cprlib.errors import EnvironmentFailure, PatchFailed, ProcessFailed, UsageError
from cprlib.files import project_folder
from cprlib.process import run

DEFAULT_BASE = "10.0"
DIFF_START = re.compile(r"^(?:diff |--- [^\s-])", re.MULTILINE)
TOUCHED = re.compile(r"^(?:---|\+\+\+) (?:[ab]/)?([^\t\n]+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Base:
    """A QEMU release to build.

    :param name: ``"10.0"``.
    :param suite: Debian suite with its source package.
    :param version: upstream version, or the beginning of it.
    :param stand_in_on: for a series that stands in for a feature that no release has: the base that it is for, with
        whose source tree it is built.
    :param options: options of configure, beside those of every base.
    """

    name: str
    suite: str
    version: str
    stand_in_on: str = ""
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Series:
    """Patches in the order in which they are applied."""

    patches: tuple[Path, ...] = ()

    @property
    def digest(self) -> str:
        """Hash of the diffs in their order; the text before a diff does not change it."""
        return store.key_of(**{f"patch{number:04}": diff_of(patch) for number, patch in enumerate(self.patches)})

    @property
    def names(self) -> tuple[str, ...]:
        """File names of the patches, in order."""
        return tuple(patch.name for patch in self.patches)

    def without(self, names: Iterable[str]) -> Series:
        """The series without some patches, each given by its file name or the beginning of it (``"0003"``).

        :raises UsageError: no patch has this name, or more than one.
        """
        patches = list(self.patches)
        for name in names:
            found = [patch for patch in self.patches if patch.name.startswith(name)]
            if len(found) != 1:
                known = ", ".join(self.names) or "none"
                raise UsageError(
                    f"leave out patch {name!r}", f"{len(found)} patches have this name", f"there are: {known}"
                )
            patches.remove(found[0])
        return Series(tuple(patches))

    def touched(self) -> set[str]:
        """Files that the patches change, relative to the source."""
        names: set[str] = set()
        for patch in self.patches:
            text = patch.read_text(encoding="utf-8", errors="replace")
            names.update(name.strip() for name in TOUCHED.findall(text) if name.strip() != "/dev/null")
        bad = [name for name in names if name.startswith("/") or ".." in Path(name).parts]
        if bad:
            happened = f"a patch changes {bad[0]!r}, outside the source"
            raise UsageError("read the series", happened, "make it with git format-patch")
        return names

    def apply(self, folder: Path) -> None:
        """Apply every patch to a folder, without fuzz.

        :raises PatchFailed: a patch does not apply; names it.
        """
        for patch in self.patches:
            command = ["patch", "--strip=1", "--fuzz=0", "--batch", "--forward", "--no-backup-if-mismatch"]
            try:
                run([*command, f"--input={patch}"], purpose=f"apply {patch.name}", seconds=60, cwd=folder)
            except ProcessFailed as error:
                failed = [line for line in error.details.splitlines() if "FAILED" in line or "can't find" in line]
                happened = "; ".join(failed) or error.happened
                raise PatchFailed(f"apply {patch.name}", happened, "fix the patch", details=error.details) from error


def diff_of(patch: Path) -> bytes:
    """The diff of a patch file without the text before it.

    :raises EnvironmentFailure: the file cannot be read.
    """
    try:
        text = patch.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise EnvironmentFailure(f"read {patch}", error.strerror or str(error)) from error
    found = DIFF_START.search(text)
    return text[found.start() :].encode(errors="surrogateescape") if found else b""


def load_bases() -> dict[str, Base]:
    """The bases of images/qemu/bases.toml by name.

    :raises UsageError: the file is malformed.
    """
    file = project_folder() / "images" / "qemu" / "bases.toml"
    try:
        value = tomllib.loads(file.read_text(encoding="utf-8"))
        return {name: _base(name, item, value) for name, item in value.items()}
    except OSError as error:
        raise EnvironmentFailure(f"read {file}", str(error), "give it back its place in the checkout") from error
    except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise UsageError(f"read {file}", f"{type(error).__name__}: {error}", "see the comments in it") from error


def _base(name: str, item: Mapping[str, Any], bases: Mapping[str, Mapping[str, Any]]) -> Base:
    if on := item.get("stand-in-on", ""):
        item = bases[on]
    return Base(name, str(item["suite"]), str(item["version"]), on, tuple(map(str, item.get("options", ()))))


def releases() -> tuple[str, ...]:
    """Names of the bases with the project's series: all but stand-ins."""
    return tuple(name for name, base in load_bases().items() if not base.stand_in_on)


def find_base(name: str) -> Base:
    """One base by its name.

    :raises UsageError: there is none of that name.
    """
    bases = load_bases()
    if name not in bases:
        raise UsageError(
            f"build QEMU {name}", "no such base in images/qemu/bases.toml", f"there are: {', '.join(bases)}"
        )
    return bases[name]


def find_series(base: str) -> Series:
    """The series for a base: that of ``images/qemu/series/<base>`` where there is such a folder, else the common one.

    :raises UsageError: the folder has no patch.
    """
    top = project_folder() / "images" / "qemu" / "series"
    folder = top / base if (top / base).is_dir() else top
    patches = tuple(sorted(folder.absolute().glob("*.patch")))
    if not patches:
        others = ", ".join(sorted(path.parent.name for path in folder.glob("*/0001-*.patch")))
        advice = f"there is one for: {others}" if others else ""
        raise UsageError(f"build QEMU {base} with a series", f"no *.patch in {folder}", advice)
    return Series(patches)
