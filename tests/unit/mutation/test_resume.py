"""A resumed run keeps a result while its inputs are unchanged, and runs the other tests."""

from __future__ import annotations

import gzip
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from cprlib.build.assets import Assets
from cprlib.campaign import session as session_module
from cprlib.campaign.job import SuiteTest, compress
from cprlib.campaign.mutation.plan import Build
from cprlib.campaign.mutation.run import BuiltQemu, MutationJobs
from cprlib.campaign.outcome import JobOutcome
from cprlib.campaign.session import RESULT_FILE, ResultRecord, Session, code_digest
from cprlib.campaign.store import PARTIAL
from cprlib.deadline import timeout_scale
from cprlib.errors import InstrumentError
from cprlib.files import project_folder
from cprlib.guest.image import GuestImage
from cprlib.lab.avocado_run import SuiteRun
from cprlib.qemu.binary import QemuBinary
from tests.unit.evidence.samples import good_case
from tests.unit.mutation.samples import POLICIES, mutant, put_job

pytestmark = pytest.mark.fast


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MutationJobs:
    """MutationJobs whose tests pass at once, without Avocado."""
    for name in ("qemu", "kernel", "initrd", "linux", "test_x.py"):
        (tmp_path / name).write_text(name)
    guest = GuestImage(tmp_path / "kernel", tmp_path / "initrd", "d")
    assets = Assets(QemuBinary(tmp_path / "qemu", tmp_path), guest, tmp_path / "linux")

    def run(suite: SuiteRun, *_: object) -> None:
        put_job(suite.results, "PASS", "", good_case())
        (suite.results / "cases" / good_case().id / "station.pcap").write_bytes(b"raw")
        (suite.results / "cases" / good_case().id / "reached-source.bin").write_bytes(b"\0\1")

    monkeypatch.setattr(session_module, "run_avocado", run)
    monkeypatch.setattr(session_module, "code_digest", lambda: "code")
    folder = tmp_path / "session"
    return MutationJobs(Session(folder, folder / PARTIAL, assets, "uml"), "10.0", POLICIES)


@pytest.fixture
def a_test(tmp_path: Path) -> SuiteTest:
    return SuiteTest("test-a", f"{tmp_path / 'test_x.py'}:X.test_a")


MUTANT = Build(mutant())
BUILT = BuiltQemu(QemuBinary(Path("/elsewhere/qemu"), None), "sha", "firmware")


def test_result_is_stored_once_the_test_ran(work: MutationJobs, a_test: SuiteTest) -> None:
    assert not work.is_stored(MUTANT, BUILT, a_test)
    judged = work.run(MUTANT, BUILT, a_test)
    assert judged is not None
    assert judged.outcome == JobOutcome.PASSED
    assert work.is_stored(MUTANT, BUILT, a_test)
    moved = replace(BUILT, qemu=QemuBinary(Path("/moved/qemu"), Path("/moved")))
    assert work.is_stored(MUTANT, moved, a_test)  # the same bytes under another path


def test_changed_input_runs_it_again(work: MutationJobs, a_test: SuiteTest, monkeypatch: pytest.MonkeyPatch) -> None:
    work.run(MUTANT, BUILT, a_test)
    assert not work.is_stored(MUTANT, replace(BUILT, sha256="other"), a_test)
    assert not work.is_stored(MUTANT, replace(BUILT, firmware="other"), a_test)
    monkeypatch.setattr(session_module, "code_digest", lambda: "edited")
    assert not work.is_stored(MUTANT, BUILT, a_test)
    monkeypatch.setattr(session_module, "code_digest", lambda: "code")
    assert work.is_stored(MUTANT, BUILT, a_test)
    a_test.file.write_text("edited")
    assert not work.is_stored(MUTANT, BUILT, a_test)


def test_result_is_not_kept_when_an_input_was_edited_while_the_test_ran(
    work: MutationJobs, a_test: SuiteTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = iter(["before", "after"])
    monkeypatch.setattr(session_module, "code_digest", lambda: next(digests))
    work.run(MUTANT, BUILT, a_test)
    monkeypatch.setattr(session_module, "code_digest", lambda: "before")
    assert not work.is_stored(MUTANT, BUILT, a_test)
    stored = ResultRecord.read(work.session.folder / "results" / "mutants" / "one-packet-lost" / "test-a")
    assert stored.changed


@pytest.mark.parametrize("build", [Build(), MUTANT])
def test_result_that_decides_nothing_runs_again(
    work: MutationJobs, a_test: SuiteTest, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "run_avocado", lambda suite, *_: put_job(suite.results, "ERROR", "lab died"))
    judged = work.run(build, BUILT, a_test)
    assert judged is not None
    assert judged.outcome == JobOutcome.CRASHED
    assert not work.is_stored(build, BUILT, a_test)


def test_job_that_was_ended_from_outside_is_not_stored(work: MutationJobs, a_test: SuiteTest) -> None:
    work.session.children.stop()
    assert work.run(MUTANT, BUILT, a_test) is None
    assert not work.is_stored(MUTANT, BUILT, a_test)


@pytest.mark.parametrize("engine", ["uml", "kvm"])
def test_job_has_more_time_than_each_test(
    work: MutationJobs, a_test: SuiteTest, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[SuiteRun] = []
    monkeypatch.setattr(session_module, "run_avocado", lambda suite, *_: ran.append(suite))
    replace(work.session, engine=engine).run("x", a_test, {})
    sources = "".join(path.read_text() for path in (project_folder() / "tests" / "functional").glob("*.py"))
    longest = max(int(seconds) for seconds in re.findall(r"^    timeout = (\d+)", sources, re.MULTILINE))
    assert ran[0].extra[0] == "--job-timeout"
    assert float(ran[0].extra[1]) > longest * timeout_scale({**os.environ, **ran[0].environment})


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"build": 1}'])
def test_broken_result_is_run_again(work: MutationJobs, a_test: SuiteTest, text: str) -> None:
    work.run(MUTANT, BUILT, a_test)
    (work.session.folder / "results" / MUTANT.folder / "test-a" / RESULT_FILE).write_text(text)
    assert not work.is_stored(MUTANT, BUILT, a_test)
    work.run(MUTANT, BUILT, a_test)
    assert work.is_stored(MUTANT, BUILT, a_test)


def test_result_of_another_version_is_not_read(tmp_path: Path) -> None:
    ResultRecord("key", version=99).write(tmp_path)
    with pytest.raises(InstrumentError, match="version 99"):
        ResultRecord.read(tmp_path)


def test_raw_data_are_compressed_and_evidence_is_not(tmp_path: Path) -> None:
    folder = put_job(tmp_path / "c", "PASS", "", good_case())
    case = next((folder / "cases").iterdir())
    (case / "station.pcap").write_bytes(b"raw" * 1000)
    compress(folder)
    assert sorted(path.name for path in case.iterdir()) == ["case.json", "station.pcap.gz"]
    assert gzip.decompress((case / "station.pcap.gz").read_bytes()) == b"raw" * 1000


@pytest.mark.parametrize(
    ("number", "kept"),
    [(0, ["case.json", "reached-source.bin", "station.pcap.gz"]), (17, ["case.json", "reached-source.bin"])],
)
def test_raw_data_are_kept_without_a_generated_mutant(
    work: MutationJobs, a_test: SuiteTest, number: int, kept: list[str]
) -> None:
    build = Build(numbers=(number,))
    work.run(build, BUILT, a_test)
    assert sorted(path.name for path in work.final(build, a_test).glob("cases/*/*")) == kept


def test_code_digest_follows_code_and_nothing_else(tmp_path: Path) -> None:
    for name in (
        "cprlib/a.py",
        "cprlib/campaign/mutation/b.py",
        "cprlib/__pycache__/a.cpython-311.pyc",
        "fixtures/p.toml",
        "fixtures/format.json",
        "fixtures/generated-killers.json",
        "docs/x",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    before = code_digest(tmp_path)
    no_code = ("cprlib/campaign/mutation/b.py", "cprlib/__pycache__/a.cpython-311.pyc", "docs/x")
    for name in (*no_code, "fixtures/generated-killers.json"):
        (tmp_path / name).write_text("2")
        assert code_digest(tmp_path) == before
    seen = {before}
    for name in ("cprlib/a.py", "fixtures/p.toml", "fixtures/format.json", "fixtures/new.py"):
        (tmp_path / name).write_text("2")
        seen.add(code_digest(tmp_path))
    assert len(seen) == 5


def test_key_does_not_depend_on_the_order_of_parameters(work: MutationJobs, a_test: SuiteTest) -> None:
    keys = [work.session.key(a_test, given) for given in ({"a": "1", "b": "2"}, {"b": "2", "a": "1"})]
    assert keys[0] == keys[1] != work.session.key(a_test, {"a": "1", "b": "3"})
