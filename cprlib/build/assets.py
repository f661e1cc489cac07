"""The assets of a run: QEMU with the series, guest image, lab kernel.

``assets.json`` in the cache folder records their paths and a digest of their recipes, so that a test finds them when
Avocado is run directly, or inside a lab, where nothing can be built. ``bases.json`` records the project's own QEMU
on each base, for tests whose parameter ``base`` names one.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from cprlib import codec
from cprlib.build import store
from cprlib.build.guest_image import build_guest_image
from cprlib.build.lab_kernel import build_lab_kernel
from cprlib.build.progress import Progress
from cprlib.build.qemu import build_qemu
from cprlib.errors import EnvironmentFailure
from cprlib.files import cache_folder, locked, project_folder, write_text
from cprlib.guest.image import GuestImage
from cprlib.qemu.binary import QemuBinary

MANIFEST = "assets.json"
BASES = "bases.json"
DEFAULT_BASE = "10.0"


@dataclass(frozen=True, slots=True)
class Assets:
    """Everything a test needs.

    :param lab_kernel: the user-mode Linux of the lab; None when it was not requested.
    """

    qemu: QemuBinary
    guest: GuestImage
    lab_kernel: Path | None = None


@dataclass(frozen=True, slots=True)
class _QemuRecord:
    """Paths of a QEMU, in ``bases.json``."""

    qemu: str
    firmware: str | None

    def binary(self) -> QemuBinary:
        return QemuBinary(Path(self.qemu), Path(self.firmware) if self.firmware else None)


@dataclass(frozen=True, slots=True)
class _BasesRecord:
    """``bases.json``: the project's own QEMU by base."""

    recipes: str
    bases: dict[str, _QemuRecord]


@dataclass(frozen=True, slots=True)
class _AssetsRecord(_QemuRecord):
    """``assets.json``."""

    recipes: str
    kernel: str
    initramfs: str
    digest: str
    lab_kernel: str | None


def recipes_digest() -> str:
    """Digest of the files of the project that the assets are made from; mutants are not assets."""
    images = project_folder() / "images"
    names = ("guest", "lab", "qemu/series", "qemu/bases.toml", "qemu/devices.mak")
    return store.key_of(**{name: images / name for name in names})


def build_assets(progress: Progress, *, lab: bool, qemu: QemuBinary | None = None, base: str = DEFAULT_BASE) -> Assets:
    """Build what is missing, and record the assets when they have the project's own QEMU on its default base.

    Another QEMU is for this run only: a later ``avocado run`` must not test it unnoticed.

    :param lab: whether the lab kernel is needed.
    :param qemu: a QEMU to use instead of the project's own.
    :param base: base of the project's own QEMU.
    :raises EnvironmentFailure: a build or download failed.
    """
    own = qemu is None and base == DEFAULT_BASE
    if qemu is None:
        qemu = build_qemu(base, True, progress)
    assets = Assets(qemu, build_guest_image(progress), build_lab_kernel(progress) if lab else None)
    if own:
        _record(assets)
    return assets


def build_base(base: str, progress: Progress) -> QemuBinary:
    """Build the project's own QEMU on a base when it is missing, and record it for :func:`find_base_qemu`.

    :raises UsageError: there is no such base.
    :raises EnvironmentFailure: a build or download failed.
    """
    qemu = build_qemu(base, True, progress)
    with locked(cache_folder() / f".{BASES}.lock"):
        bases = _read_bases() | {base: _QemuRecord(str(qemu.path), _text(qemu.firmware))}
        write_text(cache_folder() / BASES, codec.dump_json(_BasesRecord(recipes_digest(), bases)))
    return qemu


def find_base_qemu(base: str | None, assets: Assets) -> QemuBinary:
    """Find the project's own QEMU on a base without building it.

    :param base: name of the base; the default base when None.
    :param assets: from :func:`find_assets`.
    :raises EnvironmentFailure: it is not built, or was built from other recipes.
    """
    if base in (None, DEFAULT_BASE):
        return assets.qemu
    found = _read_bases().get(base or DEFAULT_BASE)
    if found is None or not Path(found.qemu).exists():
        raise EnvironmentFailure(
            f"find the project's QEMU {base}",
            "it is not built, or was built from other recipes than those in images/",
            f"run `cprlib build qemu --base {base}` first",
        )
    return found.binary()


def find_assets() -> Assets:
    """Find the assets without building them.

    :raises EnvironmentFailure: they are not built, or were built from other recipes.
    """
    path = cache_folder() / MANIFEST
    tried, advice = "find the project's QEMU and guest", "run `cprlib build` first"
    try:
        record = codec.load_json(_AssetsRecord, path.read_bytes())
    except (OSError, codec.BadValue) as error:
        raise EnvironmentFailure(tried, f"{path}: {error}", advice) from error
    if record.recipes != recipes_digest():
        raise EnvironmentFailure(tried, "they were built from other recipes than those in images/", advice)
    guest = GuestImage(Path(record.kernel), Path(record.initramfs), record.digest)
    assets = Assets(record.binary(), guest, Path(record.lab_kernel) if record.lab_kernel else None)
    for file in (assets.qemu.path, guest.kernel, guest.initramfs):
        if not file.exists():
            raise EnvironmentFailure(tried, f"{file} does not exist", advice)
    return assets


def _read_bases() -> dict[str, _QemuRecord]:
    """QEMUs by base, built from the present recipes; none when the file cannot be read."""
    try:
        record = codec.load_json(_BasesRecord, (cache_folder() / BASES).read_bytes())
    except (OSError, codec.BadValue):
        return {}
    return record.bases if record.recipes == recipes_digest() else {}


def _record(assets: Assets) -> None:
    record = _AssetsRecord(
        qemu=str(assets.qemu.path),
        firmware=_text(assets.qemu.firmware),
        recipes=recipes_digest(),
        kernel=str(assets.guest.kernel),
        initramfs=str(assets.guest.initramfs),
        digest=assets.guest.digest,
        lab_kernel=_text(assets.lab_kernel),
    )
    path, text = cache_folder() / MANIFEST, codec.dump_json(record)
    with contextlib.suppress(OSError, UnicodeDecodeError):  # no write without a change: the cache may be shared
        if path.read_text(encoding="utf-8") == text:
            return
    write_text(path, text)


def _text(path: Path | None) -> str | None:
    return str(path) if path else None
