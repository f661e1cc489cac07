"""Hosts without apt: what is missing is named with the command of their package manager."""

from __future__ import annotations

from pathlib import Path

import pytest

from cprlib.build import host_packages
from cprlib.build.guest_image import compile_agent
from cprlib.build.host_packages import (
    NATIVE_RUN,
    compile_static,
    install_advice,
    missing_programs,
    require_programs,
)
from cprlib.errors import BuildFailed, MissingPackages
from cprlib.files import project_folder
from cprlib.lab import doctor
from cprlib.lab.checks_native import Level
from cprlib.lab.session import compile_init


def host(folder: Path, monkeypatch: pytest.MonkeyPatch, *programs: str) -> None:
    """A PATH with these programs only; gcc finds a static C library."""
    for name in programs:
        (folder / name).write_text("#!/bin/sh\necho /usr/lib64/libc.a\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


@pytest.mark.parametrize(
    ("manager", "line"),
    [
        ("dnf", "run: sudo dnf install gcc make glibc-static gnupg2"),
        ("zypper", "run: sudo zypper install gcc make glibc-devel-static gpg2"),
        ("pacman", "run: sudo pacman -S gcc make glibc gnupg"),
        ("other", "install them with the package manager of this host"),
    ],
)
def test_advice_is_the_command_of_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, manager: str, line: str
) -> None:
    host(tmp_path, monkeypatch, manager)
    assert missing_programs(NATIVE_RUN) == NATIVE_RUN
    assert install_advice(NATIVE_RUN) == line
    with pytest.raises(MissingPackages) as caught:
        host_packages.packages_to_install()
    assert "apt-get" not in caught.value.one_line()
    assert line in caught.value.one_line()


def test_native_run_needs_nothing_of_debians_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host(tmp_path, monkeypatch, "dnf", "gcc", "make", "gpgv2")
    assert host_packages.packages_to_install() == ()
    require_programs("run here", NATIVE_RUN)
    found = doctor.check_packages()
    assert (found.level, found.area) == (Level.WARN, "both")
    assert "by HTTPS, signatures checked by gpgv; no " in found.seen
    assert "--native with --qemu PATH" in found.advice
    assert "dnf install" in found.advice


def test_doctor_fails_without_what_each_run_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host(tmp_path, monkeypatch, "dnf", "gcc", "make")
    found = doctor.check_packages()
    assert found.level is Level.FAIL
    assert found.advice == "run: sudo dnf install gnupg2"


@pytest.mark.parametrize("program", ["agent", "init"])
def test_compiler_and_flags_of_the_caller_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    for name in ("CC", "CFLAGS", "MAKEFLAGS"):
        monkeypatch.setenv(name, "CC=no-such-compiler")
    if program == "agent":
        compile_agent(project_folder() / "images" / "guest", tmp_path)
    else:
        compile_init(tmp_path)


@pytest.mark.parametrize("lacks", ["", "gcc"])
def test_advice_to_install_a_compiler_is_given_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    (tmp_path / "x.c").write_text("no C\n")
    if lacks:
        host(tmp_path, monkeypatch, "make")
    with pytest.raises(BuildFailed) as caught:
        compile_static(["gcc", "-o", str(tmp_path / "x"), str(tmp_path / "x.c")], "compile x")
    assert ("install gcc" in caught.value.one_line()) == bool(lacks)


def test_host_with_apt_is_left_to_the_bootstrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host(tmp_path, monkeypatch, "apt-get")
    require_programs("build QEMU", NATIVE_RUN)
    assert doctor.check_packages().seen == "by apt"
