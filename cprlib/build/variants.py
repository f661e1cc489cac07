"""Variants: QEMU builds that the suite must refuse, each with a patch of the series left out or a defect put in.

A variant is a folder ``images/qemu/variants/<name>`` with a manifest ``variant.toml`` and, beside it, the ``*.patch``
files that are applied after the series, in the order of their names. docs/variants.md says what the manifest holds.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cprlib.build.progress import Progress
from cprlib.build.qemu import QemuBuild, build_qemu
from cprlib.build.series import find_series, load_bases
from cprlib.errors import EnvironmentFailure, UsageError
from cprlib.files import project_folder

MANIFEST = "variant.toml"
TEXTS = ("title", "description", "message")
LISTS = ("leave_out", "patches", "detected_by", "bases")
NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True, slots=True)
class Variant:
    """A build that the suite must refuse.

    :param name: of its folder: ``"one-packet-swallowed-at-stop"``.
    :param title: what is wrong with it, in one line.
    :param description: how it was made, what a user would see, how it is detected.
    :param leave_out: patches of the series that it has not got, by the beginning of their names.
    :param patches: applied after the series, in order.
    :param detected_by: ids of the cases each of which has to catch it; at least one.
    :param message: regular expression to be found in the text of the check that fails there.
    :param bases: QEMU releases that it is made for; the first is the one to take when none is asked for.
    """

    name: str
    title: str
    description: str
    leave_out: tuple[str, ...]
    patches: tuple[Path, ...]
    detected_by: tuple[str, ...]
    message: str
    bases: tuple[str, ...]


def variants_folder() -> Path:
    """Where the project's variants are."""
    return project_folder() / "images" / "qemu" / "variants"


def load_variants(folder: Path | None = None) -> tuple[Variant, ...]:
    """All variants in the order of their names.

    :param folder: holds one folder for each variant; the project's when None.
    :raises UsageError: a manifest is malformed or names what is not there; says file and key.
    """
    top = folder or variants_folder()
    try:
        folders = sorted(path for path in top.iterdir() if path.is_dir())
    except OSError as error:
        raise EnvironmentFailure(f"read {top}", str(error)) from error
    return tuple(read_variant(path) for path in folders)


def find_variant(name: str, folder: Path | None = None) -> Variant:
    """One variant by its name.

    :raises UsageError: there is none of that name, or its manifest is malformed.
    """
    top = folder or variants_folder()
    if not NAME.fullmatch(name) or not (top / name).is_dir():
        there = ", ".join(sorted(path.parent.name for path in top.glob(f"*/{MANIFEST}"))) or "none"
        raise UsageError(f"take variant {name!r}", f"there is no such folder in {top}", f"there are: {there}")
    return read_variant(top / name)


def build_variant(variant: Variant, base: str, progress: Progress) -> QemuBuild:
    """Build a variant on a base, or find it built.

    :raises UsageError: the variant is not made for this base.
    :raises BuildFailed: a patch of it does not apply, or a compiler refused.
    """
    if base not in variant.bases:
        made_for = ", ".join(variant.bases)
        raise UsageError(f"build variant {variant.name} of QEMU {base}", f"it is made for: {made_for}")
    return build_qemu(base, True, progress, leave_out=variant.leave_out, extra=variant.patches)


def read_variant(folder: Path) -> Variant:
    """The variant of a folder.

    :raises UsageError: the manifest is missing, malformed, or names what is not there; says file and key.
    """
    file = folder / MANIFEST
    try:
        value = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"read {file}", error.strerror or str(error), "every folder there is a variant") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"read {file}", str(error)) from error
    if not NAME.fullmatch(folder.name):
        raise UsageError(
            f"read {file}", f"{folder.name!r} is no name of a variant", "use small letters, digits, dashes"
        )
    unknown = sorted(set(value) - {*TEXTS, *LISTS})
    if unknown:
        raise _bad(file, unknown[0], "unknown key", f"known are: {', '.join((*TEXTS, *LISTS))}")
    variant = Variant(
        name=folder.name,
        title=_text(file, value, "title"),
        description=_text(file, value, "description"),
        leave_out=_names(file, value, "leave_out", default=()),
        patches=_patches(file, value),
        detected_by=_names(file, value, "detected_by"),
        message=_text(file, value, "message"),
        bases=_names(file, value, "bases", default=tuple(load_bases())),
    )
    _check(file, variant)
    return variant


def _check(file: Path, variant: Variant) -> None:
    """What the values mean together: there is something wrong with the build, on bases that exist, seen by somebody."""
    if "\n" in variant.title:
        raise _bad(file, "title", "more than one line")
    if not variant.leave_out and not variant.patches:
        raise _bad(file, "leave_out", f"no patch left out, and no *.patch in {file.parent}: this is the good build")
    if not variant.detected_by:
        raise _bad(file, "detected_by", "empty", "name at least one case that has to catch the variant")
    if not variant.bases:
        raise _bad(file, "bases", "empty", "leave the key out for all of images/qemu/bases.toml")
    for base in variant.bases:
        if base not in load_bases():
            raise _bad(file, "bases", f"no base {base!r} in images/qemu/bases.toml")
        try:
            find_series(base, True).without(variant.leave_out)
        except UsageError as error:
            raise _bad(file, "leave_out", f"on base {base}, {error.happened}", error.advice) from error
    try:
        re.compile(variant.message)
    except re.error as error:
        raise _bad(file, "message", f"no regular expression: {error}") from error


def _text(file: Path, value: Mapping[str, object], key: str) -> str:
    text = value.get(key)
    if text is None:
        raise _bad(file, key, "missing")
    if not isinstance(text, str):
        raise _bad(file, key, f"a string is expected, not {text!r}")
    if not text.strip():
        raise _bad(file, key, "empty")
    return text.strip()


def _names(
    file: Path, value: Mapping[str, object], key: str, *, default: tuple[str, ...] | None = None
) -> tuple[str, ...]:
    names = value.get(key, default)
    if names is None:
        raise _bad(file, key, "missing")
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) and name for name in names):
        raise _bad(file, key, f"a list of strings is expected, not {names!r}")
    if len(set(names)) != len(names):
        raise _bad(file, key, "the same name twice")
    return tuple(names)


def _patches(file: Path, value: Mapping[str, object]) -> tuple[Path, ...]:
    """The patches named in the manifest, or all beside it."""
    there = sorted(file.parent.glob("*.patch"))
    if "patches" not in value:
        return tuple(there)
    names = _names(file, value, "patches")
    for name in names:
        if file.parent / name not in there:
            raise _bad(file, "patches", f"no {name!r} in {file.parent}")
    left = [path.name for path in there if path.name not in names]
    if left:
        raise _bad(file, "patches", f"{left[0]} is beside the manifest and not named in it")
    return tuple(file.parent / name for name in names)


def _bad(file: Path, key: str, happened: str, advice: str = "") -> UsageError:
    return UsageError(f"read {file}, key {key!r}", happened, advice)
