"""Set-up: missing packages, the environment with the checkout linked in, and the executed program."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from cprlib import bootstrap
from cprlib.build import host_packages, python_env
from cprlib.build.command import error_line
from cprlib.build.lab_kernel import _check_config
from cprlib.build.progress import LineProgress, Progress, TerminalProgress, seconds_text
from cprlib.errors import BuildFailed, DownloadFailed, EnvironmentFailure, MissingPackages
from cprlib.files import project_folder, write_text

pytestmark = pytest.mark.fast


def test_missing_packages_are_listed_in_one_line_to_paste(monkeypatch: pytest.MonkeyPatch) -> None:
    required = {"frobnicator": "no-such-program-here", "sh": "sh", "libc6": "/etc/passwd"}
    monkeypatch.setattr(host_packages, "REQUIRED", required)
    monkeypatch.setattr(host_packages, "has_apt", lambda: True)
    monkeypatch.setattr(host_packages, "_has_lists", lambda: True)
    monkeypatch.setattr(host_packages, "_has_ensurepip", lambda: True)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(MissingPackages) as caught:
        host_packages.packages_to_install()
    line = caught.value.one_line()
    assert "run: sudo apt-get install --no-install-recommends frobnicator" in line
    assert "\n" not in line
    assert caught.value.exit_status == 4


def test_other_architecture_is_refused_before_anything_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(EnvironmentFailure, match="this machine is aarch64; use a machine with x86-64"):
        host_packages.packages_to_install()
    monkeypatch.setattr(host_packages, "REQUIRED", {})
    monkeypatch.setattr(host_packages, "_has_ensurepip", lambda: True)
    assert host_packages.packages_to_install(compilers=False) == ()  # a report can be read anywhere


def test_pip_installs_into_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, str] = {}

    def run(_command: object, *, env: dict[str, str], **_: object) -> str:
        given.update(env)
        return ""

    monkeypatch.setattr(python_env, "run", run)
    monkeypatch.setenv("PIP_USER", "1")
    monkeypatch.setenv("PIP_CERT", "/some/ca.pem")
    python_env.pip_install(tmp_path, ["meson"], "install meson")
    assert (given["PIP_USER"], given["PIP_CERT"]) == ("0", "/some/ca.pem")


def test_packages_of_the_caller_are_not_those_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "callers" / "frobnicator-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: frobnicator\nVersion: 1.0\n")
    monkeypatch.setenv("PYTHONPATH", str(info.parent))
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # what is there already needs none
    write_text(tmp_path / "bin" / "python3", f'#!/bin/sh\nexec {sys.executable} "$@"\n', mode=0o755)
    with pytest.raises(DownloadFailed, match="No matching distribution found for frobnicator"):
        python_env.pip_install(tmp_path, ["frobnicator==1.0"], "install frobnicator")


def test_no_package_is_installed_when_none_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_packages, "REQUIRED", {"sh": "sh"})
    monkeypatch.setattr(host_packages, "has_apt", lambda: True)
    monkeypatch.setattr(host_packages, "_has_ensurepip", lambda: True)
    assert host_packages.packages_to_install() == ()


def test_pip_of_the_python_that_makes_the_environment_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    for program, there in (("true", True), ("false", False)):
        monkeypatch.setattr("sys.executable", program)
        assert host_packages._has_ensurepip() is there


def test_commands_execute_cprlib_and_tox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "set_up", lambda _arguments: tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIP_CERT", "/some/ca.pem")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    became: list[tuple[list[str], dict[str, str]]] = []
    for arguments in (["run", "--qemu", "x"], ["test", "-e", "unit"]):
        bootstrap.main(arguments, lambda _path, command, environment: became.append((command, environment)))
    assert became[0][0] == [str(tmp_path / "bin" / "cprlib"), "run", "--qemu", "x"]
    assert became[1][0] == [str(tmp_path / "bin" / "tox"), "-e", "unit"]
    environment = became[1][1]
    assert environment["PATH"].startswith(f"{tmp_path / 'bin'}:")
    assert environment["PIP_CERT"] == "/some/ca.pem"
    assert "PYTHONPATH" not in environment
    assert Path.cwd() == project_folder()


@pytest.mark.parametrize(("raised", "status"), [(MissingPackages("a", "b", "c"), 4), (KeyboardInterrupt(), 130)])
def test_errors_are_one_line_and_a_status(
    raised: BaseException, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def set_up(_arguments: object) -> Path:
        raise raised

    monkeypatch.setattr(bootstrap, "set_up", set_up)
    assert bootstrap.main(["run"], lambda *_: pytest.fail("ran")) == status
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("line", "shown"),
    [("run -v", True), ("build lab --verbose", True), ("run", False), ("lab run -- grep -v x", False)],
)
def test_details_of_an_error_are_shown_on_request(
    line: str, shown: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def set_up(_arguments: object) -> Path:
        raise BuildFailed("compile", "exit status 1", details="all the output")

    monkeypatch.setattr(bootstrap, "set_up", set_up)
    assert bootstrap.main(line.split()) == 4
    assert ("all the output" in capsys.readouterr().err) == shown


def test_cache_with_a_space_is_refused_at_once(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CPRLIB_CACHE", f"{cache} 2")
    monkeypatch.setattr(bootstrap, "set_up", lambda _arguments: pytest.fail("set up"))
    assert bootstrap.main(["run"], lambda *_: pytest.fail("ran")) == 4
    assert "set CPRLIB_CACHE to a path without spaces" in capsys.readouterr().err


def test_program_gets_the_whole_path_of_a_relative_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CPRLIB_CACHE", "cache")
    monkeypatch.setattr(bootstrap, "set_up", lambda _arguments: tmp_path)
    environments: list[dict[str, str]] = []
    bootstrap.main(["test"], lambda _path, _command, environment: environments.append(environment))
    assert environments[0]["CPRLIB_CACHE"] == str(tmp_path / "cache")


def test_usage() -> None:
    assert bootstrap.main([]) == 2
    assert bootstrap.main(["frobnicate"]) == 2


def test_checkout_is_linked_with_programs_and_plugins(tmp_path: Path) -> None:
    packages, programs = tmp_path / "site-packages", tmp_path / "bin"
    packages.mkdir()
    programs.mkdir()
    python_env._link_checkout(packages, programs, project_folder())
    assert (packages / "cprlib-checkout.pth").read_text() == f"{project_folder()}\n"
    points = next(packages.glob("*.dist-info/entry_points.txt")).read_text()
    assert "[avocado.plugins.spawner]\nlab = cprlib.lab.spawner:LabSpawner" in points
    assert (programs / "cprlib").read_text().startswith(f"#!{programs}/python3\n")
    assert (programs / "cprlib").stat().st_mode & 0o111


@pytest.mark.parametrize("refused", [False, True])
def test_modules_are_compiled_unless_the_user_refuses(refused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Path] = []
    monkeypatch.setattr("sys.dont_write_bytecode", refused)
    monkeypatch.setattr("compileall.compile_dir", lambda folder, **_: compiled.append(folder))
    python_env.ensure_environment(Progress(), is_complete=True)
    assert compiled == ([] if refused else [project_folder() / "cprlib"])


def test_incomplete_environment_is_made_again(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    del capsys

    def interrupted(*_arguments: object, **_options: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(python_env, "make_venv", interrupted)
    with pytest.raises(KeyboardInterrupt):
        python_env.ensure_environment(Progress())
    assert [path for path in (cache / "python").iterdir() if path.is_dir()] == []


def test_lock_has_hashes_for_every_package() -> None:
    entries = (project_folder() / "requirements.lock").read_text().replace("\\\n", " ").splitlines()
    entries = [entry for entry in entries if not entry.startswith("#")]
    assert len(entries) > 20
    assert all("==" in entry and "--hash=sha256:" in entry for entry in entries)


def test_progress_in_lines() -> None:
    stream = io.StringIO()
    with LineProgress(stream).step("compile") as say:
        say("[1/2]")
    assert stream.getvalue() == "compile ...\ncompile: done after 0 s\n"
    with pytest.raises(KeyboardInterrupt), TerminalProgress(stream).step("link"):
        raise KeyboardInterrupt
    assert stream.getvalue().endswith("link stopped\x1b[K\n\x1b[J")
    assert (seconds_text(59.9), seconds_text(125)) == ("59 s", "2:05")


def test_error_line_of_a_build_is_its_first_error() -> None:
    output = "[1/2] cc\nFAILED: x.o\nx.c:1: warning: w\nx.c:2:1: error: e\nninja: build stopped: subcommand failed.\n"
    assert error_line(output) == "x.c:2:1: error: e"
    assert error_line("one\ntwo\n") == "two"
    assert error_line("") == "no output"


def test_kernel_that_drops_an_option_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("CONFIG_NET=y\n")
    with pytest.raises(BuildFailed, match="CONFIG_TUN=y"):
        _check_config(config)


def test_this_python_is_new_enough() -> None:
    assert sys.version_info >= bootstrap.OLDEST_PYTHON
