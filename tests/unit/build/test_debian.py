"""Debian's archive: recorded look-ups and new look-ups."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from cprlib.build import debian, guest_image, lab_kernel
from cprlib.build.control import Remote, compare_versions, stanzas
from cprlib.build.debian import Archive, with_new_look_ups
from cprlib.build.progress import Progress
from cprlib.build.signed_lists import MIRROR_VARIABLE
from cprlib.errors import DownloadFailed, NotSupported
from cprlib.files import cache_folder

CONTENT = b"a package"
SOURCES = """\
Package: qemu
Version: 1:10.2.2+ds-1
Directory: pool/q
Checksums-Sha256:
 aa 12 qemu_10.2.2.dsc
 bb 34 qemu_10.2.2.orig.tar.xz

Package: qemu
Version: 1:10.20.1+ds-1
Directory: pool/q
Checksums-Sha256:
 cc 12 qemu_10.20.1.dsc
"""


def test_empty_mirror_is_the_default_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MIRROR_VARIABLE, "")
    assert Archive("trixie").mirror.endswith("://deb.debian.org/debian")


class FakeSuites:
    """The lists and files of all suites: names of packages and what each depends on, by suite."""

    def __init__(self) -> None:
        self.packages: dict[str, dict[str, str]] = {}
        self.version = "1"  # of all packages
        self.reachable = True
        self.look_ups: list[str] = []
        self.forgotten: list[str] = []

    def lists(self, _mirror: str, suite: str, *_: object) -> FakeLists:
        return FakeLists(self, suite)


class FakeLists:
    """The lists of one of these suites."""

    def __init__(self, suites: FakeSuites, suite: str) -> None:
        self._suites = suites
        self._suite = suite

    def _packages(self) -> dict[str, str]:
        if not self._suites.reachable:
            raise DownloadFailed("fetch the lists", "no network")
        return self._suites.packages.get(self._suite, {})

    def names(self, prefix: str) -> tuple[str, ...]:
        return tuple(name for name in self._packages() if name.startswith(prefix))

    def records(self, kind: str, name: str) -> list[dict[str, str]]:
        self._suites.look_ups.append(name)
        if kind == "deb-src":
            return list(stanzas(SOURCES))
        version = self._suites.version
        record = {"Package": name, "Version": version, "Filename": f"pool/{name}_{version}.deb", "Size": "1"}
        record["SHA256"] = f"0{version}"
        return [{**record, "Depends": self._packages()[name]}] if name in self._packages() else []

    def fetch(self, remotes: Sequence[Remote], folder: Path, purpose: str) -> None:
        for remote in remotes:
            if remote.name.removesuffix(f"_{self._suites.version}.deb") not in self._packages():
                raise DownloadFailed(purpose, "404 Not Found")
            (folder / remote.name).write_bytes(CONTENT)

    def forget(self, kind: str) -> None:
        self._suites.forgotten.append(kind)


@pytest.fixture
def suites(monkeypatch: pytest.MonkeyPatch) -> FakeSuites:
    fake = FakeSuites()
    monkeypatch.setattr(debian, "SignedLists", fake.lists)
    return fake


def test_package_is_looked_up_and_fetched_once(suites: FakeSuites) -> None:
    suites.packages["trixie"] = {"tool": "libc6 (>= 2.36), a | b"}
    package = Archive("trixie").package("tool")
    assert (package.version, package.depends) == ("1", ("libc6 (>= 2.36)", "a | b"))
    assert Archive("trixie").download("tool").read_bytes() == CONTENT
    suites.reachable = False
    assert Archive("trixie").download("tool").name == "tool_1.deb"
    assert suites.look_ups == ["tool"]


def download_tool() -> Path:
    """Download the package; the recorded version may be gone."""
    archive = Archive("trixie")
    return with_new_look_ups([archive], lambda: archive.download("tool"))


def test_recorded_file_that_was_removed_is_looked_up_again(suites: FakeSuites) -> None:
    suites.packages["trixie"] = {"tool": ""}
    Archive("trixie").package("tool")
    suites.version = "2"
    assert download_tool().name == "tool_2.deb"
    assert suites.forgotten == ["deb", "deb-src"]


def test_record_that_another_run_removes_is_looked_up_again(
    suites: FakeSuites, monkeypatch: pytest.MonkeyPatch
) -> None:
    suites.packages["trixie"] = {"tool": ""}
    Archive("trixie").package("tool")
    suites.version = "2"
    fetch = FakeLists.fetch

    def removed_meanwhile(lists: FakeLists, remotes: Sequence[Remote], folder: Path, purpose: str) -> None:
        for record in cache_folder().glob("debian/*/known/trixie-deb-tool.json"):
            record.unlink()
        fetch(lists, remotes, folder, purpose)

    monkeypatch.setattr(FakeLists, "fetch", removed_meanwhile)
    assert download_tool().name == "tool_2.deb"


def test_failed_download_keeps_records(suites: FakeSuites) -> None:
    suites.packages["trixie"] = {"tool": ""}
    Archive("trixie").package("tool")
    suites.reachable = False
    with pytest.raises(DownloadFailed, match="no network"):
        download_tool()
    assert Archive("trixie").package("tool").version == "1"


def test_unknown_package_is_not_supported(suites: FakeSuites) -> None:
    del suites
    with pytest.raises(NotSupported, match="find package other"):
        Archive("trixie").package("other")


def test_newest_kernel_is_chosen_by_its_number(suites: FakeSuites) -> None:
    suites.packages["trixie-backports"] = dict.fromkeys(("linux-source-7.10", "linux-source-7.11"), "")
    suites.packages["trixie-backports"]["linux-source-7.9"] = ""
    assert lab_kernel.download_source(Progress()).name == "linux-source-7.11_1.deb"


def test_choice_of_a_kernel_needs_no_network_again(suites: FakeSuites) -> None:
    suites.packages["trixie"] = {"linux-source-6.12": ""}
    first = lab_kernel.download_source(Progress())
    suites.reachable = False
    assert lab_kernel.download_source(Progress()) == first


def test_other_kernel_is_chosen_when_the_first_is_gone(suites: FakeSuites) -> None:
    suites.packages["sid"] = {"linux-source-7.2": ""}
    package = lab_kernel.download_source(Progress())
    shutil.rmtree(package.parent)
    suites.packages = {"trixie-backports": {"linux-source-7.3": ""}}
    assert lab_kernel.download_source(Progress()).name == "linux-source-7.3_1.deb"


CLOUD_KERNELS = ("linux-image-6.12.48+deb13-cloud-amd64", "linux-image-6.12.117+deb13-cloud-amd64")


def build_guest(kernel: str, suites: FakeSuites, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Build a guest image while Debian has this kernel; returns the names of the packages that it is made from."""
    suites.packages["trixie"] = {"linux-image-cloud-amd64": kernel, kernel: "", "busybox-static": ""}
    made: list[str] = []

    def extract(_archive: Archive, deb: Path, folder: Path, *_: str) -> None:
        made.append(deb.name)
        (folder / "boot").mkdir(parents=True)
        (folder / "boot" / "vmlinuz-6.12").write_bytes(b"kernel")
        (folder / "busybox").write_bytes(b"busybox")

    monkeypatch.setattr(Archive, "extract", extract)
    monkeypatch.setattr(guest_image, "read_modules", lambda *_: [])
    monkeypatch.setattr(guest_image, "compile_agent", lambda _sources, scratch: scratch / "busybox" / "busybox")
    monkeypatch.setattr(guest_image, "unpack_kernel", lambda image: image)
    guest_image.build_guest_image(Progress())
    return made


def test_guest_is_built_after_a_point_release(suites: FakeSuites, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    old, new = CLOUD_KERNELS
    assert build_guest(old, suites, monkeypatch) == [f"{old}_1.deb", "busybox-static_1.deb"]
    assert build_guest(new, suites, monkeypatch) == []  # it is built: nothing is fetched
    shutil.rmtree(cache / "store")
    assert build_guest(new, suites, monkeypatch) == [f"{new}_1.deb", "busybox-static_1.deb"]


def test_guest_of_a_new_version_is_built_under_its_own_key(
    suites: FakeSuites, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    kernel = CLOUD_KERNELS[0]
    build_guest(kernel, suites, monkeypatch)
    old = next(path.name for path in (cache / "store" / "guest").glob("[!.]*"))
    shutil.rmtree(cache / "store")
    suites.version = "2"
    assert build_guest(kernel, suites, monkeypatch) == [f"{kernel}_2.deb", "busybox-static_2.deb"]
    assert old not in [path.name for path in (cache / "store" / "guest").glob("[!.]*")]


def test_complete_guest_needs_no_packages(suites: FakeSuites, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    build_guest(CLOUD_KERNELS[0], suites, monkeypatch)
    shutil.rmtree(cache / "store" / "deb")
    suites.reachable = False
    assert build_guest(CLOUD_KERNELS[0], suites, monkeypatch) == []


def test_records_stay_when_new_lists_cannot_be_fetched(suites: FakeSuites) -> None:
    suites.packages["trixie"] = {"linux-source-6.12": ""}
    package = lab_kernel.download_source(Progress())
    shutil.rmtree(package.parent)
    suites.reachable = False
    with pytest.raises(DownloadFailed, match="no network"):
        lab_kernel.download_source(Progress())
    suites.look_ups.clear()
    suites.reachable = True
    lab_kernel.download_source(Progress())
    assert suites.look_ups == []


def test_source_is_found_by_the_beginning_of_its_version(suites: FakeSuites) -> None:
    del suites
    source = Archive("sid").source("qemu", "10.2")
    assert source.version == "1:10.2.2+ds-1"
    assert [file.name for file in source.files] == ["qemu_10.2.2.dsc", "qemu_10.2.2.orig.tar.xz"]
    with pytest.raises(NotSupported, match=r"has 1:10\.2\.2.*; choose another base .* CPRLIB_DEBIAN_MIRROR"):
        Archive("sid").source("qemu", "11.1")


ASCENDING = (
    *("1.0~~", "1.0~rc1-1", "1.0~rc2-1", "1.0", "1.0-1", "1.0-1+b2", "1.0-1.1", "1.0+ds-1", "1.0a-1", "1.1-1"),
    *("1.9-1", "1.10-1", "1.10.0-1", "1.10-dfsg-1", "2.0-1~bpo13+1", "2.0-1", "1:0.1-1", "1:10.0.13+ds-0+deb13u1"),
)


def test_versions_are_compared_as_in_dpkg() -> None:
    assert compare_versions("1.0-1", "1.0-1") == compare_versions("1.0", "1.0-0") == 0
    for one, other in itertools.combinations(ASCENDING, 2):
        expected = subprocess.run(["dpkg", "--compare-versions", one, "lt", other], check=False).returncode
        assert (compare_versions(one, other) < 0) == (expected == 0), (one, other)
        assert compare_versions(other, one) == -compare_versions(one, other)


def test_members_of_a_package_can_be_unpacked(tmp_path: Path) -> None:
    top = tmp_path / "pkg"
    (top / "DEBIAN").mkdir(parents=True)
    (top / "DEBIAN" / "control").write_text(
        "Package: p\nVersion: 1\nArchitecture: all\nMaintainer: m <m@example.org>\nDescription: d\n"
    )
    for name in ("wanted", "other"):
        (top / name).mkdir()
        (top / name / "file").write_text(name)
    subprocess.run(["dpkg-deb", "--build", str(top), str(tmp_path / "p.deb")], check=True, capture_output=True)
    Archive("trixie").extract(tmp_path / "p.deb", tmp_path / "out", "./wanted/*")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["wanted"]
