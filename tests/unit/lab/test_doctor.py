"""The choice between native and lab follows from the findings and has a reason."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from cprlib.errors import EnvironmentFailure
from cprlib.lab import checks_native, doctor
from cprlib.lab.checks_native import (
    Diagnosis,
    Level,
    Result,
    check_memory,
    check_process_ids,
    check_processors,
    check_rights,
    check_tracefs,
    kcmp_advice,
    ptrace_advice,
)
from cprlib.lab.uml import confined

GOOD = Diagnosis("native", "KVM", Level.PASS, "works")
NO_VHOST = Diagnosis("native", "vhost-net", Level.FAIL, "no /dev/vhost-net", "load the module vhost_net")
NO_TRACE = Diagnosis("native", "drop tracepoint", Level.WARN, "not mounted", "mount it")
NO_MEMORY = Diagnosis("lab", "memory of a lab", Level.FAIL, "64 MiB free", "enlarge /dev/shm")


def test_warnings_permit_native() -> None:
    assert doctor.choose([GOOD, NO_TRACE, NO_MEMORY]) == "native"
    assert doctor.usable([GOOD, NO_TRACE, NO_MEMORY])


def test_failure_selects_the_lab_and_is_reported() -> None:
    findings = [GOOD, NO_VHOST]
    assert doctor.choose(findings) == "lab"
    assert doctor.usable(findings)
    assert "fails in vhost-net" in doctor.explain(findings)


def test_no_usable_backend_is_reported() -> None:
    findings = [NO_VHOST, NO_MEMORY]
    assert not doctor.usable(findings)
    assert doctor.explain(findings) == (
        "Tests cannot run here: natively, this host fails in vhost-net; a lab fails in memory of a lab."
    )


def test_failure_of_both_affects_each_backend() -> None:
    broken = Diagnosis("both", "disk", Level.FAIL, "full")
    assert doctor.failures([broken], "native") == doctor.failures([broken], "lab") == [broken]


def test_text_has_advice_except_for_passed_checks() -> None:
    text = doctor.render_text([GOOD, NO_VHOST, NO_TRACE])
    assert "KVM             : PASS (works)" in text
    assert "load the module vhost_net" in text
    assert "mount it" in text
    assert "\033[31mFAIL" in doctor.render_text([NO_VHOST], colour=True)


def test_json_has_the_same_findings() -> None:
    value = json.loads(json.dumps(doctor.as_json([GOOD, NO_VHOST])))
    assert value["mode"] == "lab"
    assert value["findings"][1] == {
        "area": "native",
        "name": "vhost-net",
        "level": "fail",
        "seen": "no /dev/vhost-net",
        "advice": "load the module vhost_net",
    }


def test_real_host_can_be_examined() -> None:
    findings = [*doctor.check_host(), *doctor.check_lab()]
    assert {"KVM", "tap devices", "vhost-net", "kcmp", "memory of a lab", "host read-only"} <= {
        one.name for one in findings
    }
    assert all(one.advice for one in findings if one.level is Level.FAIL)


def test_other_architecture_is_a_failure_of_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    (found,) = doctor.check_architecture()
    assert (found.area, found.level, found.seen) == ("both", Level.FAIL, "aarch64")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert doctor.check_architecture() == []


def test_no_lab_is_started_where_tests_run_natively(monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[str] = []
    monkeypatch.setattr(doctor, "check_native", lambda: [GOOD, NO_TRACE])
    monkeypatch.setattr(doctor, "check_lab", lambda: pytest.fail("started a lab"))
    assert doctor.choose_engine(False, None, reported.append) is None
    assert "natively" in reported[0]


def test_a_host_without_native_runs_is_examined_for_labs(monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[str] = []
    monkeypatch.setattr(doctor, "check_native", lambda: [GOOD, NO_VHOST])
    monkeypatch.setattr(doctor, "check_lab", lambda: [NO_MEMORY])
    with pytest.raises(EnvironmentFailure, match="memory of a lab: 64 MiB free"):
        doctor.choose_engine(False, None, reported.append)
    monkeypatch.setattr(doctor, "check_lab", lambda: [])
    assert doctor.choose_engine(False, None, reported.append) == "uml"
    assert ["Tests cannot run here" in text for text in reported] == [True, False]


@pytest.mark.parametrize(("user", "level"), [(0, Level.PASS), (1000, Level.WARN)])
def test_report_without_root_lists_what_cannot_be_tested(
    monkeypatch: pytest.MonkeyPatch, user: int, level: Level
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: user)
    finding = Diagnosis("both", "rights", *check_rights())
    assert finding.level is level
    if user:
        assert "not this host's kernel, KVM" in finding.seen
        assert doctor.choose([GOOD, finding]) == "native"  # a user who has the rights may still run natively


def root(top: Path, files: Mapping[str, str]) -> Path:
    """A simulated host."""
    for name, text in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)
    return top


CONTAINER = {
    "proc/self/cgroup": "0::/\n",
    "proc/meminfo": "MemAvailable: 33554432 kB\n",
    "sys/fs/cgroup/cpu.max": "150000 100000\n",
    "sys/fs/cgroup/memory.max": f"{1024 << 20}\n",
}


def test_limits_of_a_container_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    place = root(tmp_path, CONTAINER)
    level, seen, advice = check_processors(place)
    assert level is Level.WARN
    assert seen == "1 of 8 usable, 1 labs at once: the quota of a control group pays for 1.5"
    assert "cpu.max" in advice
    level, seen, advice = check_memory(place)
    assert level is Level.WARN
    assert seen == "1024 MiB available of 1024 MiB in a control group"
    assert "give the container more memory" in advice


def test_host_without_limits_passes(tmp_path: Path) -> None:
    place = root(tmp_path, {"proc/meminfo": "MemAvailable: 33554432 kB\n", "proc/self/cgroup": "0::/\n"})
    assert check_processors(place)[0] is Level.PASS
    assert check_memory(place) == (Level.PASS, "32768 MiB available", "")


@pytest.mark.parametrize(
    ("scope", "status", "words"),
    [
        ("3", "CapEff:\t000001ffffffffff\n", "ptrace_scope is 3"),
        ("2", "CapEff:\t0000000000000000\n", "ptrace_scope is 2"),
        ("1", "CapEff:\t0000000000000000\nSeccomp:\t2\n", "--cap-add SYS_PTRACE"),
        ("0", "CapEff:\t0000000000000000\nSeccomp:\t0\n", "CAP_SYS_PTRACE"),
    ],
)
def test_refused_ptrace_is_explained(tmp_path: Path, scope: str, status: str, words: str) -> None:
    files = {"proc/sys/kernel/yama/ptrace_scope": f"{scope}\n", "proc/self/status": status}
    place = root(tmp_path, files)
    assert words in ptrace_advice(place)
    assert "ptrace_scope" not in kcmp_advice(place)  # kcmp only reads, which Yama permits
    assert ("SYS_PTRACE" in kcmp_advice(place)) == ("Seccomp:\t2" in status)


@pytest.mark.parametrize(("refused", "level"), [(None, Level.PASS), (errno.EPERM, Level.FAIL)])
def test_copies_of_a_childs_descriptors_are_tried(
    monkeypatch: pytest.MonkeyPatch, refused: int | None, level: Level
) -> None:
    """As with kernel.yama.ptrace_scope=3, where kcmp works."""
    if refused:
        monkeypatch.setattr(checks_native, "duplicate_descriptor", lambda *_: fail(refused))
    assert checks_native.check_copies()[0] is level


def fail(number: int) -> int:
    raise OSError(number, os.strerror(number))


@pytest.mark.parametrize(("number", "words"), [(errno.EACCES, "get access"), (errno.ENOENT, "load the module")])
@pytest.mark.parametrize("check", [checks_native.check_vhost, checks_native.check_tun])
def test_device_without_access_needs_no_module(
    monkeypatch: pytest.MonkeyPatch, check: Callable[[], Result], number: int, words: str
) -> None:
    monkeypatch.setattr(os, "open", lambda *_: fail(number))
    assert words in check()[2]


def test_failing_owner_of_vhost_has_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "open", lambda *_: os.dup(0))
    monkeypatch.setattr(fcntl, "ioctl", lambda *_: fail(errno.EAGAIN))
    assert "limits" in checks_native.check_vhost()[2]


def test_what_cannot_be_looked_at_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a folder above the cache is closed."""
    monkeypatch.setattr(doctor, "check_native", lambda: [GOOD])
    monkeypatch.setattr(doctor, "check_disk", lambda: fail(errno.EACCES))
    monkeypatch.setattr(doctor, "prepare_only", lambda: fail(errno.EROFS))
    monkeypatch.setattr(doctor, "find_kernel", lambda: fail(errno.EACCES))
    found = {one.name: one for one in [*doctor.check_host(), *doctor.check_lab()]}
    for name in ("disk", "memory of a lab", "lab"):
        assert (found[name].level, bool(found[name].advice)) == (Level.FAIL, True)
    assert "Permission denied" in found["disk"].seen
    monkeypatch.setattr(checks_native, "check_kvm", lambda: fail(errno.EACCES))
    assert not checks_native.supports_native()


def test_memory_of_a_lab_is_tried_as_a_run_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    specs: list[dict[str, Any]] = []

    def launcher(**spec: Any) -> list[str]:
        specs.append(spec)
        return [sys.executable, "-c", "print('{}')"]

    monkeypatch.setattr(doctor, "confined", launcher)
    monkeypatch.setattr(doctor, "lab_memory_mib", lambda: 1024)
    doctor.prepare_only()
    assert specs[0]["memory"] == 1024


def test_older_kernel_without_the_reader_of_a_packet_is_named(tmp_path: Path) -> None:
    events = {"events/skb/kfree_skb/format": "x", "events/skb/consume_skb/format": "\tfield:void * skbaddr;\n"}
    level, seen, advice = check_tracefs([tmp_path / "none", root(tmp_path, events)])
    assert level is Level.WARN
    assert "consume_skb has no field location, which Linux 6.3 added" in seen
    assert "Linux 6.3 or newer" in advice
    root(tmp_path, {"events/skb/consume_skb/format": "\tfield:void * location;\n"})
    assert check_tracefs([tmp_path])[0] is Level.PASS
    assert "mount -t tracefs" in check_tracefs([tmp_path / "none"])[2]


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "sysctl kernel.apparmor_restrict_unprivileged_userns=0"),
        ("kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1"),
        ("user/max_user_namespaces", "0", "sysctl user.max_user_namespaces=15000"),
    ],
)
def test_setting_that_forbids_user_namespaces_is_named(tmp_path: Path, setting: str, value: str, words: str) -> None:
    assert "policy" in doctor.namespaces_advice(tmp_path)
    advice = doctor.namespaces_advice(root(tmp_path, {f"proc/sys/{setting}": f"{value}\n"}))
    assert words in advice
    assert "a lab runs without them too" in advice


def test_refused_uid_map_is_a_warning_with_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    report = {"memory": "a tmpfs", "leftover": "", "landlock": 4, "readonly": False, "namespaces": False}
    report["metadata_ignored"] = True
    report["namespaces_refused"] = "/proc/self/uid_map: Operation not permitted"
    monkeypatch.setattr(doctor, "prepare_only", lambda: report)
    found = {one.name: one for one in doctor.check_confinement()}
    assert found["host read-only"].level is Level.PASS
    assert found["namespaces"].level is Level.WARN
    assert "uid_map: Operation not permitted" in found["namespaces"].seen


def test_launcher_that_dies_is_a_finding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "confine.py"
    program.write_text("raise SystemExit('cannot do it')\n")
    monkeypatch.setattr(doctor, "confined", lambda **spec: [*confined(**spec)[:3], str(program)])
    (found,) = doctor.check_confinement()
    assert found.level is Level.FAIL
    assert "ended with exit status 1: cannot do it" in found.seen


def test_a_pid_namespace_of_its_own_is_no_place_for_native_runs(tmp_path: Path) -> None:
    (tmp_path / "pid").touch()
    level, _, advice = check_process_ids(tmp_path / "pid")
    assert (level, "--pid=host" in advice) == (Level.FAIL, True)


@pytest.mark.parametrize(
    ("readonly", "landlock", "filtered", "level", "words"),
    [
        (True, 0, False, Level.PASS, "no Landlock as a second layer"),
        (False, 4, True, Level.PASS, "chmod and chown of host files do nothing"),
        (False, 4, False, Level.WARN, "does not cover chmod"),
        (False, 2, True, Level.WARN, "does not cover truncation"),
        (False, 0, True, Level.WARN, "could write all that you can write"),
    ],
)
def test_what_a_lab_could_write_is_named(
    readonly: bool, landlock: int, filtered: bool, level: Level, words: str
) -> None:
    report = {"readonly": readonly, "landlock": landlock, "metadata_ignored": filtered}
    found, seen, advice = doctor.host_protection(report)
    assert (found, bool(advice)) == (level, level is Level.WARN)
    assert words in seen


@pytest.mark.parametrize("lab", ["uml", None])
def test_run_is_warned_of_labs_that_can_write(monkeypatch: pytest.MonkeyPatch, lab: str | None) -> None:
    reported: list[str] = []
    level = Level.WARN
    monkeypatch.setattr(doctor, "check_native", lambda: [NO_VHOST])
    monkeypatch.setattr(
        doctor, "check_confinement", lambda: [Diagnosis("lab", doctor.HOST_READ_ONLY, level, "neither", "use another")]
    )
    monkeypatch.setattr(doctor, "check_boot", lambda: GOOD)
    assert doctor.choose_engine(False, lab, reported.append) == "uml"
    assert [text for text in reported if text.startswith("warning: ")] == [
        "warning: labs are not kept from writing this host's files: neither; use another"
    ]
    level = Level.PASS
    reported.clear()
    doctor.choose_engine(False, lab, reported.append)
    assert not [text for text in reported if text.startswith("warning: ")]
