"""Evidence survives being written and read, and what is no evidence is refused with the place named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cprlib.codec import BadValue
from cprlib.errors import InstrumentError
from cprlib.evidence.case import CaseEvidence, Packets
from cprlib.traffic.figures import PerDirection
from cprlib.update.mechanism import Mechanism
from tests.unit.evidence.samples import good_case

pytestmark = pytest.mark.fast


def test_written_evidence_reads_back_equal(tmp_path: Path) -> None:
    case = good_case()
    case.write(tmp_path)
    assert CaseEvidence.read(tmp_path) == case


def test_least_evidence_reads_back_equal() -> None:
    case = CaseEvidence("x", Mechanism.NONE)
    assert CaseEvidence.from_json(json.loads(json.dumps(case.to_json()))) == case


def test_return_direction_is_named_return_in_json() -> None:
    assert good_case().to_json()["loss"] == {"forward": 0, "return": 0}


def test_unknown_members_are_left_for_newer_readers() -> None:
    value = good_case().to_json() | {"colour_of_the_rack": "grey"}
    assert CaseEvidence.from_json(value) == good_case()


IMPOSSIBLE = {"name": "x", "phase": "mode set", "actor": "management", "action": "garbage on the cpr channel"}


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"sent": "many"}, "sent"),
        ({"sent": True}, "sent"),
        ({"sent": 1.5}, "sent"),
        ({"loss": {"forward": "0", "return": 0}}, "loss.forward"),
        ({"mechanism": "teleport"}, "mechanism"),
        ({"ledger": [{"hop": "tap0"}]}, r"ledger\[0\].direction"),
        ({"timeline": {}}, "timeline"),
        ({"faults": [{"fault": IMPOSSIBLE}]}, "only possible in: fds sent"),
        ({"faults": [{"fault": IMPOSSIBLE | {"phase": "after all"}}]}, r"faults\[0\].fault.phase"),
        ({"evidence_version": 99}, "evidence_version"),
        ({"instrument": None}, "instrument"),
    ],
)
def test_wrong_members_are_refused_by_path(change: dict[str, object], place: str) -> None:
    with pytest.raises(InstrumentError, match=place):
        CaseEvidence.from_json(good_case().to_json() | change)


def test_missing_mechanism_is_refused() -> None:
    value = good_case().to_json()
    del value["mechanism"]
    with pytest.raises(InstrumentError, match="mechanism: missing"):
        CaseEvidence.from_json(value)


def test_file_cut_off_is_refused(tmp_path: Path) -> None:
    path = good_case().write(tmp_path)
    path.write_text(path.read_text()[:200])
    with pytest.raises(InstrumentError, match=r"case\.json"):
        CaseEvidence.read(tmp_path)


def test_not_a_number_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(BadValue):
        replace(good_case(), qemu_downtime_ms=float("nan")).write(tmp_path)


def test_total_of_an_unknown_direction_is_unknown() -> None:
    assert PerDirection(3, None).total is None
    assert PerDirection(3, 4).total == 7


def test_packets_read_back_equal(tmp_path: Path) -> None:
    packets = Packets.from_ns([10_000, 1_010_000], [500_000, None], [900_000, None])
    packets.write(tmp_path)
    assert Packets.read(tmp_path) == packets
    assert packets.sent_us == (0, 1000)
    assert packets.reflected_us == (490, None)


def test_no_packets_is_none(tmp_path: Path) -> None:
    assert Packets.read(tmp_path) is None


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"packets_version":1,"origin_ns":0,"sent_us":[1],"reflected_us":[],"returned_us":[]}']
)
def test_broken_packets_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "packets.json").write_text(text)
    with pytest.raises(InstrumentError, match=r"packets\.json"):
        Packets.read(tmp_path)
