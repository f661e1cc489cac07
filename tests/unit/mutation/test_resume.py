"""A proof that is continued: cells are there whole or not at all, and good only for what they were made of."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import pytest

from cprlib.build.assets import Assets
from cprlib.campaign.mutation import work as work_module
from cprlib.campaign.mutation.cell import CELL_FILE, CellRecord, CellRun, compress
from cprlib.campaign.mutation.inputs import cell_key, code_digest
from cprlib.campaign.mutation.matrix import Build
from cprlib.campaign.mutation.outcome import CellOutcome
from cprlib.campaign.mutation.pool import BuiltRow, PlannedRow
from cprlib.campaign.mutation.proof import Wanted, latest_proof, new_proof, read_wanted
from cprlib.campaign.mutation.tests import SuiteTest
from cprlib.campaign.mutation.work import RealWork
from cprlib.campaign.one_test import give_place
from cprlib.campaign.work_folder import ASIDE, at_work
from cprlib.campaign.workers import Children
from cprlib.errors import InstrumentError, UsageError
from cprlib.guest.image import GuestImage
from cprlib.qemu.binary import QemuBinary
from tests.unit.mutation.samples import POLICIES, put_cell, variant
from tests.unit.verdict.samples import good_case


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RealWork:
    """Work whose tests pass at once, without Avocado."""
    for name in ("qemu", "kernel", "initrd", "test_x.py"):
        (tmp_path / name).write_text(name)
    assets = Assets(
        QemuBinary(tmp_path / "qemu", tmp_path), GuestImage(tmp_path / "kernel", tmp_path / "initrd", "d"), tmp_path
    )

    def run(self: CellRun, record: CellRecord, test: SuiteTest, parameters: object) -> Path:
        del parameters, test
        return put_cell(self.aside / record.build / record.test, "PASS", "", good_case(), record=record)

    monkeypatch.setattr(CellRun, "run", run)
    monkeypatch.setattr(work_module, "code_digest", lambda: "code")
    folder = tmp_path / "proof"
    return RealWork(folder, folder / ASIDE, assets, "10.0", "uml", POLICIES, Children())


@pytest.fixture
def a_test(tmp_path: Path) -> SuiteTest:
    return SuiteTest("test-a", f"{tmp_path / 'test_x.py'}:X.test_a")


BUILT = BuiltRow(QemuBinary(Path("/elsewhere/qemu"), None), "sha", "firmware")


def planned(test: SuiteTest) -> PlannedRow:
    return PlannedRow(Build(variant()), (test,))


def test_cell_is_kept_once_it_was_run(work: RealWork, a_test: SuiteTest) -> None:
    row = planned(a_test)
    assert not work.keep(row, BUILT, a_test)
    judged = work.run(row, BUILT, a_test)
    assert judged is not None
    assert judged.outcome == CellOutcome.PASSED
    assert work.keep(row, BUILT, a_test)
    moved = replace(BUILT, qemu=QemuBinary(Path("/moved/qemu"), Path("/moved")))
    assert work.keep(row, moved, a_test)  # the same bytes in another place


def test_changed_input_runs_it_anew(work: RealWork, a_test: SuiteTest, monkeypatch: pytest.MonkeyPatch) -> None:
    row = planned(a_test)
    work.run(row, BUILT, a_test)
    assert not work.keep(row, replace(BUILT, sha256="other"), a_test)
    assert not work.keep(row, replace(BUILT, firmware="other"), a_test)
    monkeypatch.setattr(work_module, "code_digest", lambda: "edited")
    assert not work.keep(row, BUILT, a_test)
    monkeypatch.setattr(work_module, "code_digest", lambda: "code")
    assert work.keep(row, BUILT, a_test)
    a_test.file.write_text("edited")
    assert not work.keep(row, BUILT, a_test)


def test_cell_of_which_an_input_was_edited_while_it_ran_is_not_kept(
    work: RealWork, a_test: SuiteTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = iter(["before", "after"])
    monkeypatch.setattr(work_module, "code_digest", lambda: next(digests))
    work.run(planned(a_test), BUILT, a_test)
    monkeypatch.setattr(work_module, "code_digest", lambda: "before")
    assert not work.keep(planned(a_test), BUILT, a_test)
    stored = CellRecord.read(work.folder / "cells" / "variants" / "one-packet-lost" / "test-a")
    assert stored.changed


def test_cell_that_was_ended_from_outside_is_not_stored(work: RealWork, a_test: SuiteTest) -> None:
    work.children.stop()
    assert work.run(planned(a_test), BUILT, a_test) is None
    assert not work.keep(planned(a_test), BUILT, a_test)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"build": 1}'])
def test_broken_cell_is_run_anew(work: RealWork, a_test: SuiteTest, text: str) -> None:
    row = planned(a_test)
    work.run(row, BUILT, a_test)
    (work.folder / "cells" / row.build.folder / "test-a" / CELL_FILE).write_text(text)
    assert not work.keep(row, BUILT, a_test)
    work.run(row, BUILT, a_test)
    assert work.keep(row, BUILT, a_test)


def test_cell_of_another_version_is_not_read(tmp_path: Path) -> None:
    CellRecord("good/run-1", "a", "key", version=99).write(tmp_path)
    with pytest.raises(InstrumentError, match="version 99"):
        CellRecord.read(tmp_path)


def test_stored_cell_replaces_an_older_one(tmp_path: Path) -> None:
    for text in ("old", "new"):
        (tmp_path / "aside").mkdir()
        (tmp_path / "aside" / text).touch()
        give_place(tmp_path / "aside", tmp_path / "cells" / "x")
    assert [path.name for path in (tmp_path / "cells" / "x").iterdir()] == ["new"]


def test_raw_data_are_packed_and_evidence_is_not(tmp_path: Path) -> None:
    folder = put_cell(tmp_path / "c", "PASS", "", good_case())
    case = next((folder / "cases").iterdir())
    (case / "station.pcap").write_bytes(b"raw" * 1000)
    compress(folder)
    assert sorted(path.name for path in case.iterdir()) == ["case.json", "station.pcap.gz"]
    assert gzip.decompress((case / "station.pcap.gz").read_bytes()) == b"raw" * 1000


def test_what_was_left_aside_is_thrown_away_and_two_cannot_work_at_once(tmp_path: Path) -> None:
    (tmp_path / ASIDE / "half").mkdir(parents=True)
    with at_work(tmp_path, "cprlib prove") as aside:
        assert not aside.exists()
        with pytest.raises(UsageError, match="another cprlib prove"), at_work(tmp_path, "cprlib prove"):
            pass
    with at_work(tmp_path, "cprlib prove"):
        pass


def test_latest_proof_is_the_one_begun_last_and_says_what_was_wanted(tmp_path: Path) -> None:
    wanted = Wanted("10.0", ("a",), "/v", False, 3, "uml", "cprlib prove --quick", 2)
    first = new_proof(tmp_path, wanted)
    new_proof(tmp_path, replace(wanted, started_ns=1))
    (tmp_path / "latest").symlink_to(first.name)
    assert latest_proof(tmp_path) == first
    assert read_wanted(first) == wanted


@pytest.mark.parametrize("text", ["", "[]", '{"base": 10}', '{"base": "10.0", "version": 7}'])
def test_broken_proof_cannot_be_resumed(tmp_path: Path, text: str) -> None:
    folder = new_proof(tmp_path, Wanted("10.0"))
    (folder / "proof.json").write_text(text)
    with pytest.raises(UsageError):
        read_wanted(latest_proof(tmp_path))


def test_no_proof_to_resume(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is none"):
        latest_proof(tmp_path / "none")


def test_code_digest_follows_code_and_nothing_else(tmp_path: Path) -> None:
    for name in (
        "cprlib/a.py",
        "cprlib/campaign/mutation/b.py",
        "cprlib/__pycache__/a.cpython-311.pyc",
        "fixtures/p.toml",
        "docs/x",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    before = code_digest(tmp_path)
    for name in ("cprlib/campaign/mutation/b.py", "cprlib/__pycache__/a.cpython-311.pyc", "docs/x"):
        (tmp_path / name).write_text("2")
        assert code_digest(tmp_path) == before
    seen = {before}
    for name in ("cprlib/a.py", "fixtures/p.toml", "fixtures/new.py"):
        (tmp_path / name).write_text("2")
        seen.add(code_digest(tmp_path))
    assert len(seen) == 4


def test_key_does_not_depend_on_the_order_of_parameters(tmp_path: Path) -> None:
    (tmp_path / "t.py").touch()
    keys = [cell_key(tmp_path / "t.py", "c", others) for others in ({"a": "1", "b": "2"}, {"b": "2", "a": "1"})]
    assert keys[0] == keys[1] != cell_key(tmp_path / "t.py", "c", {"a": "1", "b": "3"})
