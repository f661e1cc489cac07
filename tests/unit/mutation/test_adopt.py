"""Results of an earlier session are taken over while their inputs are unchanged."""

from __future__ import annotations

from pathlib import Path

import pytest

from cprlib.build.assets import Assets
from cprlib.campaign.job import SuiteTest
from cprlib.campaign.mutation.plan import Build
from cprlib.campaign.mutation.run import BuiltQemu, MutationJobs
from cprlib.campaign.session import RESULTS, ResultRecord, Session
from cprlib.guest.image import GuestImage
from cprlib.qemu.binary import QemuBinary
from tests.unit.evidence.samples import good_case
from tests.unit.mutation.samples import POLICIES, put_job

TEST = SuiteTest("test-a", f"{__file__}:X.test_a")
MUTANT = Build(numbers=(17,))
BUILT = BuiltQemu(QemuBinary(Path("/x/qemu")), "ab12", "cd34")


def jobs(top: Path, session: str) -> MutationJobs:
    assets = Assets(QemuBinary(Path("/x/good")), GuestImage(Path("/x/kernel"), Path("/x/initramfs"), "given"))
    return MutationJobs(Session(top / session, top / session / ".partial", assets, "uml"), "10.0", POLICIES)


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """The folder of a result in an earlier session."""
    folder = put_job(tmp_path / "1" / RESULTS / "generated" / "17" / TEST.id, "PASS", "", good_case())
    key = jobs(tmp_path, "1")._key(MUTANT, BUILT, TEST)
    ResultRecord(key).write(folder)
    return folder


def test_result_of_an_earlier_session_is_copied(tmp_path: Path, earlier: Path) -> None:
    now = jobs(tmp_path, "2")
    assert not now.is_stored(MUTANT, BUILT, TEST)
    assert now.adopt(MUTANT, BUILT, TEST)
    assert now.is_stored(MUTANT, BUILT, TEST)
    assert earlier.exists()


def test_other_mutant_or_other_qemu_is_not_taken(tmp_path: Path, earlier: Path) -> None:
    assert earlier.exists()
    now = jobs(tmp_path, "2")
    assert not now.adopt(Build(numbers=(18,)), BUILT, TEST)
    assert not now.adopt(MUTANT, BuiltQemu(BUILT.qemu, "ef56", "cd34"), TEST)


def test_inconclusive_result_runs_again(tmp_path: Path, earlier: Path) -> None:
    for case in earlier.glob("cases/*/case.json"):
        case.unlink()
    assert not jobs(tmp_path, "2").adopt(MUTANT, BUILT, TEST)


@pytest.mark.parametrize(("number", "kept"), [(0, False), (17, True)])
def test_inconclusive_result_without_a_mutant_runs_again_in_its_own_session(
    tmp_path: Path, number: int, kept: bool
) -> None:
    now, build = jobs(tmp_path, "1"), Build(numbers=(number,))
    folder = put_job(now.final(build, TEST), "ERROR", "the lab died")
    ResultRecord(now._key(build, BUILT, TEST)).write(folder)
    assert now.adopt(build, BUILT, TEST) == kept


def test_only_generated_mutants_are_updated_to_the_good_build(tmp_path: Path) -> None:
    own = jobs(tmp_path, "1")
    assert own._parameters(MUTANT, BUILT)["target_qemu"] == "/x/good"
    assert "target_qemu" not in own._parameters(Build(), BUILT)


def test_result_of_another_lab_kernel_at_the_same_path_is_not_taken(tmp_path: Path) -> None:
    kernel = tmp_path / "linux"
    assets = Assets(QemuBinary(Path("/q")), GuestImage(Path("/k"), Path("/i"), "given"), kernel)
    session = Session(tmp_path, tmp_path, assets, "uml")
    keys = []
    for text in ("one", "another"):
        kernel.write_text(text)
        keys.append(session.key(TEST, {}))
    assert keys[1] == session.key(TEST, {})
    assert keys[0] != keys[1]
