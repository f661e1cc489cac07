"""A fault's hook: what it records of a command that the source has to refuse; then the QEMU that has the guest."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import pytest

from cprlib.deadline import Deadline
from cprlib.errors import DeadlineExceeded, QemuFailed, QmpRefused
from cprlib.linux.procfs import status_field
from cprlib.qemu.trace_log import TraceLog
from cprlib.update import fault_injection, outcome
from cprlib.update.fault_injection import FaultInjection
from cprlib.update.faults import Action, Actor, Fault, Phase, Survivor, faults_named
from cprlib.update.live_update import LiveUpdate
from cprlib.update.outcome import FaultOutcome, Migration, wait_migration

from ..qemu.samples import machine_settings

pytestmark = pytest.mark.fast

REFUSAL = QmpRefused("migrate", "There's a migration process in progress", error_class="GenericError")


@dataclass
class UpdateInPhase:
    """An update that stands in the fault's phase; ``migrate`` is answered with ``answer``."""

    answer: QemuFailed | None
    migrate_reply: None = None

    def __post_init__(self) -> None:
        self.source = self.target = SimpleNamespace()

    def migrate(self) -> QemuFailed | None:
        return self.answer


@pytest.mark.parametrize(
    ("answer", "refused"),
    [(REFUSAL, REFUSAL.happened), (None, ""), (QemuFailed("migrate", "it closed the connection"), "")],
    ids=["refused", "accepted", "died"],
)
def test_a_second_migrate_has_to_be_refused(answer: QemuFailed | None, refused: str) -> None:
    phase = Phase.TARGET_STARTED
    injection = FaultInjection(Fault("again", phase, Actor.MANAGEMENT, Action.MIGRATE_AGAIN, Survivor.TARGET))
    injection.at_phase(phase, cast("LiveUpdate", UpdateInPhase(answer)))
    assert injection.refused == refused
    assert injection.not_reached == ""  # the phase was reached, whatever the source answers


def test_a_qemu_that_was_stopped_continues_though_the_other_one_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fault_injection, "AT_REST_S", 0.05)
    fault = Fault("paused", Phase.TARGET_STARTED, Actor.SOURCE, Action.PAUSE, Survivor.TARGET)
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    with subprocess.Popen(["sleep", "60"]) as victim:
        source, target = (SimpleNamespace(pid=process.pid) for process in (victim, ended))
        FaultInjection(fault)._act(cast("LiveUpdate", SimpleNamespace(source=source, target=target)))
        assert (status_field(victim.pid, "State") or "T")[0] in "RS"
        victim.kill()


def test_a_source_that_the_fault_lets_quit_has_been_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    (fault,) = faults_named("source-killed-quitting")
    monkeypatch.setattr(FaultInjection, "_inject", lambda *_: None)
    update = Mock(source=Mock(quitting=False))
    FaultInjection(fault).after_migrate(update)
    assert update.source.quitting is True


def test_a_source_without_a_trace_log_has_stopped_by_its_event() -> None:
    (fault,) = faults_named("target-killed-vm-stopped")
    events = [SimpleNamespace(name="STOP", received_ns=90)]  # of an update before
    source = SimpleNamespace(trace=TraceLog((), ()), qmp=SimpleNamespace(events=events))
    update = cast("LiveUpdate", SimpleNamespace(migrate_reply=None, source=source, started_ns=100))
    assert not FaultInjection(fault)._arrived(update)
    events.append(SimpleNamespace(name="STOP", received_ns=101))
    assert FaultInjection(fault)._arrived(update)


ACTED_NS = 1000


class Qemu:
    """A QEMU with a run state and events; it ends when it is killed or quits.

    :param events: names, all after the fault. :param state: empty when it has ended.
    :param later: its state when RESUME is waited for; the same when empty.
    """

    def __init__(self, state: str, *events: str, later: str = "") -> None:
        self._later = later
        self.name, self.state, self.settings, self.incoming = "QEMU", state, machine_settings(), True
        self.process = self.qmp = self
        self.trace = TraceLog((), ())
        after = {"time_ns": ACTED_NS + 1, "received_ns": ACTED_NS + 1, "data": {"status": state}}
        self.events = [SimpleNamespace(name=name, **after) for name in events]

    def poll(self) -> int | None:
        return None if self.state else -9

    exit_status = poll

    def status(self) -> str:
        if not self.state:
            raise QemuFailed("run query-status", "the connection broke")
        return self.state

    def wait_ready(self, _seconds: float = 0) -> None:
        self.status()

    def wait_status(self, *states: str, seconds: float = 0) -> None:
        Deadline(0, "the state").poll(lambda: self.status() in states, 0, lambda: f"{seconds}")

    def wait_event(self, *_names: str, **_: object) -> None:
        self.state = self._later or self.state

    def quit(self) -> None:
        self.state = ""


@pytest.fixture(autouse=True)
def _kill(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcome, "kill_group", Qemu.quit)


def outcome_of(name: str, source: Qemu, target: Qemu, *, reached: bool = True) -> FaultOutcome:
    (fault,) = faults_named(name)
    return FaultOutcome(fault, cast(Any, source), cast(Any, target), "running", ACTED_NS, reached)


@pytest.mark.parametrize("name", ["cpr-garbage", "source-killed-fds-sent", "cancel-main-connected", "unnoticed-death"])
def test_a_target_of_an_undisturbed_update_keeps_the_guest(name: str) -> None:
    source, target = Qemu("postmigrate"), Qemu("running", "RESUME")
    found = outcome_of(name, source, target, reached=False)
    assert found.wait_survivor("completed") == (None, None)
    assert (found.target_has_guest, found.source_state, source.poll(), target.poll()) == (True, "postmigrate", -9, None)


def test_the_state_of_a_source_that_survives_is_in_the_report() -> None:
    found = outcome_of("target-killed-loading", Qemu("running", "STOP", "RESUME"), Qemu(""))
    assert found.wait_survivor("failed") == (1e-6, -9)
    assert found.source_state == "running"


@pytest.mark.parametrize(
    ("name", "source", "target", "back_ms", "states", "ran"),
    [
        ("source-killed-fds-received", Qemu(""), Qemu("inmigrate"), None, ("gone", "inmigrate"), False),
        ("source-killed-fds-received", Qemu(""), Qemu("inmigrate", later="running"), None, ("gone", "running"), False),
        ("source-killed-fds-received", Qemu(""), Qemu("paused", "RESUME"), None, ("gone", "paused"), True),
        ("target-killed-after-resume", Qemu("postmigrate"), Qemu(""), None, ("postmigrate", "gone"), False),
        (
            "target-killed-after-resume",
            Qemu("postmigrate", later="running"),
            Qemu(""),
            None,
            ("running", "gone"),
            False,
        ),
        ("target-killed-after-resume", Qemu("postmigrate", "RESUME"), Qemu(""), 1e-6, ("postmigrate", "gone"), False),
    ],
)
def test_the_qemu_that_a_lost_guest_has_left_gets_time_to_run_it(
    name: str, source: Qemu, target: Qemu, back_ms: float | None, states: tuple[str, str], ran: bool
) -> None:
    found = outcome_of(name, source, target)
    assert found.wait_survivor("completed")[0] == back_ms
    assert ((found.source_state, found.target_state), found.target_ran) == (states, ran)


@pytest.mark.parametrize(
    ("status", "awaited", "error"),
    [
        ("failed", ("failed",), ""),
        ("failed", outcome.ENDED_STATES, ""),
        ("failed", ("completed",), "it is failed: no room"),
        ("active", ("completed",), "it is active"),
    ],
)
def test_the_wait_for_a_migration_ends_when_it_ends(
    monkeypatch: pytest.MonkeyPatch, status: str, awaited: tuple[str, ...], error: str
) -> None:
    seen = Migration(status, "no room")
    monkeypatch.setattr(outcome, "query_migration", lambda _: seen)
    machine = cast(Any, SimpleNamespace(name="source", messages=""))
    if not error:
        assert wait_migration(machine, *awaited) is seen
        return
    with pytest.raises(QemuFailed if status == "failed" else DeadlineExceeded, match=error):
        wait_migration(machine, *awaited, seconds=0.01)


@pytest.mark.parametrize(("events", "status"), [((), "none"), (("MIGRATION",), "failed")], ids=["refused", "failed"])
def test_a_refused_migrate_does_not_end_as_the_migration_before(
    monkeypatch: pytest.MonkeyPatch, events: tuple[str, ...], status: str
) -> None:
    """A source that was a target, or was restored, reports its own incoming migration until it has begun another."""
    monkeypatch.setattr(outcome, "query_migration", lambda _: Migration("failed" if events else "completed", ""))
    found = outcome_of("no-cpr-channel", Qemu("running", *events), Qemu("inmigrate"))
    assert found.wait_migration("no channel", ACTED_NS) == Migration(status, "no channel")


@pytest.mark.parametrize(
    ("name", "off"),
    [
        ("target-killed-loading", ["return-path"]),
        ("cancel-before-switchover", ["return-path", "pause-before-switchover"]),
        ("cpr-garbage", []),
    ],
)
def test_the_next_update_does_not_depend_on_the_fault_before(name: str, off: list[str]) -> None:
    (fault,), seen = faults_named(name), dict[str, bool]()
    source = SimpleNamespace(pid=0, process=SimpleNamespace(poll=lambda: None), set_capabilities=seen.update)
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr("os.kill", lambda *_: None)
        update = SimpleNamespace(source=source, started_target=None, capabilities={"events": True})
        FaultInjection(fault).restore(cast("LiveUpdate", update))
    assert seen == dict.fromkeys(off, False)
