"""Hand-made frames have the headers that their names say; frames that are missing or copied are found by number."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q, Ether

from cprlib.evidence.case import CaseEvidence
from cprlib.evidence.records import Outcome, Role
from cprlib.linux.topology import GUEST, STATION
from cprlib.testing import nic_frames
from cprlib.testing.checks import CaseChecks
from cprlib.testing.measured_case import MeasuredCase
from cprlib.testing.nic_frames import (
    EXPERIMENTAL,
    TRIES,
    UNUSED_IPV4,
    UNUSED_IPV6,
    WrongCount,
    expect_same_queues_of_flows,
    flow_frame,
    frame,
    queues_of_flows,
    received_kinds,
)
from cprlib.update.mechanism import Mechanism
from cprlib.update.running_guest import RunningGuest
from nic_operations import change_rss
from operated_guest import OperatedGuest

pytestmark = pytest.mark.fast


def test_frame_without_and_with_vlan() -> None:
    plain = Ether(frame("01:00:5e:75:75:75"))
    assert (plain.dst, plain.src, plain.type) == ("01:00:5e:75:75:75", STATION.mac, EXPERIMENTAL)
    tagged = Ether(frame(GUEST.mac, vlan=5))
    assert (tagged[Dot1Q].vlan, tagged[Dot1Q].type) == (5, EXPERIMENTAL)
    assert len(frame(GUEST.mac)) >= 60


def test_a_flow_frame_is_a_valid_packet_to_an_unused_address() -> None:
    packet = Ether(flow_frame(30001))
    assert (packet.dst, packet[IP].dst, packet[UDP].sport) == (GUEST.mac, UNUSED_IPV4, 30001)
    checksum = packet[IP].chksum
    del packet[IP].chksum
    assert Ether(packet.build())[IP].chksum == checksum
    assert packet[IP].len == len(packet[IP])


def test_a_flow_frame_over_ipv6_has_the_same_ports() -> None:
    packet = Ether(flow_frame(30001, ipv6=True))
    assert (packet.dst, packet[IPv6].dst, packet[UDP].sport) == (GUEST.mac, UNUSED_IPV6, 30001)
    assert packet[IPv6].plen == len(packet[UDP])


class Guest:
    """A guest with one queue, and an agent.

    :param arrive: how many frames it receives of those that are sent, in each try.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *arrive: Callable[[int], int]) -> None:
        self.received, self.tries = 0, 0
        self.agent = SimpleNamespace(network=self._network, set_rss=lambda *_: None)
        self._arrive = arrive
        monkeypatch.setattr(nic_frames, "send_frames", self._send)
        monkeypatch.setattr(nic_frames, "ARRIVE_S", 0.01)
        monkeypatch.setattr(nic_frames, "SILENCE_S", 0.0)

    def _send(self, _guest: object, frames: Sequence[bytes]) -> None:
        self.received += self._arrive[min(self.tries, len(self._arrive) - 1)](len(frames))
        self.tries += 1

    def _network(self) -> SimpleNamespace:
        nic = SimpleNamespace(counters={"rx_packets": self.received}, queue_packets={"rx0": self.received})
        return SimpleNamespace(nic=lambda: nic)

    @property
    def running(self) -> RunningGuest:
        return cast(RunningGuest, self)


def all_of(sent: int) -> int:
    return sent


def test_frames_of_others_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """One frame more in the first tries: it is not the second kind, and no copy."""
    kinds = {"mine": frame(GUEST.mac), "foreign": frame("52:54:00:75:ff:ff")}
    for wrong, right in ((lambda _: 2, lambda _: 1), (lambda _: 4, lambda _: 1)):
        guest = Guest(monkeypatch, wrong, right)
        assert received_kinds(guest.running, kinds, ["mine"]) == frozenset({"mine"})
        assert guest.tries == 2
    guest = Guest(monkeypatch, lambda sent: sent + 1, all_of)
    assert queues_of_flows(guest.running) == {0: tuple(range(30_000, 30_006))}


def test_missing_frames_are_counted_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    guest = Guest(monkeypatch, lambda sent: sent - 3, all_of)
    assert queues_of_flows(guest.running) == WrongCount(60, 63)
    kinds = {"a": frame(GUEST.mac), "b": frame(GUEST.mac)}
    assert received_kinds(Guest(monkeypatch, lambda _: 2, all_of).running, kinds, ["a", "b"]) == frozenset({"b"})


def test_copies_are_counted_when_they_come_in_each_try(monkeypatch: pytest.MonkeyPatch) -> None:
    guest = Guest(monkeypatch, lambda sent: 2 * sent)
    found = received_kinds(guest.running, {"mine": frame(GUEST.mac)}, ["mine"])
    assert (found, guest.tries) == (WrongCount(2, 1), TRIES)
    assert str(found) == "the guest received 2 of 1 frames, too many in each of 5 tries"


def test_frames_that_must_not_arrive_may_arrive_late(monkeypatch: pytest.MonkeyPatch) -> None:
    guest, looks = Guest(monkeypatch, lambda _: 0), itertools.count()

    def network() -> SimpleNamespace:
        count = (next(looks) + 2) // 5  # of the five looks of each try, the last two are late enough
        return SimpleNamespace(nic=lambda: SimpleNamespace(counters={"rx_packets": count}))

    guest.agent.network = network
    assert received_kinds(guest.running, {"mine": frame(GUEST.mac)}, []) == frozenset({"mine"})


def test_an_operation_fails_when_frames_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not inconclusive: queues that no longer deliver are what the operation is for."""
    guest = Guest(monkeypatch, all_of, lambda sent: sent - 3)
    settings = SimpleNamespace(key="00", table=(1,))
    guest.agent.rss = lambda: settings
    operated = cast(OperatedGuest, SimpleNamespace(agent=guest.agent, used=2, running_guest=guest))
    assert "with queue 1 in the whole table, the guest received 60 of 63 frames" in change_rss(operated)


@pytest.mark.parametrize(
    ("arrive", "outcome"),
    [
        ([all_of], Outcome.PASS),
        ([all_of, lambda sent: sent - 3], Outcome.FAIL),
        ([lambda sent: sent - 3, all_of], Outcome.INCONCLUSIVE),
    ],
)
def test_queues_of_flows_before_and_after(
    arrive: list[Callable[[int], int]], outcome: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = Guest(monkeypatch, *arrive)
    checks = CaseChecks(tmp_path, CaseEvidence("x", Mechanism.CPR, Role.CHECKS, updates=1))
    checks.guest = guest  # type: ignore[attr-defined]
    before = queues_of_flows(guest.running)
    expect_same_queues_of_flows(cast(MeasuredCase, checks), before, "queue-order", "queues were swapped")
    assert [check.outcome for check in checks.evidence.checks] == [outcome]
