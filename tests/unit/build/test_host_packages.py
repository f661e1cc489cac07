"""Hosts without apt: what is missing is named with the command of their package manager."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cprlib.build import first_build, host_packages
from cprlib.build.first_build import Builds, build_everything
from cprlib.build.guest_image import compile_agent
from cprlib.build.host_packages import (
    NATIVE_RUN,
    compile_static,
    install_advice,
    missing_programs,
    require_programs,
)
from cprlib.build.progress import Progress
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
    (tmp_path / "stdio.h").write_text("#error of the caller\n")
    monkeypatch.setenv("CPATH", str(tmp_path))
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


def slow_apt_get(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An apt-get that takes a second on the PATH; returns the file that it writes in the end."""
    (folder / "apt-get").write_text(
        f"#!/bin/sh\necho $* > {folder}/begun\nsleep 1\necho some output\necho >&2 more\necho done > {folder}/done\n"
    )
    (folder / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder / "done"


def wait_for(file: Path) -> None:
    end = time.monotonic() + 20
    while not file.exists():
        assert time.monotonic() < end, f"no {file}"
        time.sleep(0.01)


@pytest.mark.parametrize("raised", [KeyboardInterrupt("SIGTERM"), BuildFailed("compile", "an error")])
def test_interruption_waits_for_apt_get(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: BaseException) -> None:
    done, notes = slow_apt_get(tmp_path, monkeypatch), list[str]()

    class Noted(Progress):
        def note(self, text: str) -> None:
            notes.append(text)

    def interrupt(*_: object) -> None:
        wait_for(tmp_path / "begun")
        raise raised

    monkeypatch.setattr(first_build, "packages_to_install", lambda _compilers: ("bc",))
    monkeypatch.setattr(first_build, "_download", interrupt)
    monkeypatch.setattr(first_build, "ensure_environment", lambda *_, **__: pytest.fail("continued"))
    monkeypatch.setattr(host_packages, "_has_lists", lambda: True)
    with pytest.raises(type(raised)):
        build_everything(Builds(), Noted())
    assert done.exists()
    assert any(note.startswith("waiting for apt-get") for note in notes)


def test_apt_get_survives_the_end_of_its_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = slow_apt_get(tmp_path, monkeypatch)
    script = (
        "from cprlib.build import host_packages\n"
        "from cprlib.build.progress import Progress\n"
        "host_packages._has_lists = lambda: True\n"
        "host_packages.install_packages(('bc',), Progress())\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script])
    wait_for(tmp_path / "begun")
    child.send_signal(signal.SIGKILL)
    child.wait()
    wait_for(done)


def test_apt_get_waits_for_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow_apt_get(tmp_path, monkeypatch)
    monkeypatch.setattr(host_packages, "_has_lists", lambda: True)
    monkeypatch.setattr(host_packages, "missing_packages", lambda: ())
    host_packages.install_packages(("bc",), Progress())
    assert "-o DPkg::Lock::Timeout=300 install" in (tmp_path / "begun").read_text()
