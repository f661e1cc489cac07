"""Flows are chosen so that each queue has one; the guest is a stand-in that hashes ports as it likes."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cprlib.evidence.guest_checks import queue_use_check
from cprlib.evidence.records import Outcome, QueueShare
from cprlib.guest.agent import AgentConnection
from cprlib.qemu.nic_state import RSS
from cprlib.traffic.flow import Flow, flows_between
from cprlib.update import guest_traffic

pytestmark = pytest.mark.fast


@dataclass
class HashingGuest:
    """Puts a flow's answers into the queue that ``queue_of`` says; reports them unless ``silent``.

    Its packets come by the same queue, or by the one that ``received_by`` says, as with receive-side scaling.
    """

    channels: int
    queue_of: Any
    silent: bool = False
    received_by: Any = None
    packets: dict[str, int] = field(default_factory=dict)
    warmed: list[int] = field(default_factory=list)

    def warm_up(self, _station: object, flows: list[Flow], _deadline: object) -> None:
        for flow in flows:
            self.warmed.append(flow.source_port)
            received_by = self.received_by or self.queue_of
            for name in (f"tx{self.queue_of(flow.source_port)}", f"rx{received_by(flow.source_port)}"):
                self.packets[name] = self.packets.get(name, 0) + 4
            self.packets["tx0"] = self.packets.get("tx0", 0) + 1  # of another process

    def nic(self) -> SimpleNamespace:
        names = [] if self.silent else [f"{way}{n}" for n in range(self.channels) for way in ("rx", "tx")]
        known = {name: self.packets.get(name, 0) for name in names}
        return SimpleNamespace(channels=self.channels, queue_packets=known)

    @property
    def running(self) -> Any:
        agent = SimpleNamespace(network=lambda: SimpleNamespace(nic=self.nic))
        return SimpleNamespace(topology=SimpleNamespace(station=None), agent=agent)


def choose(monkeypatch: pytest.MonkeyPatch, guest: HashingGuest, wanted: int) -> list[int]:
    monkeypatch.setattr(guest_traffic, "warm_up", guest.warm_up)
    flows = guest_traffic.flows_on_every_queue(guest.running, flows_between(count=48, first_port=20000), wanted)
    return [flow.source_port for flow in flows]


def test_one_flow_for_each_queue_is_found_and_warmed_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    queues = {20000: 1, 20001: 1, 20002: 3, 20003: 0, 20004: 3, 20005: 2}
    guest = HashingGuest(4, lambda port: queues.get(port, 0))
    assert choose(monkeypatch, guest, 4) == [20000, 20002, 20003, 20005]
    assert guest.warmed[-4:] == [20000, 20002, 20003, 20005]


def test_a_flow_whose_packets_and_answers_have_the_same_queue_pair_is_preferred(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise a queue may get no packets, and a full ring of one queue keeps QEMU from reading another of the tap."""
    guest = HashingGuest(2, lambda port: port % 2, received_by=lambda port: port // 4 % 2)
    assert choose(monkeypatch, guest, 2) == [20000, 20005]
    other_ways = HashingGuest(2, lambda port: port % 2, received_by=lambda port: 1 - port % 2)
    assert choose(monkeypatch, other_ways, 2) == [20000, 20001]


@pytest.mark.parametrize("has_rss", [True, False])
def test_receive_side_scaling_gets_a_key_that_spreads_flows(has_rss: bool) -> None:
    nic, keys = SimpleNamespace(agreed_on=lambda feature: has_rss and feature == RSS), list[str]()
    agent = SimpleNamespace(network=lambda: SimpleNamespace(nic=lambda: nic), set_rss=keys.append)
    guest_traffic.spread_flows(cast("AgentConnection", agent))
    assert keys == [guest_traffic.SPREADING_KEY] * has_rss


def test_a_queue_that_is_never_hit_does_not_keep_the_others_from_being_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen = choose(monkeypatch, HashingGuest(4, lambda _port: 2), 4)
    assert len(chosen) == len(set(chosen)) == 4


def test_fewer_queues_in_use_than_wanted_still_give_the_wanted_number(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = choose(monkeypatch, HashingGuest(2, lambda port: port % 2), 4)
    assert len(chosen) == 4


def test_a_guest_that_does_not_tell_queues_apart_gets_the_first_flows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose(monkeypatch, HashingGuest(4, lambda _port: 0, silent=True), 4) == [20000, 20001, 20002, 20003]


@pytest.mark.parametrize(
    ("shares", "outcome"),
    [
        ((QueueShare(0, 5, 5), QueueShare(1, 5, 5)), Outcome.PASS),
        ((QueueShare(0, 5, 5), QueueShare(1, 0, 5)), Outcome.INCONCLUSIVE),
        ((QueueShare(0, 5, 5), QueueShare(1, 5, None)), Outcome.INCONCLUSIVE),
        ((), Outcome.INCONCLUSIVE),
    ],
)
def test_an_idle_queue_is_no_pass(shares: tuple[QueueShare, ...], outcome: Outcome) -> None:
    assert queue_use_check(shares, 2).outcome is outcome
