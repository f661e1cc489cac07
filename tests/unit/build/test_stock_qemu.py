"""Debian's QEMU packages: which packages a program needs, and from which suite."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from cprlib.build.control import Remote
from cprlib.build.debian import Package
from cprlib.build.stock_qemu import dependencies
from cprlib.errors import NotSupported

SUITES = {
    "trixie": {
        "libc6": ("2.41-1", ("libgcc-s1",)),
        "libgcc-s1": ("14", ("gcc-14-base (= 14)", "libc6")),
        "seabios": ("1.16.3-2", ()),
        "libold": ("1.0", ()),
    },
    "trixie-backports": {
        "qemu-system-x86": ("11.1", ("libc6 (>= 2.38)", "seabios (>> 1.17~)", "libnew | libold", "acl", "adduser")),
        "seabios": ("1.17.0-1~bpo13+1", ()),
    },
}


class FakeArchive:
    """A suite with packages of no content."""

    def __init__(self, suite: str, packages: Mapping[str, tuple[str, tuple[str, ...]]]) -> None:
        self.suite = suite
        self._packages = packages

    def find_package(self, name: str) -> Package | None:
        if name not in self._packages:
            return None
        version, depends = self._packages[name]
        return Package(name, version, self.suite, depends, Remote(f"pool/{name}.deb", 1, name))


def found(suites: Mapping[str, Mapping[str, tuple[str, tuple[str, ...]]]]) -> dict[str, str]:
    archives = [FakeArchive(name, packages) for name, packages in suites.items()]
    own = archives[-1].find_package("qemu-system-x86")
    assert own
    return {item.name: item.suite for item in dependencies(own, archives)}  # type: ignore[arg-type]


def test_libraries_and_firmware_are_found_and_nothing_else() -> None:
    assert found(SUITES) == {
        "libc6": "trixie",
        "libgcc-s1": "trixie",
        "libold": "trixie",  # the alternative: no suite has libnew
        "seabios": "trixie-backports",  # that of trixie is too old
    }


def test_missing_library_is_named() -> None:
    without = {name: dict(packages) for name, packages in SUITES.items()}
    del without["trixie"]["libold"]
    with pytest.raises(NotSupported, match=r"qemu-system-x86 needs libnew \| libold; not in trixie, trixie-backports"):
        found(without)
