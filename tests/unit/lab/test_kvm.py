"""The engine kvm with a fake QEMU, and its disks."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cprlib.build import assets
from cprlib.build.assets import Assets
from cprlib.errors import EnvironmentFailure, LabFailure, LabLost
from cprlib.files import CACHE_VARIABLE
from cprlib.guest.image import GuestImage
from cprlib.lab import host_files, kvm
from cprlib.lab.engine import Attempt, LabCommand, LabStreams
from cprlib.lab.engines import make_engine
from cprlib.lab.host_files import disk_of, libraries, named_files, walk
from cprlib.lab.kvm import KvmEngine
from cprlib.qemu.binary import QemuBinary

FAKE = [sys.executable, str(Path(__file__).with_name("fake_qemu.py"))]
IMAGE = Path("/image")


def attempt(deed: str, results: Path, qemu: list[str] | None = None) -> tuple[Attempt, bytes]:
    out = bytearray()
    command = LabCommand((deed,), Path("/"), {}, results, 20)
    return KvmEngine(qemu or FAKE, IMAGE, []).attempt(command, LabStreams(out.extend, out.extend)), bytes(out)


def test_results_are_received_completely(tmp_path: Path) -> None:
    result, out = attempt("work", tmp_path)
    assert (result.returncode, out) == (6, b"out")
    assert (tmp_path / "deep" / "evidence").read_text() == "seen"


def test_results_cannot_leave_their_folder(tmp_path: Path) -> None:
    results = tmp_path / "results"
    results.mkdir()
    with pytest.raises(LabFailure, match="escaped"):
        attempt("escape", results)
    assert list(tmp_path.iterdir()) == [results]


def test_a_lab_that_sends_no_results_has_failed(tmp_path: Path) -> None:
    with pytest.raises(LabFailure, match="the lab has sent none"):
        attempt("nothing", tmp_path)


def test_virtual_machine_that_dies_is_a_lost_lab(tmp_path: Path) -> None:
    with pytest.raises(LabLost, match="died under its command"):
        attempt("die", tmp_path)


def test_qemu_that_does_not_start_is_reported_with_its_output(tmp_path: Path) -> None:
    program = [sys.executable, "-c", "import sys; sys.exit('no such machine')"]
    with pytest.raises(LabFailure, match="no such machine") as caught:
        attempt("work", tmp_path, program)
    assert not isinstance(caught.value, LabLost)


def test_named_files_are_those_outside_the_checkout(tmp_path: Path) -> None:
    brought = tmp_path / "qemu"
    brought.write_text("")
    argv = ("-u", f"{tmp_path}/absent:A.test", f'{{"qemu": "{brought}"}}', "/bin/sh", __file__, f"x={brought}")
    assert named_files(argv) == [brought]


def test_qemu_of_the_distribution_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is below /usr, where the disks have a few programs only; its firmware is links to other packages."""
    usr = tmp_path / "usr"
    qemu, firmware, target = usr / "bin/qemu", usr / "share/qemu/bios-256k.bin", usr / "share/seabios/bios.bin"
    for path in (qemu, firmware, target):
        path.parent.mkdir(parents=True, exist_ok=True)
    qemu.write_text("")
    target.write_text("")
    firmware.symlink_to(target)
    shell = usr / "bin/sh"
    shell.write_text("")
    monkeypatch.setattr(host_files, "system_files", lambda: [tmp_path / "bin", shell])
    (tmp_path / "bin").symlink_to(usr / "bin")
    argv = (str(shell), f"qemu={tmp_path}/bin/qemu", f"firmware={firmware.parent}")
    assert named_files(argv) == [qemu, firmware, target]


def test_qemu_that_emulates_the_lab_is_built_when_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run with --qemu builds the guest only."""

    def find() -> Assets:
        raise EnvironmentFailure("find the project's QEMU and guest", "they are not built")

    built = Assets(QemuBinary(Path("/store/qemu")), GuestImage(Path("/store/k"), Path("/store/i"), "g"), None)
    monkeypatch.setattr(assets, "find_assets", find)
    monkeypatch.setattr(assets, "build_assets", lambda _, lab: None if lab else built)
    monkeypatch.setattr(kvm, "build_kvm_engine", lambda qemu, _: KvmEngine(qemu, IMAGE, []))
    engine = make_engine("kvm")
    assert isinstance(engine, KvmEngine)
    assert engine.qemu == ["/store/qemu"]


def test_a_library_that_tests_preload_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = tmp_path / host_files.MEMUSAGE
    monkeypatch.setattr(host_files, "LIBRARY_FOLDERS", (str(tmp_path / "missing"), str(tmp_path)))
    assert library not in host_files.system_files()
    library.write_text("")
    assert library in host_files.system_files()


def test_walk_skips_files_that_no_test_needs(tmp_path: Path) -> None:
    for name in ("a.py", ".git/b", "results/c", "deep/d.so", "deep/e.a"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "link").symlink_to("deep")
    assert {str(path.relative_to(tmp_path)) for path in walk([tmp_path])} == {"a.py", "deep/d.so", "link"}


def test_disk_contains_a_program_and_its_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = [shutil.which(name, path="/usr/sbin:/sbin:/usr/bin") for name in ("mke2fs", "debugfs")]
    if None in tools:
        pytest.skip("e2fsprogs is not installed")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    program = Path(sys.executable).resolve()
    disk = disk_of("test", [program])
    assert disk_of("test", [program]) == disk
    for path in {program, *(library.resolve() for library in libraries([program]))}:
        command = [str(tools[1]), "-R", f"stat {path}", str(disk)]
        assert "Type: regular" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
