"""The lab's launcher on hosts that refuse user namespaces late: Landlock alone protects the host's files."""

from __future__ import annotations

import json
import os
import platform
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import NamedTemporaryFile

import pytest

from cprlib.lab import confine

READ_ONLY_PROC = 'mount --make-rprivate / && mount -o remount,bind,ro /proc && exec "$@"'
OLD_LANDLOCK = """
import json, os, sys
from cprlib.lab import confine
real = confine.call
def call(function, *arguments):
    return 2 if arguments[:2] == (confine.SYS_LANDLOCK_CREATE_RULESET, None) else real(function, *arguments)
confine.call = call
report = confine.prepare(json.loads(sys.argv[1]), "as in a container")
try:
    os.truncate(sys.argv[2], 0)
except PermissionError:
    print(json.dumps(report))
"""
WITHOUT_RIGHTS = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


def spec(place: Path, report: int = 1, argv: tuple[str, ...] = ("true",)) -> str:
    return json.dumps(
        {
            "argv": [shutil.which(argv[0]), *argv[1:]],
            "folders": [],
            "folder_fds": [],
            "memory": 8,
            "memory_fd": 101,
            "places": [str(place)],
            "cpu": None,
            "report": report,
            "keep": [],
            "layers": ["namespaces", "landlock"],
        }
    )


def refuse(name: str) -> None:
    raise PermissionError(1, "Operation not permitted", name)


def test_refused_uid_map_is_noticed_by_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """As AppArmor does it: unshare(2) succeeds, the write to uid_map does not."""
    before = os.readlink("/proc/self/ns/user")
    monkeypatch.setattr(confine, "enter_user_namespace", lambda: refuse("/proc/self/uid_map"))
    assert confine.try_user_namespace() == "/proc/self/uid_map: Operation not permitted"
    assert os.readlink("/proc/self/ns/user") == before


def test_reason_is_returned_when_both_ways_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confine, "call", lambda *_: refuse("unshare"))
    monkeypatch.setattr(confine, "enter_user_namespace", lambda: refuse("/proc/self/uid_map"))
    assert confine.unshare(json.loads(spec(Path("/tmp")))) == "/proc/self/uid_map: Operation not permitted"  # noqa: S108
    without = json.loads(spec(Path("/tmp"))) | {"layers": []}  # noqa: S108
    assert confine.unshare(without) == "switched off by the caller"


def test_lab_starts_where_the_mapping_cannot_be_written() -> None:
    """A real kernel that lets unshare(2) succeed: /proc is read-only, and with it uid_map."""
    python = next((path for path in ("/usr/bin/python3", sys.executable) if os.access(path, os.X_OK)), "")
    if os.geteuid() != 0 or not shutil.which("setpriv") or not shutil.which("unshare"):
        pytest.skip("a read-only /proc needs root, unshare and setpriv")
    probe = ["unshare", "--mount", "sh", "-c", READ_ONLY_PROC, "sh"]
    if subprocess.run([*probe, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no mount namespaces here: this container forbids them")
    with NamedTemporaryFile(dir="/dev/shm", suffix=".py") as program:  # another user reads it
        shutil.copyfile(confine.__file__, program.name)
        os.chmod(program.name, 0o644)
        command = [*probe, *WITHOUT_RIGHTS, python, "-I", "-S", program.name, spec(Path("/dev/shm"))]  # noqa: S108
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["namespaces"] is False
    assert "Read-only file system" in report["namespaces_refused"]
    assert report["landlock"] or report["metadata_ignored"]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the filter knows the system calls of x86-64")
def test_truncation_is_refused_where_landlock_does_not_cover_it(tmp_path: Path) -> None:
    """As on Linux 5.19 to 6.1, whose Landlock has version 2."""
    try:
        confine.call(confine.libc.syscall, confine.SYS_LANDLOCK_CREATE_RULESET, None, 0, 1)
    except OSError:
        pytest.skip("this kernel has no Landlock")
    (tmp_path / "precious").write_text("kept")
    command = [sys.executable, "-c", OLD_LANDLOCK, spec(tmp_path), str(tmp_path / "precious")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (tmp_path / "precious").read_text() == "kept"
    assert json.loads(done.stdout)["metadata_ignored"]


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="inheritable capabilities are root's")
def test_inheritable_capabilities_end_with_exec(tmp_path: Path) -> None:
    """As of root in a container of Docker before 20.10.14."""
    launcher = [sys.executable, "-I", "-S", confine.__file__]
    command = ["setpriv", "--inh-caps=+sys_admin", *launcher, spec(tmp_path, 2, ("grep", "Cap", "/proc/self/status"))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    sets = dict(line.split(":\t") for line in done.stdout.splitlines())
    assert int(sets["CapInh"], 16) == 0
    assert int(sets["CapPrm"], 16) >> max(confine.KEPT_CAPABILITIES) + 1 == 0


def test_launcher_leaves_no_core(tmp_path: Path) -> None:
    """It ends as the kernel has ended, by SIGABRT in a panic."""
    command = [sys.executable, "-I", "-S", confine.__file__, spec(tmp_path, 1, ("sleep", "60"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as launcher:
        assert launcher.stdout is not None
        launcher.stdout.read(1)  # the report
        assert resource.prlimit(launcher.pid, resource.RLIMIT_CORE) == (0, 0)
        launcher.kill()
