"""The assets of a run: QEMU with the series, guest image, lab kernel.

A manifest in the cache folder, ``builds-DIGEST.json``, records their paths, so that a test finds them when Avocado is
run directly, or inside a lab, where nothing can be built. DIGEST is that of their recipes: checkouts with different
recipes share a cache. The manifest has the project's own QEMU on each base that was built, for tests whose parameter
``base`` names one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cprlib import codec
from cprlib.build import store
from cprlib.build.guest_image import build_guest_image
from cprlib.build.lab_kernel import build_lab_kernel
from cprlib.build.progress import Progress
from cprlib.build.qemu import build_qemu
from cprlib.build.series import DEFAULT_BASE
from cprlib.build.together import run_together
from cprlib.errors import EnvironmentFailure
from cprlib.files import cache_folder, locked, project_folder, write_text
from cprlib.guest.image import GuestImage
from cprlib.qemu.binary import QemuBinary


@dataclass(frozen=True, slots=True)
class Assets:
    """Everything a test needs.

    :param lab_kernel: the user-mode Linux of lab engine ``uml``; None when it was not requested.
    """

    qemu: QemuBinary
    guest: GuestImage
    lab_kernel: Path | None = None


@dataclass(frozen=True, slots=True)
class _Manifest:
    """The content of the manifest.

    :param bases: the project's own QEMU by base.
    """

    bases: Mapping[str, QemuBinary] = field(default_factory=dict)
    guest: GuestImage | None = None
    lab_kernel: Path | None = None


def recipes_digest() -> str:
    """Digest of the files of the project that the assets are made from; mutants are not assets."""
    images = project_folder() / "images"
    names = ("guest", "lab", "qemu/series", "qemu/bases.toml", "qemu/devices.mak")
    return store.key_of(**{name: images / name for name in names})


def manifest_file() -> Path:
    """The file that records the builds from the present recipes; it need not exist."""
    return cache_folder() / f"builds-{recipes_digest()[:12]}.json"


def build_assets(progress: Progress, *, lab: bool, qemu: QemuBinary | None = None, base: str = DEFAULT_BASE) -> Assets:
    """Build what is missing, and record it; of the project's own QEMUs only that on its default base.

    Another QEMU, or the lab kernel of ``$CPRLIB_LAB_KERNEL``, is for this run only: a later ``avocado run`` must not
    use it unnoticed.

    :param lab: whether user-mode Linux is needed, the kernel of lab engine ``uml``.
    :param qemu: a QEMU to use instead of the project's own.
    :param base: base of the project's own QEMU.
    :raises EnvironmentFailure: a build or download failed.
    :raises UsageError: there is no such lab kernel.
    """
    own = qemu is None and base == DEFAULT_BASE
    tasks: dict[str, Callable[[Progress], Any]] = {"guest": build_guest_image}
    if qemu is None:
        tasks["qemu"] = lambda shown: build_qemu(base, True, shown)
    chosen = store.chosen_lab_kernel() if lab else None
    if lab and chosen is None:
        tasks["lab_kernel"] = build_lab_kernel
    assets = Assets(**{"qemu": qemu, "lab_kernel": chosen, **run_together(progress, tasks)})
    bases = {base: assets.qemu} if own else {}
    _record(_Manifest(bases, assets.guest, None if chosen else assets.lab_kernel))
    return assets


def build_base(base: str, progress: Progress) -> QemuBinary:
    """Build the project's own QEMU on a base when it is missing, and record it for :func:`find_base_qemu`.

    :raises UsageError: there is no such base.
    :raises EnvironmentFailure: a build or download failed.
    """
    qemu = build_qemu(base, True, progress)
    _record(_Manifest({base: qemu}))
    return qemu


def build_guest(progress: Progress) -> GuestImage:
    """Build the guest image when it is missing, and record it for :func:`find_assets`.

    :raises EnvironmentFailure: a build or download failed.
    """
    guest = build_guest_image(progress)
    _record(_Manifest(guest=guest))
    return guest


def build_lab(progress: Progress) -> Path:
    """The lab kernel of ``$CPRLIB_LAB_KERNEL``, else the built one, recorded for :func:`find_lab_kernel`.

    :raises EnvironmentFailure: a build or download failed.
    :raises UsageError: there is no such lab kernel.
    """
    if chosen := store.chosen_lab_kernel():
        return chosen
    kernel = build_lab_kernel(progress)
    _record(_Manifest(lab_kernel=kernel))
    return kernel


def find_base_qemu(base: str | None, assets: Assets) -> QemuBinary:
    """Find the project's own QEMU on a base without building it.

    :param base: name of the base; the default base when None.
    :param assets: from :func:`find_assets`.
    :raises EnvironmentFailure: it is not built, or was built from other recipes.
    """
    if base in (None, DEFAULT_BASE):
        return assets.qemu
    found = _read_manifest().bases.get(base or DEFAULT_BASE)
    if found is None or not found.path.exists():
        raise EnvironmentFailure(
            f"find the project's QEMU {base}",
            "it is not built, or was built from other recipes than those in images/",
            f"run `cprlib build qemu --base {base}` first",
        )
    return found


def find_assets() -> Assets:
    """Find the assets without building them.

    :raises EnvironmentFailure: they are not built, or were built from other recipes.
    """
    manifest = _read_manifest()
    qemu, guest = manifest.bases.get(DEFAULT_BASE), manifest.guest
    files = [qemu and qemu.path, guest and guest.kernel, guest and guest.initramfs]
    if qemu is None or guest is None or not all(file and file.exists() for file in files):
        happened = "they are not built, or were built from other recipes than those in images/"
        raise EnvironmentFailure("find the project's QEMU and guest", happened, "run `cprlib build` first")
    return Assets(qemu, guest, manifest.lab_kernel)


def find_lab_kernel() -> Path:
    """Find the project's own lab kernel without building it.

    :raises EnvironmentFailure: it is not built, or was built from other recipes.
    """
    kernel = _read_manifest().lab_kernel
    if kernel is None or not kernel.exists():
        happened = "it is not built, or was built from other recipes than those in images/"
        raise EnvironmentFailure("find the lab's kernel", happened, "run `cprlib build lab` first")
    return kernel


def _read_manifest() -> _Manifest:
    """The builds from the present recipes; none when the file cannot be read."""
    with contextlib.suppress(OSError, codec.BadValue):
        return codec.load_json(_Manifest, manifest_file().read_bytes())
    return _Manifest()


def _record(built: _Manifest) -> None:
    """Add builds to the manifest."""

    def extended(old: _Manifest) -> _Manifest:
        bases = {**old.bases, **built.bases}
        return _Manifest(bases, built.guest or old.guest, built.lab_kernel or old.lab_kernel)

    before = _read_manifest()
    if extended(before) == before:  # no write without a change: the cache may be shared
        return
    file = manifest_file()
    with locked(file.with_name(f".{file.name}.lock")):
        write_text(file, codec.dump_json(extended(_read_manifest())))
