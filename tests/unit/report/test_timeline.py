"""The timeline: it has every packet, distinguishes lost ones, and is drawn without a display."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import pytest

from cprlib.evidence.case import Packets
from cprlib.report.timeline import draw, event_times, tracks
from cprlib.update.events import Event, Step, Who
from tests.unit.evidence.samples import MS, START_NS, good_case

pytestmark = pytest.mark.pictures


def test_lost_packets_belong_to_the_direction_that_lost_them() -> None:
    packets = Packets(START_NS, (0, 1000, 2000, 3000), (300, None, 2300, None), (600, None, None, 3600))
    forward, back = tracks(packets, START_NS)
    assert forward.lost == [1.0]
    assert back.lost == [2.3]
    assert forward.delay == [0.3, 0.3]
    assert back.arrived == [0.6]


def test_events_are_those_of_source_and_target() -> None:
    case = replace(
        good_case(),
        timeline=(
            Event(Step.STOP, START_NS + 9 * MS, Who.TARGET),
            Event(Step.STOP, START_NS, Who.SOURCE),
            Event(Step.RESUME, START_NS + 5 * MS, Who.TARGET),
        ),
    )
    assert event_times(case) == {Step.STOP: START_NS, Step.RESUME: START_NS + 5 * MS}
    failed = (Event(Step.STOP, START_NS - 9 * MS, Who.SOURCE), Event(Step.FDS_SENT, START_NS - 8 * MS, Who.SOURCE))
    assert event_times(replace(case, timeline=failed)) == {event.name: event.time_ns for event in failed}
    after_it = replace(case, timeline=(*failed, *case.timeline, Event(Step.STOP, START_NS + 20 * MS, Who.SOURCE)))
    assert event_times(after_it)[Step.STOP] == START_NS


@pytest.mark.parametrize("count", [1, 2, 500])
@pytest.mark.parametrize("events", [True, False])
def test_picture_is_well_formed(count: int, events: bool) -> None:
    case = good_case() if events else replace(good_case(), timeline=())
    sent = [START_NS + 2_900 * MS + number * MS for number in range(count)]
    packets = Packets.from_ns(sent, [moment + MS for moment in sent], [moment + 2 * MS for moment in sent])
    root = ElementTree.fromstring(draw(case, packets))  # noqa: S314 - our own output
    assert root.tag.endswith("svg")


def test_events_far_from_the_packets_do_not_enlarge_the_picture() -> None:
    sent = [START_NS + number * MS for number in range(10)]
    far = Event(Step.STOP, START_NS + 10**16, Who.SOURCE)
    picture = draw(replace(good_case(), timeline=(far,)), Packets.from_ns(sent, sent, sent))
    assert len(picture) < 500_000


def test_picture_of_losses_only() -> None:
    packets = Packets(START_NS, (0, 1000), (None, None), (None, None))
    assert "<svg" in draw(good_case(), packets)
