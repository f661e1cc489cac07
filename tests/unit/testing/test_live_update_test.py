"""The base class of the functional tests."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import pytest

from cprlib.evidence.case import CaseEvidence
from cprlib.guest.image import GuestImage
from cprlib.qemu.binary import QemuBinary
from cprlib.testing import live_update_test as module
from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.live_update_test import LiveUpdateTest
from cprlib.testing.measured_case import MeasuredCase
from cprlib.testing.parameters import Boot, SuiteParameters
from cprlib.update.mechanism import Mechanism, Mode

pytestmark = pytest.mark.fast


def test_the_time_of_a_test_is_scaled_as_its_deadlines_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPRLIB_TIMEOUT_SCALE", "2.5")
    assert LiveUpdateTest(methodName="setUp", base_logdir=str(tmp_path)).timeout == 750


@pytest.mark.parametrize("template", [None, SimpleNamespace(key="k", state=Path("/s"), kernel_arguments="")])
def test_a_guest_is_updated_in_the_mode_of_its_spec(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: SimpleNamespace | None
) -> None:
    """Also one that is restored from a template."""
    given: dict[str, Any] = {}
    monkeypatch.setattr(module, "may_restore", lambda *_: True)
    monkeypatch.setattr(module, "template_for", lambda *_: template)

    def running_guest(*_: object, **more: Any) -> contextlib.nullcontext[Mock]:
        given.update(more)
        return contextlib.nullcontext(Mock())

    monkeypatch.setattr(module, "running_guest", running_guest)
    run, spec = SuiteParameters(boot=Boot.TEMPLATE), GuestSpec(mode=Mode.CPR_EXEC)
    qemu = QemuBinary(Path("/q"))
    case = MeasuredCase(run, tmp_path, CaseEvidence("x", Mechanism.CPR))
    settings = spec.settings(run, qemu, GuestImage(Path("/k"), Path("/i"), "x"))
    test = cast("LiveUpdateTest", SimpleNamespace(qemu=qemu))
    test._restore = lambda *arguments: LiveUpdateTest._restore(test, *arguments)  # type: ignore[method-assign]
    with contextlib.ExitStack() as stack:
        assert LiveUpdateTest._boot(test, case, spec, settings, stack)
    assert given.get("mode") is Mode.CPR_EXEC
    assert given.get("saved") == (template and template.state)


@pytest.mark.parametrize(
    ("tags", "given", "has_cpr", "mechanism"),
    [
        ({"cpr", "local"}, None, True, Mechanism.CPR),
        ({"cpr", "local"}, None, False, Mechanism.LOCAL),
        ({"cpr", "local"}, Mechanism.LOCAL, True, Mechanism.LOCAL),
        ({"cpr", "local"}, Mechanism.CPR, False, Mechanism.CPR),
        ({"cpr", "local"}, Mechanism.LINK_SWITCH, True, Mechanism.CPR),
        ({"cpr"}, Mechanism.LOCAL, False, Mechanism.CPR),
    ],
)
def test_a_test_of_several_mechanisms_has_that_of_the_run(
    tags: set[str], given: Mechanism | None, has_cpr: bool, mechanism: Mechanism
) -> None:
    test = SimpleNamespace(
        parameters=SuiteParameters(mechanism=given),
        facts=SimpleNamespace(migration_local=True, netdev_cpr=has_cpr),
        tags={"mechanism": tags},
    )
    assert LiveUpdateTest._by_mechanism(cast(LiveUpdateTest, test), GuestSpec()).mechanism is mechanism
