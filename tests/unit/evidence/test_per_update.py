"""A stream with several updates is divided halfway between them, without a gap."""

from __future__ import annotations

import pytest

from cprlib.evidence.repeated_updates import borders, parts_of
from cprlib.traffic.figures import PerDirection
from cprlib.traffic.ledger import GuestStop
from cprlib.traffic.result import TrafficResult
from tests.unit.traffic.test_result import PERIOD, START, result_of, simulate

pytestmark = pytest.mark.fast


def at(packet: int) -> int:
    return START + packet * PERIOD


def stream(packets: int, lost: set[int], late: dict[int, int]) -> TrafficResult:
    """``late`` maps packets to their delay on the way to the reflector, in ns."""
    world = simulate([([] if n in lost else [late.get(n, 10_000)], [10_000], [10_000]) for n in range(packets)])
    return result_of(world, world.log)


def test_borders_are_halfway_and_leave_nothing_out() -> None:
    updates = [GuestStop(100, 200, 1), GuestStop(400, 500, 2), GuestStop(900, None, 3), GuestStop(1000, 1100, 4)]
    found = borders(updates)
    assert [first for first, _ in found] == [0, 300, 700, 950]
    assert [last for _, last in found][:3] == [300, 700, 950]


def test_each_update_has_its_own_interruption_and_loss() -> None:
    """Packets 100 to 119 wait for 20 ms down to 1 ms; 300 to 309 for up to 10 ms, and 305 is lost."""
    late = {100 + n: (20 - n) * PERIOD for n in range(20)} | {300 + n: (10 - n) * PERIOD for n in range(10)}
    result = stream(400, {305}, late)
    updates = [GuestStop(at(100), at(120), 1), GuestStop(at(300), at(310), 2)]
    first, second = parts_of(result, updates)
    assert (first.sent or 0) + (second.sent or 0) == 400
    assert (first.loss.forward, second.loss.forward) == (0, 1)
    assert (first.loss.return_, second.loss.return_) == (0, 0)
    assert first.interruption.forward.high_ms is not None
    assert 19 <= first.interruption.forward.high_ms <= 22
    assert second.interruption.forward.high_ms is not None
    assert 9 <= second.interruption.forward.high_ms <= 12
    assert second.interruption.forward.frame_loss_ms == 1
    assert result.interruption.forward.high_ms == first.interruption.forward.high_ms  # the longest of all


def test_each_update_has_its_own_copies_and_late_packets() -> None:
    """Packet 100 comes twice, the answer to 310 after that to 311."""
    network: list[tuple[list[int], list[int], list[int]]] = [([10_000], [10_000], [10_000]) for _ in range(400)]
    network[100] = ([10_000, 20_000], [10_000], [10_000])
    network[310] = ([10_000], [10_000 + 2 * PERIOD], [10_000])
    world = simulate(network)
    parts = parts_of(result_of(world, world.log), [GuestStop(at(100), at(120), 1), GuestStop(at(300), at(310), 2)])
    assert [part.duplicates for part in parts] == [PerDirection(1, 0), PerDirection(0, 0)]
    assert [part.reordered for part in parts] == [PerDirection(0, 0), PerDirection(0, 1)]


def test_time_to_traffic_is_from_resume_to_the_first_answer_after_it() -> None:
    late = {100 + n: (20 - n) * PERIOD for n in range(20)}  # held until packet 120 is sent, 5 ms after RESUME
    resumes = (GuestStop(at(100), at(115), 1), GuestStop(at(300), None, 2))
    first, second = parts_of(stream(400, set(), late), resumes)
    assert first.traffic_after_ms is not None
    assert 5 <= first.traffic_after_ms <= 6
    assert second.traffic_after_ms is None


def test_without_a_log_the_copies_of_an_update_are_unknown() -> None:
    world = simulate([([10_000], [10_000], [10_000])] * 40)
    part = parts_of(result_of(world, None), [GuestStop(at(10), at(20), 1)])[0]
    assert (part.duplicates, part.reordered) == (PerDirection(), PerDirection())


def test_without_updates_there_are_no_parts() -> None:
    assert parts_of(stream(10, set(), {}), ()) == ()
