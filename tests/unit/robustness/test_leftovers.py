"""The searches for leftovers of killed runs find each kind of them: a search that finds nothing proves nothing."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cprlib.build.assets import manifest_file
from cprlib.build.store import write_listing
from cprlib.errors import ExitStatus
from cprlib.lab.avocado_run import SuiteRun
from cprlib.report.results_folder import UNFINISHED, new_results_folder, publish
from tests.robustness import host_view
from tests.robustness.harness import VICTIMS, command
from tests.robustness.host_view import view_host
from tests.robustness.kills import Kill, KillResult, never_killed, plan
from tests.robustness.leftovers import cache_faults, results_faults
from tests.robustness.netlink_dump import difference, dump, listening
from tests.robustness.processes import descendants, objects_alive, objects_of

ORPHAN = """
import os, subprocess, sys, time
from tests.robustness.processes import become_subreaper, descendants, reap
become_subreaper()
middle = subprocess.Popen([sys.executable, "-c",
    "import subprocess; print(subprocess.Popen(['sleep', '60'], start_new_session=True).pid, flush=True)"],
    stdout=subprocess.PIPE, text=True)
orphan = int(middle.stdout.readline())
middle.wait()
found = descendants(os.getpid())
os.kill(orphan, 9)
end = time.monotonic() + 5
while descendants(os.getpid()) and time.monotonic() < end:
    reap(descendants(os.getpid()))
print([one.pid for one in found] == [orphan], len(descendants(os.getpid())))
"""


def test_an_orphan_is_found_and_reaped() -> None:
    done = subprocess.run([sys.executable, "-c", ORPHAN], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "0"]


def test_a_process_that_ends_while_it_is_read_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    read = psutil.Process.cmdline
    with subprocess.Popen(["sleep", "60"]) as child:

        def end_first(process: psutil.Process) -> list[str]:
            child.kill()
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
            return read(process)

        monkeypatch.setattr(psutil.Process, "cmdline", end_first)
        assert child.pid in [process.pid for process in descendants(os.getpid())]


def test_sockets_and_namespaces_of_a_process_are_found_until_it_ends() -> None:
    program = "import socket, sys; a, b = socket.socketpair(); print(1, flush=True); sys.stdin.read()"
    unshare = shutil.which("unshare")
    inside = [unshare, "-Urn"] if unshare else []
    with subprocess.Popen([*inside, sys.executable, "-c", program], stdin=-1, stdout=-1, text=True) as child:
        assert child.stdout is not None
        if not child.stdout.readline():
            pytest.skip("no user namespaces here")
        held = objects_of([child.pid]) - objects_of([os.getpid()])
        assert any(name.startswith("socket:") for name in held)
        assert any(name.startswith("net:") for name in held) or not inside
        assert held <= objects_alive()
        child.kill()
        child.wait()
        assert not {name for name in held if name.startswith(("socket:", "net:"))} & objects_alive()


@contextlib.contextmanager
def planted(kind: str, folder: Path) -> Iterator[None]:
    """Plant a leftover."""
    with contextlib.ExitStack() as stack:
        match kind:
            case "private":
                (folder / "tmpabc").mkdir()
            case "sockets":
                listener = stack.enter_context(socket.socket(socket.AF_UNIX))
                listener.bind(str(folder / "s"))
            case "locks":
                stream = stack.enter_context((folder / "lock").open("w"))
                fcntl.flock(stream, fcntl.LOCK_EX)
            case "temporary":
                path = Path("/dev/shm", f"cprlib-{secrets.token_hex(4)}")  # noqa: S108
                path.touch()
                stack.callback(path.unlink)
            case "traces":
                (folder / "instances" / "cprlib-1").mkdir(parents=True)
        yield


@pytest.mark.parametrize("kind", ["private", "sockets", "locks", "temporary", "traces"])
def test_each_kind_of_leftover_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(host_view, "TRACE_INSTANCES", tmp_path / "instances")
    before = view_host([tmp_path], [tmp_path])
    assert view_host([tmp_path], [tmp_path]).added_since(before) == []
    with planted(kind, tmp_path):
        assert any(line.startswith(f"{kind}: ") for line in view_host([tmp_path], [tmp_path]).added_since(before))


def test_an_added_or_removed_link_or_mount_is_found() -> None:
    before = view_host([], [])
    changed = host_view.HostView(
        before.links ^ {"lo", "br7"},
        before.mounts | {"/ /mnt/x ext4 x rw"},
        *(getattr(before, name) for name in ("sockets", "locks", "temporary", "private", "traces")),
    )
    assert {"links: br7", "mounts: / /mnt/x ext4 x rw"} <= set(changed.added_since(before))
    assert changed.removed_since(before) == ["links gone: lo"]


def test_an_incomplete_cache_entry_is_found(tmp_path: Path) -> None:
    entry = tmp_path / "store" / "guest" / "abc"
    entry.mkdir(parents=True)
    (entry / "initramfs").write_text("x")
    assert len(cache_faults(tmp_path)) == 1
    write_listing(entry)
    assert cache_faults(tmp_path) == []
    (tmp_path / "store" / "guest" / ".abc.xyz").mkdir()  # being built
    assert cache_faults(tmp_path) == []
    (tmp_path / manifest_file().name).write_text("{")
    assert len(cache_faults(tmp_path)) == 1


def test_an_unfinished_run_is_allowed_and_latest_must_not_point_to_it(tmp_path: Path) -> None:
    run = new_results_folder(tmp_path)
    (run / UNFINISHED).write_text(json.dumps({"pid": 1, "started": 0, "boot": "x"}))
    assert results_faults(tmp_path, -signal.SIGKILL, run) == []
    assert results_faults(tmp_path, ExitStatus.PASS, run) == ["the run passed and is unfinished"]
    (tmp_path / "latest").symlink_to(run.name)
    assert any("latest points to" in fault for fault in results_faults(tmp_path, -9, run))


def test_a_published_run_without_its_report_is_a_fault(tmp_path: Path) -> None:
    run = new_results_folder(tmp_path)
    publish(run)
    assert any("incomplete" in fault for fault in results_faults(tmp_path, 0, run))


def test_a_plan_depends_on_the_seed_and_covers_the_whole_run() -> None:
    kills = plan(50, 7)
    assert kills == plan(50, 7) != plan(50, 8)
    assert sorted(int(kill.part * 50) for kill in kills) == list(range(50))
    assert {kill.victim for kill in kills} == {"cprlib", "avocado", "runner"}
    assert {kill.built for kill in kills} == {True, False}
    assert "--native" in command("native", Path("/x"))


def test_avocado_is_found_by_its_command_line(tmp_path: Path) -> None:
    avocado = SuiteRun(tmp_path, [], {}).command(tmp_path / "avocado.conf")
    others = (command("lab", tmp_path), [sys.executable, "-m", "cprlib.lab.task", "{}"])
    assert any(words in " ".join(avocado) for words in VICTIMS["avocado"])
    assert not any(words in " ".join(other) for other in others for words in VICTIMS["avocado"])


def test_a_kind_of_process_that_is_never_found_is_a_fault() -> None:
    def result(planned: str, killed: str) -> KillResult:
        return KillResult(Kill(1, 0.5, planned, False), 1.0, "measuring", killed, -9, 1.0, [])

    missed = [result("avocado", "cprlib"), *[result("cprlib", "cprlib")] * 9]
    assert never_killed(missed) == ["avocado"]
    assert never_killed(missed[:9]) == []
    assert never_killed([*missed, result("avocado", "avocado")]) == []


def test_dumps_differ_by_what_changed_only() -> None:
    before = dump()
    assert any("IFLA_IFNAME" in text and '"lo"' in text for text in before["links"])
    assert before["sysctls"]
    after = {**before, "routes": [*before["routes"], "another"], "rules": before["rules"][1:]}
    assert "routes +another" in difference(before, after)
    assert any(line.startswith("rules -") for line in difference(before, after)) or not before["rules"]
    assert difference(before, before) == []


def test_a_listening_socket_is_found_with_its_inode(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "s"))
        unix.listen()
        own = {line.rpartition(" ")[2]: line for line in listening()}
        assert own[os.readlink(f"/proc/self/fd/{tcp.fileno()}")].startswith("tcp ")
        assert own[os.readlink(f"/proc/self/fd/{unix.fileno()}")].startswith(f"unix {tmp_path}/s")
