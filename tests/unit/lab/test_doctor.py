"""The choice between native and lab follows from the findings and has a reason."""

from __future__ import annotations

import json

import pytest

from cprlib.lab import doctor
from cprlib.lab.checks_native import Diagnosis, Level, check_rights

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
    assert "A lab cannot be used either: memory of a lab" in doctor.explain(findings)


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
    findings = doctor.examine()
    assert {"KVM", "tap devices", "vhost-net", "kcmp", "memory of a lab", "host read-only"} <= {
        one.name for one in findings
    }
    assert all(one.advice for one in findings if one.level is Level.FAIL)


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
