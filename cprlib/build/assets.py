"""The assets of a run: QEMU with the series, guest image, lab kernel.

``assets.json`` in the cache folder records their paths and a digest of their recipes, so that a test finds them when
Avocado is run directly, or inside a lab, where nothing can be built. ``bases.json`` records the project's own QEMU
on each base, for tests whose parameter ``base`` names one.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path

from cprlib.build import store
from cprlib.build.guest_image import build_guest_image
from cprlib.build.lab_kernel import build_lab_kernel
from cprlib.build.progress import Progress
from cprlib.build.qemu import build_qemu
from cprlib.errors import EnvironmentFailure
from cprlib.files import cache_folder, locked, project_folder, write_json
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
        _write_manifest(assets)
    return assets


def build_base(base: str, progress: Progress) -> QemuBinary:
    """Build the project's own QEMU on a base when it is missing, and record it for :func:`find_base_qemu`.

    :raises UsageError: there is no such base.
    :raises EnvironmentFailure: a build or download failed.
    """
    qemu = build_qemu(base, True, progress)
    with _manifest_lock():
        known = _bases() | {base: {"qemu": str(qemu.path), "firmware": str(qemu.firmware) if qemu.firmware else None}}
        write_json(cache_folder() / BASES, {"recipes": recipes_digest(), "bases": known})
    return qemu


def find_base_qemu(base: str | None, assets: Assets) -> QemuBinary:
    """Find the project's own QEMU on a base without building it.

    :param base: name of the base; the default base when None.
    :param assets: from :func:`find_assets`.
    :raises EnvironmentFailure: it is not built, or was built from other recipes.
    """
    if base in (None, DEFAULT_BASE):
        return assets.qemu
    found = _bases().get(base or DEFAULT_BASE)
    path = Path(str(found["qemu"])) if found else None
    if found is None or path is None or not path.exists():
        raise EnvironmentFailure(
            f"find the project's QEMU {base}",
            "it is not built, or was built from other recipes than those in images/",
            f"run `cprlib build qemu --base {base}` first",
        )
    return QemuBinary(path, Path(str(found["firmware"])) if found["firmware"] else None)


def _bases() -> dict[str, dict[str, str | None]]:
    """Paths by base, of the present recipes; none when the file cannot be read."""
    try:
        value = json.loads((cache_folder() / BASES).read_text(encoding="utf-8"))
        return dict(value["bases"]) if value["recipes"] == recipes_digest() else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _manifest_lock() -> contextlib.AbstractContextManager[None]:
    return locked(cache_folder() / f".{BASES}.lock")


def _write_manifest(assets: Assets) -> None:
    value = {
        "recipes": recipes_digest(),
        "qemu": str(assets.qemu.path),
        "firmware": str(assets.qemu.firmware) if assets.qemu.firmware else None,
        "kernel": str(assets.guest.kernel),
        "initramfs": str(assets.guest.initramfs),
        "digest": assets.guest.digest,
        "lab_kernel": str(assets.lab_kernel) if assets.lab_kernel else None,
    }
    path = cache_folder() / MANIFEST
    with contextlib.suppress(OSError, ValueError):  # no write without a change: the cache may be shared
        if json.loads(path.read_text(encoding="utf-8")) == value:
            return
    write_json(path, value)


def find_assets() -> Assets:
    """Find the assets without building them.

    :raises EnvironmentFailure: they are not built, or were built from other recipes.
    """
    path = cache_folder() / MANIFEST
    tried, advice = "find the project's QEMU and guest", "run `cprlib build` first"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        lab_kernel, firmware = value["lab_kernel"], value["firmware"]
        assets = Assets(
            QemuBinary(Path(value["qemu"]), Path(firmware) if firmware else None),
            GuestImage(Path(value["kernel"]), Path(value["initramfs"]), value["digest"]),
            Path(lab_kernel) if lab_kernel else None,
        )
        built_from = value["recipes"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EnvironmentFailure(tried, f"{path}: {error}", advice) from error
    if built_from != recipes_digest():
        raise EnvironmentFailure(tried, "they were built from other recipes than those in images/", advice)
    missing = [
        str(item) for item in (assets.qemu.path, assets.guest.kernel, assets.guest.initramfs) if not item.exists()
    ]
    if missing:
        raise EnvironmentFailure(tried, f"{missing[0]} does not exist", advice)
    return assets
