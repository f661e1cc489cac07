"""Single packets that are lost or slow, and a QEMU that is busy at rest, are found relative to before the update."""

from __future__ import annotations

import contextlib
import os
from types import SimpleNamespace
from typing import cast

import pytest

from cprlib.deadline import Deadline
from cprlib.evidence.records import Outcome
from cprlib.guest.agent import AgentConnection
from cprlib.linux.namespace import NetworkNamespace
from cprlib.linux.procfs import task_use, use_between
from cprlib.testing import idle_nic
from cprlib.testing.idle_nic import (
    Delays,
    IdleLoad,
    idle_checks,
    measure_idle_load,
    single_packets_check,
    time_single_packets,
)

pytestmark = pytest.mark.fast

BEFORE: Delays = {"a": 4.0, "b": 6.0}


@pytest.mark.parametrize(
    ("before", "after", "outcome"),
    [
        (BEFORE, {"a": 30.0, "b": 5.0}, Outcome.PASS),
        (BEFORE, {"a": 400.0, "b": 5.0}, Outcome.FAIL),
        (BEFORE, {"a": None, "b": 5.0}, Outcome.FAIL),
        ({"a": 4.0, "b": 200.0}, {"a": 900.0, "b": 200.0}, Outcome.FAIL),  # a slow flow hides no other
        ({"a": None, "b": 6.0}, {"a": None, "b": 5.0}, Outcome.INCONCLUSIVE),
        ({"a": 6000.0, "b": 6.0}, {"a": 6000.0, "b": 5.0}, Outcome.INCONCLUSIVE),
    ],
)
def test_single_packets(before: Delays, after: Delays, outcome: Outcome) -> None:
    assert single_packets_check(before, after).outcome is outcome


@pytest.mark.parametrize(
    ("before", "delays", "shortest", "sent"),
    [
        (None, [8.0], 8.0, 1),
        (None, [420.0, 5.0], 5.0, 2),  # a burst of the host's load
        (None, [420.0, 400.0, 410.0], 400.0, 3),
        (None, [420.0, None, None, None], None, 4),
        (4.0, [420.0] * 5 + [310.0], 310.0, 6),
        (4.0, [420.0] * 10, 420.0, 10),  # a defect delays each
        (4.0, [9000.0, 5.0, 6.0, 7.0], 5.0, 4),  # the guest stood still
        (4.0, [None, 5.0, 6.0, 7.0], 5.0, 4),  # for longer than a packet is waited for
        (4.0, [None, 8.0] * 5, None, 5),  # each second one is stuck until another packet comes
        (4.0, [None, 9000.0, 8.0, None, 8.0, 9.0, None], None, 7),
        (4.0, [6000.0, 8.0] * 5, 6000.0, 10),  # each second one is stuck until another packet comes
    ],
)
def test_slow_packets_of_the_guest_are_sent_again(
    before: float | None,
    delays: list[float | None],
    shortest: float | None,
    sent: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    requests: list[str] = []
    sizes: list[int] = []

    def start_stream(*_: object, source_port: int, size: int, **_others: object) -> None:
        requests.append(f"send from {source_port}")
        sizes.append(size)

    agent = SimpleNamespace(start_stream=start_stream, reset_streams=lambda: requests.append("reset"))
    now_ns, remaining = 1_000_000_000, iter(delays)

    class Arrivals:
        port = 9

        def __init__(self, *_: object) -> None: ...

        def __enter__(self) -> Arrivals:
            return self

        def __exit__(self, *_: object) -> None: ...

        def wait(self, _: object, size: int) -> int | None:
            assert sizes[-1:] == [size]
            return None if (delay := next(remaining)) is None else now_ns + int(delay * 1e6)

    monkeypatch.setattr(idle_nic, "Listener", Arrivals)
    monkeypatch.setattr("cprlib.testing.idle_nic.time.time_ns", lambda: now_ns)
    title = "from the guest's port 7000"
    earlier = None if before is None else {title: before}
    found = time_single_packets(cast("NetworkNamespace", None), cast("AgentConnection", agent), (), (7000,), earlier)
    assert found == {title: shortest}
    assert requests == ["send from 7000", "reset"] * sent
    assert len(set(sizes)) == sent  # a packet that comes too late is not taken for a later one


def test_the_first_queue_with_a_defect_is_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each lost packet takes 15 s: the time of the test must not end before the check is made."""
    agent = SimpleNamespace(start_stream=lambda *_, **__: None, reset_streams=lambda: None)
    listener = SimpleNamespace(port=9, wait=lambda *_: None)
    monkeypatch.setattr(idle_nic, "Listener", lambda *_: contextlib.nullcontext(listener))
    station = cast("NetworkNamespace", None)
    earlier = {f"from the guest's port {port}": 4.0 for port in (7000, 7001)}
    found = time_single_packets(station, cast("AgentConnection", agent), (), (7000, 7001), earlier)
    assert found == {"from the guest's port 7000": None}
    assert single_packets_check(earlier, found).outcome is Outcome.FAIL


def test_rest() -> None:
    before = IdleLoad(0.02, 120, 6)
    for after, failed in (
        (IdleLoad(0.08, 300, 40), []),
        (IdleLoad(0.8, 120, 6), ["processor-time-at-rest"]),
        (IdleLoad(0.02, 10_000, 6), ["context-switches-at-rest"]),
        (IdleLoad(0.02, 120, 1000), ["interrupts-at-rest"]),
    ):
        assert [check.name for check in idle_checks(before, after) if check.outcome is Outcome.FAIL] == failed


@pytest.mark.parametrize(
    ("used", "processors", "periods"),
    [
        ([0.7, 0.02, 0.03], 0.02, 3),  # a burst
        ([0.7, 0.9, 0.8, 0.02], 0.02, 4),  # work from before that ends
        ([0.7] * 15, 0.7, 15),  # busy for ever
    ],
)
def test_lowest_figures_of_a_rest_count(
    used: list[float], processors: float, periods: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    remaining = iter(used)

    def watch_period(pid: int, _: AgentConnection) -> IdleLoad:
        seen.append(pid)
        return IdleLoad(next(remaining), 100, 5)

    monkeypatch.setattr(idle_nic, "_watch_period", watch_period)
    agent = cast("AgentConnection", None)
    assert (measure_idle_load(7, agent).processors, len(seen)) == (processors, periods)


def test_processor_time_of_a_process_rises() -> None:
    first = task_use(os.getpid())

    def risen() -> bool:  # the kernel counts at its ticks
        sum(range(300_000))
        return use_between(first, task_use(os.getpid())).run_ns > 0

    assert Deadline(10, "the processor time to rise").poll(risen, 0)
