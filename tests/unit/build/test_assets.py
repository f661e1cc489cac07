"""The record of assets has the project's own QEMU only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cprlib.build import assets
from cprlib.build.progress import Progress, console_progress
from cprlib.build.series import DEFAULT_BASE
from cprlib.build.store import KERNEL_VARIABLE
from cprlib.campaign.session import open_session
from cprlib.campaign.soak.result import STORE
from cprlib.cli.main import main
from cprlib.errors import EnvironmentFailure, ExitStatus, UsageError
from cprlib.guest.image import GuestImage
from cprlib.lab.engines import find_kernel, lab_environment
from cprlib.qemu.binary import QemuBinary
from tests.unit.coverage.samples import BUILD

pytestmark = pytest.mark.fast


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Existing builds and an empty cache folder."""

    def build_qemu(base: str, _series: bool, _progress: Progress) -> QemuBinary:
        return QemuBinary(tmp_path / f"qemu-{base}", tmp_path)

    monkeypatch.setattr(assets, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(assets, "build_qemu", build_qemu)
    image = GuestImage(tmp_path / "vmlinuz", tmp_path / "initramfs", "digest")
    monkeypatch.setattr(assets, "build_guest_image", lambda _progress: image)
    return tmp_path


def test_assets_of_another_qemu_are_not_recorded(builds: Path) -> None:
    assets.build_assets(console_progress(), lab=False)
    brought = QemuBinary(Path("/somewhere/qemu"))
    assert assets.build_assets(console_progress(), lab=False, qemu=brought).qemu == brought
    assets.build_assets(console_progress(), lab=False, base="10.2")
    manifest = json.loads(assets.manifest_file().read_text(encoding="utf-8"))
    own = {"path": str(builds / f"qemu-{DEFAULT_BASE}"), "firmware": str(builds)}
    assert manifest["bases"] == {DEFAULT_BASE: own}


def test_chosen_lab_kernel_is_used_but_not_recorded(builds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "build_lab_kernel", lambda _progress: builds / "own-kernel")
    monkeypatch.setenv(KERNEL_VARIABLE, str(builds / "linux"))
    with pytest.raises(UsageError, match="no such file"):
        assets.build_assets(console_progress(), lab=True)
    (builds / "linux").touch()
    chosen = assets.build_assets(console_progress(), lab=True)
    assert chosen.lab_kernel == builds / "linux"
    assert lab_environment(chosen, "uml") == {KERNEL_VARIABLE: str(builds / "linux")}
    assert assets.build_assets(console_progress(), lab=False).lab_kernel is None
    monkeypatch.delenv(KERNEL_VARIABLE)
    assert json.loads(assets.manifest_file().read_text(encoding="utf-8"))["lab_kernel"] is None
    assert assets.build_assets(console_progress(), lab=True).lab_kernel == builds / "own-kernel"


def test_lab_kernel_is_found_after_a_run_with_another_qemu(builds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "build_lab_kernel", lambda _progress: builds / "own-kernel")
    with pytest.raises(EnvironmentFailure, match="cprlib build lab"):
        find_kernel()
    assets.build_assets(console_progress(), lab=True, qemu=QemuBinary(Path("/somewhere/qemu")))
    with pytest.raises(EnvironmentFailure, match="it is not built"):  # recorded, but the file does not exist
        find_kernel()
    (builds / "own-kernel").touch()
    assert find_kernel() == builds / "own-kernel"


def test_parts_that_are_built_one_by_one_are_found(
    builds: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(assets, "build_lab_kernel", lambda _progress: builds / "own-kernel")
    for name in ("own-kernel", f"qemu-{DEFAULT_BASE}", "vmlinuz", "initramfs"):
        (builds / name).touch()
    assert main(["build", "lab"]) == 0
    assert find_kernel() == builds / "own-kernel"
    for part in ("qemu", "guest"):
        assert main(["build", part]) == 0
    assert assets.find_assets().guest.kernel == builds / "vmlinuz"
    monkeypatch.setenv(KERNEL_VARIABLE, str(builds / "vmlinuz"))
    assert main(["build", "lab"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"lab kernel {builds / 'vmlinuz'}"
    monkeypatch.delenv(KERNEL_VARIABLE)
    assert find_kernel() == builds / "own-kernel"


def test_base_is_found_after_its_build(builds: Path) -> None:
    whole = assets.build_assets(console_progress(), lab=False)
    with pytest.raises(EnvironmentFailure, match=r"cprlib build qemu --base 10\.2"):
        assets.find_base_qemu("10.2", whole)
    assets.build_base("10.2", console_progress())
    with pytest.raises(EnvironmentFailure, match="it is not built"):  # recorded, but the file does not exist
        assets.find_base_qemu("10.2", whole)
    (builds / "qemu-10.2").touch()
    assert assets.find_base_qemu("10.2", whole) == QemuBinary(builds / "qemu-10.2", builds)
    assert assets.find_base_qemu(None, whole) == assets.find_base_qemu(DEFAULT_BASE, whole) == whole.qemu


@pytest.mark.usefixtures("builds")
def test_bases_are_recorded_side_by_side() -> None:
    for base in ("10.0", "10.2"):
        assets.build_base(base, console_progress())
    assert sorted(json.loads(assets.manifest_file().read_text(encoding="utf-8"))["bases"]) == ["10.0", "10.2"]


def test_base_built_from_other_recipes_is_refused(builds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = assets.build_assets(console_progress(), lab=False)
    assets.build_base("10.2", console_progress())
    (builds / "qemu-10.2").touch()
    monkeypatch.setattr(assets, "recipes_digest", lambda: "others")
    with pytest.raises(EnvironmentFailure, match="other recipes"):
        assets.find_base_qemu("10.2", whole)


@pytest.mark.usefixtures("builds")
def test_checkouts_with_other_recipes_keep_their_own_builds(monkeypatch: pytest.MonkeyPatch) -> None:
    own = assets.recipes_digest()
    for recipes, base in ((own, "10.0"), ("others", "10.2")):
        monkeypatch.setattr(assets, "recipes_digest", lambda recipes=recipes: recipes)
        assets.build_base(base, console_progress())
    for recipes, base in ((own, "10.0"), ("others", "10.2")):
        monkeypatch.setattr(assets, "recipes_digest", lambda recipes=recipes: recipes)
        assert list(json.loads(assets.manifest_file().read_text(encoding="utf-8"))["bases"]) == [base]


@pytest.mark.parametrize(("engine", "lab"), [("uml", True), ("kvm", False), (None, False)])
def test_user_mode_linux_is_built_for_its_own_engine_alone(
    engine: str | None, lab: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requested: list[object] = []

    def build(*_: object, **given: object) -> None:
        requested.append(given["lab"])
        raise EnvironmentFailure("build", "no space left")

    monkeypatch.setattr("cprlib.build.assets.build_assets", build)
    monkeypatch.setattr("cprlib.campaign.session.build_assets", build)
    monkeypatch.setattr("cprlib.lab.doctor.choose_engine", lambda *_: engine)
    monkeypatch.setattr("cprlib.build.coverage.build_coverage", lambda *_: BUILD)
    for command in ("run", "coverage"):
        assert main([command, "--out", str(tmp_path)]) == ExitStatus.ENVIRONMENT
    with pytest.raises(EnvironmentFailure), open_session(STORE, tmp_path, engine, 1, Progress()):
        pass
    assert requested == [lab] * 3
