"""What ``cprlib compare`` refuses, before anything is built or booted."""

from __future__ import annotations

from pathlib import Path

import pytest

from cprlib.campaign import session as session_module
from cprlib.cli.main import main
from cprlib.errors import ExitStatus

pytestmark = pytest.mark.fast

BUILDERS = (
    *("assets.build_assets", "assets.build_base", "assets.build_guest", "assets.build_lab"),
    *("mutants.build_mutant", "qemu.build_qemu"),
)


@pytest.fixture(autouse=True)
def nothing_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*_: object, **__: object) -> None:
        raise AssertionError("something was built")

    monkeypatch.setattr(session_module, "build_assets", build)
    for name in BUILDERS:
        monkeypatch.setattr(f"cprlib.build.{name}", build)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "neither --b nor two saved results"),
        (["--a", "/q", "one", "two"], "--a needs --b; leave --a out"),
        (["one"], "neither --b nor two saved results"),
        (["one", "two"], "there is no such folder"),
        (["one", "--b", "/bin/true"], "both given"),
        (["--b", "/bin/true", "--native", "--lab", "uml"], "both --native and --lab"),
        (["--b", "/bin/true", "-p", "ratte=1"], "no such parameter"),
        (["--b", "/bin/true", "--policy", "unknown"], "no policy of that name"),
        (["--b", "/nowhere/qemu"], "/nowhere/qemu"),
        (["--resume"], "no session in"),
        (["one", "two", "--whole"], "compare saved results with --whole: saved results are compared as they are"),
        (["one", "two", "--no-a-to-b"], "with --no-a-to-b"),
        (["one", "two", "-p", "rate=5"], "with --parameter"),
        (["--resume", "--budget", "20"], "resume cprlib compare with --budget"),
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


def test_property_that_the_nic_lacks_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cprlib.qemu.binary.probe", lambda _: None)
    monkeypatch.setattr("cprlib.qemu.binary.nic_properties", lambda _: ("packed",))
    monkeypatch.setattr("cprlib.campaign.store.Store.begin", lambda *_: pytest.fail("it began"))
    given = ["--b", "/bin/true", "-p", "nic.paked=on", "--lab", "uml", "--out", str(tmp_path)]
    assert main(["compare", *given]) == ExitStatus.USAGE
    assert "did you mean packed?" in capsys.readouterr().err


REFUSED = {
    "compare --b /q --budget nan": "--budget",
    "compare --b /q --budget inf": "--budget",
    "compare a b --min-effect nan": "--min-effect",
    "prove --generated --at-least nan": "--at-least",
    "soak --hours 0": "0<x<=8760",
    "soak --hours 1e9": "0<x<=8760",
    "soak --hours nan": "not a finite number",
    "lab run --seconds nan -- true": "--seconds",
    "lab run --seconds 0 -- true": "--seconds",
    "lab shell --engine kvm": "No such option",
    "lab run --memory -1 -- true": "--memory",
    "report --index x y": "leave RESULTS out",
    "report --index --policy nosuch": "leave --policy out",
    "report --index --merge": "leave --merge out",
    "coverage --from . --parallel 3": "leave --parallel out",
    "coverage --from . --lab": "leave --lab out",
    "build --markdown": "leave --markdown out",
    "build --mutants-in .": "leave --mutants-in out",
    "build lab --no-series": "leave --no-series out",
    "build guest --base 10.2": "leave --base out",
    "build qemu --list": "leave PART out",
    "build --list --base 10.2": "leave --base out",
    "build --mutants --markdown": "leave --markdown out",
    "build --mutant x --no-series": "leave --no-series out",
    "build --mutant x --mutants": "give one of them",
    "run --qemu /q --base 10.2": "leave --base out",
    "soak --hours 1 --qemu /q --base 10.2": "leave --base out",
    "compare --a /q --b /q --base 10.2": "leave --base out",
}


@pytest.mark.parametrize(("line", "why"), REFUSED.items())
def test_numbers_and_options_without_effect_are_refused(
    line: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line.split()) == ExitStatus.USAGE
    assert why in capsys.readouterr().err
