"""Figures of a stream that starts in the guest, by its log and the station's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

import background_traffic
from background_traffic import measure_guest_stream
from cprlib.guest.agent import AgentConnection
from cprlib.traffic.figures import PerDirection
from cprlib.traffic.packet_records import Reflection

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
