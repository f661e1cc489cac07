"""Order of a live update's steps and hooks, with stand-ins for both QEMUs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cprlib.errors import QemuFailed, QmpRefused, UpdateFailed
from cprlib.linux.topology import Topology
from cprlib.qemu.command_line import MachineSettings
from cprlib.qemu.facts import LocalNames
from cprlib.qemu.machine import Machine
from cprlib.qemu.netdev import TapNetdev
from cprlib.update import live_update
from cprlib.update.events import Event, Step, Who
from cprlib.update.faults import Phase
from cprlib.update.hooks import PauseAtFdsSent
from cprlib.update.live_update import LiveUpdate, UpdateHook
from cprlib.update.mechanism import Mechanism, Mode

from ..qemu.samples import machine_settings

pytestmark = pytest.mark.fast

SETTINGS = machine_settings()
ANNOUNCE = {"announce-initial": 50, "announce-max": 550, "announce-rounds": 5, "announce-step": 100}  # by default


class StandIn:
    """A QEMU that notes the commands it gets."""

    def __init__(self, steps: list[str], *, refuses: bool = False, ended: bool = False, name: str = "") -> None:
        self.settings = SETTINGS
        self.pid = 1
        self.messages = f"{name}warning\n{name}last message\n"
        self.incoming = True
        self.name = name
        self.process = SimpleNamespace(poll=self.exit_status)
        self.qmp = self
        self._steps = steps
        self._refuses = refuses
        self._ended = ended

    def exit_status(self) -> int | None:
        return 1 if self._ended else None

    def execute(self, command: str, _arguments: object = None, **_: object) -> dict[str, Any]:
        self._steps.append(self.name + command)
        if command == "migrate" and self._refuses:
            raise QmpRefused("run migrate", "no", error_class="GenericError")
        return {"status": "completed", "downtime": 7} | ANNOUNCE

    def wait_event(self, *_: object, **__: object) -> SimpleNamespace:
        return SimpleNamespace(name="STOP")

    def check_alive(self, doing: str, **_: object) -> None:
        if self._ended:
            raise QemuFailed(doing, "it ended")

    def wait_ready(self, _seconds: float = 30.0) -> None: ...

    def set_capabilities(self, _states: object) -> None:
        self.execute("migrate-set-capabilities")

    def plug_all(self) -> None:
        self._steps.append("plug")

    def status(self) -> str:
        return "running"

    def quit(self) -> int:
        self._steps.append("quit")
        return 0


class Noting(UpdateHook):
    """Notes when it is called."""

    def __init__(self, steps: list[str], *, expects_failure: bool = False) -> None:
        self._steps = steps
        self.expects_failure = expects_failure

    def before_target(self, update: LiveUpdate) -> None:
        self._steps.append(f"hook before {update.target_name}")

    def at_phase(self, phase: Phase, update: LiveUpdate) -> None:
        assert update.migrate_reply is None
        self._steps.append(f"hook at {phase}")

    def after_migrate(self, update: LiveUpdate) -> None:
        assert update.migrate_reply is not None
        update.migrate_reply.result()
        self._steps.append("hook after migrate")

    def after_stop(self, update: LiveUpdate) -> None:  # noqa: ARG002
        self._steps.append("hook stopped")


class NoProxy:
    """A proxy that never holds."""

    name, held = "proxy", False

    def __enter__(self) -> NoProxy:
        return self

    def __exit__(self, *_: object) -> None: ...

    def release(self) -> None: ...


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    noted: list[str] = []
    view = SimpleNamespace(table=None)
    for name in ("view", "view_after_release"):
        monkeypatch.setattr(live_update, name, lambda _machine: view)
    monkeypatch.setattr(live_update, "pair_tables", lambda *_: ())
    monkeypatch.setattr(live_update, "events_of", lambda *_: ())
    monkeypatch.setattr(live_update, "run_states_of", lambda *_: None)
    monkeypatch.setattr(live_update, "statuses_of", lambda *_: None)
    monkeypatch.setattr(live_update, "other_events_of", lambda *_: ())
    monkeypatch.setattr(live_update, "is_listening", lambda *_: True)
    monkeypatch.setattr(live_update, "ChannelProxy", lambda *_, **__: NoProxy())
    return noted


def update(
    monkeypatch: pytest.MonkeyPatch,
    steps: list[str],
    used: Sequence[UpdateHook],
    *,
    refuses: bool = False,
    target_ended: bool = False,
    **fields: Any,
) -> LiveUpdate:
    @contextlib.contextmanager
    def start(name: str, settings: MachineSettings, *_: object, **__: object) -> Iterator[StandIn]:
        steps.append(f"start {name}")
        target = StandIn(steps, ended=target_ended, name="target ")
        target.settings = settings
        yield target

    monkeypatch.setattr(live_update, "start_machine", start)
    given: dict[str, Any] = {"mechanism": Mechanism.CPR, "target_settings": SETTINGS, **fields}
    return LiveUpdate(
        source=cast(Machine, StandIn(steps, refuses=refuses)),
        topology=cast(Topology, SimpleNamespace(switch=None)),
        stack=contextlib.ExitStack(),
        folder=Path("/nowhere"),
        hooks=used,
        **given,
    )


def test_hooks_are_called_between_the_steps(monkeypatch: pytest.MonkeyPatch, steps: list[str]) -> None:
    target, result = update(monkeypatch, steps, [Noting(steps)]).perform()
    assert steps == [
        "query-migrate",
        "hook before target",
        "start target",
        "hook at target started",
        "hook at cpr socket ready",
        "migrate-set-capabilities",
        "migrate-set-parameters",
        "hook at mode set",
        "migrate",
        "hook after migrate",
        "hook stopped",
        "query-migrate",
        "target query-migrate",
        "query-migrate",
        "target query-migrate-parameters",
        "quit",
    ]
    assert not target.incoming
    assert (result.downtime_ms, result.source_exit) == (7.0, 0)
    names = ["TARGET_STARTED", "CPR_LISTENING", "MIGRATE", "SOURCE_QUIT", "SOURCE_GONE"]
    assert [item.name for item in result.events] == names


def test_a_refused_migration_fails_at_once_also_with_a_pause(monkeypatch: pytest.MonkeyPatch, steps: list[str]) -> None:
    acted: list[object] = []
    begun = time.monotonic()
    with pytest.raises(UpdateFailed, match="cannot start the live update: no") as caught:
        update(monkeypatch, steps, [PauseAtFdsSent(lambda *given: acted.append(given))], refuses=True).perform()
    assert (caught.value.source_said, caught.value.target_said) == ("last message", "target last message")
    assert not acted
    assert time.monotonic() - begun < 5
    assert "quit" not in steps


def test_a_target_that_ends_early_is_an_error_unless_a_failure_is_expected(
    monkeypatch: pytest.MonkeyPatch, steps: list[str]
) -> None:
    with pytest.raises(QemuFailed, match="it ended"):
        update(monkeypatch, steps, [Noting(steps)], target_ended=True).perform()
    assert "migrate" not in steps
    failing = update(monkeypatch, steps, [Noting(steps, expects_failure=True)], target_ended=True, refuses=True)
    assert not failing.timeline
    assert isinstance(failing.begin(), QmpRefused)
    stop = Event(Step.STOP, 1, Who.SOURCE)
    monkeypatch.setattr(live_update, "events_of", lambda *_: (stop,))
    assert [event.name for event in failing.timeline] == ["STOP", "TARGET_STARTED", "CPR_LISTENING", "MIGRATE"]


def test_a_target_may_end_at_any_time_when_a_failure_is_expected(
    monkeypatch: pytest.MonkeyPatch, steps: list[str]
) -> None:
    """Here right after it was seen to live."""
    statuses = iter((None, None, 1))
    monkeypatch.setattr(StandIn, "exit_status", lambda _: next(statuses))
    monkeypatch.setattr(live_update, "is_listening", lambda *_: False)
    failing = update(monkeypatch, steps, [Noting(steps, expects_failure=True)], target_ended=True, refuses=True)
    assert isinstance(failing.begin(), QmpRefused)
    assert list(statuses) == []


@pytest.mark.parametrize("mode", Mechanism.LOCAL.handling.modes)
def test_nics_of_a_local_update_are_plugged_before_the_source_stops(
    mode: Mode, monkeypatch: pytest.MonkeyPatch, steps: list[str]
) -> None:
    plugged = replace(SETTINGS, plugged=True)
    prepared = update(monkeypatch, steps, [], mechanism=Mechanism.LOCAL, target_settings=plugged, mode=mode)
    stand_in = cast(StandIn, prepared.source)
    netdevs = (Mechanism.LOCAL.handling.source_netdev(TapNetdev(), LocalNames("local")),)
    stand_in.settings = replace(SETTINGS, netdevs=netdevs)
    prepared.perform()
    target = ["target migrate-set-parameters", "plug", "target migrate-incoming"]
    begun = steps[1 : steps.index("query-migrate", 1)]
    if mode is Mode.CPR_TRANSFER:
        assert begun[-4:] == ["migrate", *target]
    else:
        assert [step for step in begun if step.startswith(("target", "plug"))] == [
            "target migrate-set-capabilities",
            *target,
        ]
        assert begun[-1] == "migrate"
        assert "target cont" in steps
