"""What ``cprlib compare`` refuses, before anything is built or booted."""

from __future__ import annotations

from pathlib import Path

import pytest

from cprlib.build.assets import Assets
from cprlib.campaign.job import SuiteTest
from cprlib.cli import compare as compare_module
from cprlib.cli.main import main
from cprlib.errors import ExitStatus
from cprlib.guest.image import GuestImage
from cprlib.qemu.binary import QemuBinary


@pytest.fixture(autouse=True)
def nothing_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*_: object, **__: object) -> None:
        raise AssertionError("something was built")

    monkeypatch.setattr(compare_module, "build_assets", build)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "neither --b nor two saved results"),
        (["one"], "neither --b nor two saved results"),
        (["one", "two"], "there is no such folder"),
        (["one", "--b", "/bin/true"], "both given"),
        (["--b", "/bin/true", "--native", "--lab", "uml"], "both --native and --lab"),
        (["--b", "/bin/true", "-p", "ratte=1"], "no such parameter"),
        (["--b", "/bin/true", "--policy", "nobody"], "no policy of that name"),
        (["--b", "/nowhere/qemu"], "/nowhere/qemu"),
        (["--resume"], "there is none"),
        (["--resume", "--budget", "20"], "resume a comparison with budget"),
    ],
)
def test_bad_calls_are_usage_errors_in_one_line(
    arguments: list[str], why: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *arguments]) == ExitStatus.USAGE
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert why in lines[0]
    assert not list(tmp_path.iterdir())


@pytest.fixture
def two_qemus(tmp_path: Path) -> tuple[Path, Path]:
    """Two files with different content."""
    made = tmp_path / "qemu-a", tmp_path / "qemu-b"
    for path in made:
        path.write_text(path.name)
    return made


def test_each_side_has_its_qemu_and_crossing_leads_from_a_to_b(two_qemus: tuple[Path, Path]) -> None:
    first, second = two_qemus
    assets = Assets(QemuBinary(first, Path("/firmware-a")), GuestImage(Path("/k"), Path("/i"), "x"))
    tests = (SuiteTest("chain", "/x.py:X.test_chain"),)
    used = {"chain": "4"}
    arms = compare_module._arms(assets, QemuBinary(second), "uml", "default", used, tests, tests, again=True)
    given = {arm.name: arm.parameters for arm in arms}
    assert list(given) == ["a", "b", "a-again", "a-to-b"]
    assert [given[name]["qemu"] for name in given] == [str(first), str(second), str(first), str(first)]
    assert given["a-to-b"]["target_qemu"] == str(second)
    assert "firmware" not in given["b"]
    assert {parameters["chain"] for parameters in given.values()} == {"4"}


def test_a_qemu_against_itself_has_nothing_to_cross(two_qemus: tuple[Path, Path]) -> None:
    assets = Assets(QemuBinary(two_qemus[0]), GuestImage(Path("/k"), Path("/i"), "x"))
    tests = (SuiteTest("chain", "/x.py:X.test_chain"),)
    arms = compare_module._arms(assets, assets.qemu, None, "default", {}, tests, tests, again=False)
    assert [arm.name for arm in arms] == ["a", "b"]
    assert arms[0].parameters["accelerator"] == "kvm"
