"""Figures of a stream that starts in the guest, by its log and the station's."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import cast

import pytest

import background_traffic
from background_traffic import measure_guest_stream
from cprlib.evidence.records import Stream
from cprlib.guest.agent import AgentConnection
from cprlib.guest.packet_log import LAYOUT, PacketLog, RecordKind
from cprlib.guest.replies import SenderStream
from cprlib.testing.measured_case import MeasuredCase
from cprlib.traffic.figures import PerDirection
from cprlib.traffic.packet_records import Reflection
from cprlib.traffic.station_endpoints import ReflectorLog

pytestmark = pytest.mark.fast


class LateAgent:
    """An agent whose streams get one more answer whenever it is asked, up to a number."""

    def __init__(self, answers: int) -> None:
        self.answers = iter([*range(answers), *[answers] * 9999])

    def streams(self) -> tuple[SimpleNamespace, ...]:
        return (SimpleNamespace(sent=100, answers=100), SimpleNamespace(sent=20, answers=next(self.answers)))


@pytest.mark.parametrize("answers", [12, 20])
def test_late_answers_are_awaited_as_long_as_some_arrive(answers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background_traffic, "POLL_S", 0.02)
    monkeypatch.setattr(background_traffic, "QUIET_S", 0.1)
    counters = background_traffic._final_counters(cast("AgentConnection", LateAgent(answers)))
    assert counters[1].answers == answers


def test_a_stream_from_the_guest_is_measured_at_the_station() -> None:
    sent = [1000 * number for number in range(6)]
    stop = 50_000
    log = [Reflection(s, r, sent[s] + (stop if s >= 3 else 0), 0, "fd75::2", 1) for r, s in enumerate([0, 2, 1, 3, 5])]
    stream = measure_guest_stream(sent, [(0, 0), (2, 1), (2, 1), (3, 3), (5, 4)], log)
    assert (stream.missing_forward, stream.missing_return) == ((4,), (1,))
    assert (stream.duplicates, stream.reordered) == (PerDirection(0, 1), PerDirection(1, 0))
    assert stream.interruption is not None
    assert stream.interruption.low_ns <= stop + 1000 <= stream.interruption.high_ns + 1000


@pytest.mark.parametrize(
    ("missing", "dropped", "unlogged", "lost"),
    [(0, 0, 0, 0), (2, 0, 0, 2), (2, 2, 0, None), (2, 1, 0, 1), (2, 0, 1, None)],
    ids=["good", "lost", "dropped by a socket", "one dropped of two", "incomplete log"],
)
def test_what_the_own_sockets_dropped_is_no_loss(missing: int, dropped: int, unlogged: int, lost: int | None) -> None:
    sent = 6
    packets = b"".join(LAYOUT.pack(n, 0, n, 0, 0, 0, 44, 0, RecordKind.SENT) for n in range(sent - unlogged))
    arrived = range(sent - missing)
    answers = b"".join(LAYOUT.pack(n, n, n, 0, 0, 0, 44, 0, RecordKind.ANSWER) for n in arrived)
    agent = SimpleNamespace(sender_log=lambda: PacketLog(packets + answers, 0))
    streams: list[Stream] = []
    case = SimpleNamespace(
        guest=SimpleNamespace(agent=agent),
        parameters=SimpleNamespace(rate=1000),
        add_stream=lambda stream, _check: streams.append(stream),
    )
    counters = [cast("SenderStream", SimpleNamespace(sent=sent, source_port=9, socket_drops=-1))]
    reflector = ReflectorLog(tuple(Reflection(n, n, n, n, "fd75::2", 9) for n in arrived), dropped, {})
    plans = [(background_traffic.GUEST_STREAMS[0], 0)]
    background_traffic._add_streams(cast("MeasuredCase", case), plans, counters, reflector)
    assert streams[0].lost == lost


def test_tcp_has_time_for_its_next_try_after_a_long_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its time-out doubles: after a pause of 26 s the next try comes up to 26 s later."""
    waits: list[float] = []
    station = SimpleNamespace(finish=lambda *given: waits.append(given[1]), reflections=lambda: None)
    agent = SimpleNamespace(
        stop_tcp=lambda _: None,
        stop_stream=lambda _: None,
        finished_tcp=lambda *given: waits.append(given[1].seconds),
    )
    stand_ins: dict[str, Callable[..., object]] = {
        "StationEndpoints": lambda *_: nullcontext(station),
        "_start": lambda *_: 0,
        "_carries": lambda *_: False,
        "_connect": lambda *_: (0, 0),
        "_final_counters": lambda _: (),
        "_add_connection": lambda *_: None,
        "_add_streams": lambda *_: None,
    }
    for name, value in stand_ins.items():
        monkeypatch.setattr(background_traffic, name, value)
    update = SimpleNamespace(pause_ns=26_000_000_000)
    topology = SimpleNamespace(station=SimpleNamespace(entered=nullcontext))
    guest = SimpleNamespace(agent=agent, topology=topology, updates=[SimpleNamespace(pause_ns=None), update])
    case = SimpleNamespace(guest=guest, parameters=SimpleNamespace(ip_version=4))
    with background_traffic.background_traffic(cast("MeasuredCase", case)):
        pass
    assert len(waits) == 4
    assert min(waits) > 2 * 26
