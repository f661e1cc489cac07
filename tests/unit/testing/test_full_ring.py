"""A ring that is full: packets that wait for it, also with the options of a run; frames that wait in QEMU."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import full_ring
import full_send_buffer
from cprlib.evidence.case import CaseEvidence
from cprlib.evidence.records import Outcome, Role
from cprlib.linux.descriptors import DescriptorTable
from cprlib.qemu.nic_state import RING_PACKED
from cprlib.testing.checks import CaseChecks
from cprlib.testing.measured_case import MeasuredCase
from cprlib.testing.parameters import SuiteParameters
from cprlib.traffic.flow import PortAllocator
from cprlib.update.events import Step
from cprlib.update.mechanism import Mechanism
from cprlib.verdict.judge import judge
from cprlib.verdict.policy_file import load_policy

pytestmark = pytest.mark.fast
RESUME_NS = 100


def updated_case(folder: Path) -> CaseChecks:
    return CaseChecks(folder, CaseEvidence("x", Mechanism.CPR, Role.CHECKS, updates=1))


def test_a_packed_ring_whose_buffers_qemu_does_not_report_is_not_filled(tmp_path: Path) -> None:
    case: Any = updated_case(tmp_path)
    nic = SimpleNamespace(agreed_on=lambda feature: feature == RING_PACKED)
    agent = SimpleNamespace(network=lambda: SimpleNamespace(nic=lambda: nic))
    case.guest = SimpleNamespace(agent=agent, machine=SimpleNamespace(qmp=None))
    full_ring.fill_ring(case, pair=1)
    (check,) = case.evidence.checks
    assert (check.name, check.outcome) == ("ring-full", Outcome.SKIP)
    case.expect("answers", True, "x", "x")
    assert judge(case.evidence, load_policy("default")).outcome is Outcome.PASS


@pytest.mark.parametrize(("queue_length", "waiting"), [(5000, 200), (399, 199), (100, 50), (1, 1)])
def test_no_more_packets_wait_than_the_taps_queue_keeps(queue_length: int, waiting: int) -> None:
    assert full_ring.waiting_packets(SuiteParameters(queue_length=queue_length)) == waiting


@pytest.mark.parametrize(("mtu", "size"), [(9000, 1400), (1500, 1400), (1427, 1399), (1280, 1252)])
def test_a_segment_fits_the_mtu_and_a_packet_is_larger_than_a_page(mtu: int, size: int) -> None:
    assert full_ring.datagram_bytes(SuiteParameters(mtu=mtu)) == size
    assert size * full_ring.DATAGRAMS > full_ring.PAGE


def session_of(answers: int) -> SimpleNamespace:
    """A session of two packets; the answer to one of them arrives before the RESUME of an update.

    :param answers: that arrived before the update.
    """
    flow = SimpleNamespace(returned_ns=(RESUME_NS - 1, RESUME_NS + 1), missing=(), answers=2)
    return SimpleNamespace(
        **dict.fromkeys(("wait_sent", "wait_for_answers", "finish"), lambda *_: None),
        progress=lambda: SimpleNamespace(sent=2, answers=answers),
        result=lambda: SimpleNamespace(sent=2, lost=0, flows=[flow]),
    )


@pytest.mark.parametrize(
    ("answers", "outcomes"),
    [
        (0, {"send-buffer-full": Outcome.PASS, "none-sent-while-stopped": Outcome.FAIL}),
        (1, {"send-buffer-full": Outcome.INCONCLUSIVE}),
    ],
    ids=["sent by a stopped source", "sent before the update"],
)
def test_a_source_is_accused_only_where_all_answers_waited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: int, outcomes: dict[str, Outcome]
) -> None:
    case: Any = updated_case(tmp_path)
    agent = SimpleNamespace(reset_reflector=lambda: None, reflector=lambda: SimpleNamespace(reflected=2))
    updates = list[SimpleNamespace]()
    topology, machine = SimpleNamespace(station=None), SimpleNamespace(pid=0)
    case.guest = SimpleNamespace(agent=agent, topology=topology, machine=machine, updates=updates)
    case.ports = PortAllocator()
    monkeypatch.setattr(full_send_buffer, "warm_up", lambda *_: None)
    monkeypatch.setattr(full_send_buffer, "read_table", lambda pid: DescriptorTable(pid, ()))
    monkeypatch.setattr(full_send_buffer, "TrafficSession", lambda *_, **__: nullcontext(session_of(answers)))
    with full_send_buffer.full_send_buffer(case, cast("Any", SimpleNamespace(disarm=lambda: None)), "across-an-update"):
        updates.append(SimpleNamespace(times_ns={Step.RESUME: RESUME_NS}))
    found = {check.name.removesuffix("-across-an-update"): check.outcome for check in case.evidence.checks}
    assert found == outcomes | {"answers-arrive": Outcome.PASS}


@pytest.mark.parametrize(
    ("later", "outcome"),
    [([5, 4, 5], Outcome.PASS), ([5] * 999, Outcome.FAIL)],
    ids=["the guest counts later, and sends another", "a copy"],
)
def test_frames_are_counted_once_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, later: list[int], outcome: Outcome
) -> None:
    counts = iter(later)
    monkeypatch.setattr(full_send_buffer, "ARRIVE_S", 0.1)
    monkeypatch.setattr(full_send_buffer, "_wait_settled", lambda _: 4)
    monkeypatch.setattr(full_send_buffer, "_frames_beyond", lambda _: next(counts))
    case = updated_case(tmp_path)
    with full_send_buffer.each_frame_once(cast("MeasuredCase", case), "across-a-pause"):
        pass
    (check,) = case.evidence.checks
    assert (check.name, check.outcome) == ("each-frame-once-across-a-pause", outcome)
