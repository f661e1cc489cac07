"""Announcements have a number and a time; frames of unknown senders, and any while the guest is stopped, are found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from cprlib.evidence.frame_checks import LINK_WATCH_NS, Watched, frame_checks
from cprlib.evidence.records import Check, Outcome
from cprlib.linux.topology import GUEST, STATION
from cprlib.traffic.frames import FrameClass
from cprlib.traffic.other_frames import OtherFrame, other_frame
from cprlib.update.events import Event, Step, Who
from cprlib.update.results import ANNOUNCEMENTS_MS, UpdateResult, announcements_of

from .test_update_checks import GOOD as GOOD_UPDATE

pytestmark = pytest.mark.fast

STOP_MS, RESUME_MS, END_MS = 1000, 1200, 11_300
MS = 1_000_000
UPDATE = replace(
    GOOD_UPDATE,
    events=(
        Event(Step.TARGET_STARTED, 500 * MS, Who.HARNESS),
        Event(Step.STOP, STOP_MS * MS, Who.SOURCE),
        Event(Step.RESUME, RESUME_MS * MS, Who.TARGET),
    ),
)


def rarp(*times_ms: float, sender: str = GUEST.mac) -> tuple[OtherFrame, ...]:
    return tuple(OtherFrame(round(each * MS), sender, FrameClass.RARP, True) for each in times_ms)


def arp(*times_ms: float, sender: str = GUEST.mac) -> tuple[OtherFrame, ...]:
    return tuple(OtherFrame(round(each * MS), sender, FrameClass.ARP, True) for each in times_ms)


ROUNDS = rarp(*(RESUME_MS + each + 1 for each in ANNOUNCEMENTS_MS))
ASKED = arp(1400, 1500, 1700, 2000, 2300)
GOOD = Watched((*ROUNDS, *ASKED), 0, END_MS * MS, 0, (GUEST.mac,), answered=True, guest_announces=True)


def failed(watched: Watched, updates: Sequence[UpdateResult] = (UPDATE,), *, first: bool = True) -> set[str]:
    checks: list[Check] = list(frame_checks(watched, updates, first=first))
    assert all(check.message or check.outcome is not Outcome.FAIL for check in checks)
    return {check.name for check in checks if check.outcome is not Outcome.PASS}


def test_usual_announcements_are_fine() -> None:
    assert failed(GOOD) == set()


def test_failed_update_announces_nothing() -> None:
    assert failed(replace(GOOD, frames=()), (), first=False) == set()
    assert failed(GOOD, (), first=False) == {"only-moves-announced"}
    assert failed(replace(GOOD, other_moves=1), (), first=False) == set()
    assert failed(replace(GOOD, on_request=True), (), first=False) == set()


@pytest.mark.parametrize(
    ("frames", "names"),
    [
        ((*ROUNDS[:4], *ASKED), {"announced-by-qemu"}),
        ((*ROUNDS, *ROUNDS, *ASKED), {"announced-by-qemu"}),
        ((*rarp(900), *ROUNDS, *ASKED), {"announced-by-qemu"}),  # before the hand-over
        ((*rarp(1100), *ROUNDS[1:], *ASKED), {"silent-while-stopped"}),
        ((*ROUNDS, *rarp(1300, sender="52:54:00:75:01:77"), *ASKED), {"announced-by-qemu"}),
        ((*ROUNDS[:4], *rarp(5100), *ASKED), {"announced-by-qemu"}),
        (ROUNDS, {"announced-by-guest"}),
        ((*ROUNDS, *ASKED[:4]), {"announced-by-guest"}),
        ((*ROUNDS, *arp(*range(1300, 1400, 2))), {"announced-by-guest"}),
        ((*ROUNDS, *ASKED, *arp(1100)), {"silent-while-stopped"}),
        ((*ROUNDS, *ASKED, OtherFrame(1300 * MS, GUEST.mac, FrameClass.FOREIGN, False)), {"other-frames-known"}),
        ((*ROUNDS, *ASKED, OtherFrame(1300 * MS, STATION.mac, FrameClass.MLD, False)), {"other-frames-known"}),
        (
            (*ROUNDS, *ASKED, *[OtherFrame(1300 * MS, GUEST.mac, FrameClass.MLD, False)] * 500),
            {"other-frames-known"},
        ),
    ],
)
def test_each_deviation_is_found_by_its_check(frames: tuple[OtherFrame, ...], names: set[str]) -> None:
    assert failed(replace(GOOD, frames=frames)) == names


def test_a_timer_may_be_late_by_what_the_control_run_stood_still() -> None:
    late = replace(GOOD, frames=(*ROUNDS[:4], *rarp(5100), *ASKED))
    assert failed(late) == {"announced-by-qemu"}
    assert failed(replace(late, control_run_ms=2000.0)) == set()
    early_end = replace(GOOD, frames=(*ROUNDS[:4], *ASKED), last_ns=3500 * MS)  # the last round was due at 2000 ms
    assert "announced-by-qemu" in failed(early_end)
    assert "announced-by-qemu" not in failed(replace(early_end, control_run_ms=2000.0))


def test_what_was_not_seen_for_lack_of_time_or_room_is_no_finding() -> None:
    early = replace(GOOD, frames=ROUNDS[:1], last_ns=1300 * MS)
    assert failed(early) == {"announced-by-guest"}
    assert {check.outcome for check in frame_checks(early, (UPDATE,))} == {Outcome.PASS, Outcome.INCONCLUSIVE}
    assert {check.outcome for check in frame_checks(replace(GOOD, dropped=3), (UPDATE,))} == {Outcome.INCONCLUSIVE}


def test_management_may_ask_for_more() -> None:
    assert failed(replace(GOOD, frames=(*GOOD.frames, *rarp(4000, 4050, 4200)), on_request=True)) == set()


def test_a_second_update_ends_the_rounds_of_the_first() -> None:
    events = (Event(Step.STOP, 1700 * MS, Who.SOURCE), Event(Step.RESUME, 1800 * MS, Who.TARGET))
    second = replace(UPDATE, events=events)
    later = rarp(*(1801 + each for each in ANNOUNCEMENTS_MS))
    assert (
        failed(replace(GOOD, frames=(*ROUNDS[:3], *arp(1400), *later, *arp(*range(2100, 2600, 100)))), (UPDATE, second))
        == set()
    )


def test_a_source_announces_its_own_update_also_when_it_has_stopped() -> None:
    events = (Event(Step.STOP, 1600 * MS, Who.SOURCE), Event(Step.RESUME, 1800 * MS, Who.TARGET))
    second = replace(UPDATE, events=events)
    later = (*rarp(*(1801 + each for each in ANNOUNCEMENTS_MS)), *arp(*range(2100, 2600, 100)))
    watched = replace(GOOD, frames=(*ROUNDS[:3], *arp(1400), *ROUNDS[3:4], *later))  # the fourth at 1651 ms
    assert failed(watched, (UPDATE, second)) == set()
    moved = replace(watched, other_moves=1)  # by an update with a fault
    assert failed(moved, (second,), first=False) == set()
    assert "silent-while-stopped" in failed(watched, (second,))
    long_after = replace(UPDATE, events=tuple(replace(event, time_ns=event.time_ns + 5000 * MS) for event in events))
    assert "silent-while-stopped" in failed(replace(watched, frames=rarp(6650)), (UPDATE, long_after))


def test_announcements_before_a_switch_of_the_link_are_not_due() -> None:
    switched = Event(Step.LINK_SWITCHED, (RESUME_MS + 300) * MS - LINK_WATCH_NS, Who.HARNESS)
    update = replace(UPDATE, events=(*UPDATE.events, switched))
    assert failed(replace(GOOD, frames=(*ROUNDS[3:], *ASKED[3:])), (update,)) == set()
    assert failed(replace(GOOD, frames=(*ROUNDS[4:], *ASKED)), (update,)) == {"announced-by-qemu"}


def test_the_first_announcement_is_due_after_a_short_pause() -> None:
    stop = Event(Step.STOP, (RESUME_MS - 10) * MS, Who.SOURCE)
    update = replace(UPDATE, events=(UPDATE.events[0], stop, UPDATE.events[2]))
    assert failed(GOOD, (update,)) == set()
    assert failed(replace(GOOD, frames=(*ROUNDS[1:], *ASKED)), (update,)) == {"announced-by-qemu"}


def test_rounds_are_those_of_the_targets_parameters() -> None:
    names = ("announce-initial", "announce-max", "announce-rounds", "announce-step")
    usual, few, never = (
        announcements_of(dict(zip(names, values, strict=True)))
        for values in ((50, 550, 5, 100), (20, 40, 3, 30), (50, 550, 0, 100))
    )
    assert (usual, few, never) == (ANNOUNCEMENTS_MS, (0, 20, 60), ())
    updates = [replace(UPDATE, announcements_ms=times) for times in (few, never)]
    two, three = (
        replace(GOOD, frames=(*rarp(*(RESUME_MS + each for each in few[:count])), *ASKED)) for count in (2, 3)
    )
    assert [failed(watched, updates[:1]) for watched in (two, three, GOOD)] == [
        {"announced-by-qemu"},
        set(),
        {"announced-by-qemu"},
    ]
    assert [failed(watched, updates[1:]) for watched in (replace(GOOD, frames=()), two)] == [
        set(),
        {"announced-by-qemu"},
    ]


def test_a_gratuitous_arp_is_no_request() -> None:
    head = bytes.fromhex("ffffffffffff" + GUEST.mac.replace(":", "") + "0806" + "0001080006040001")
    mac, address, other = bytes(6), bytes((10, 75, 0, 2)), bytes((10, 75, 0, 1))
    assert other_frame(5, head + mac + address + mac + address).announces
    assert not other_frame(5, head + mac + address + mac + other).announces
    assert other_frame(5, head + mac + address + mac + other).sender == GUEST.mac
