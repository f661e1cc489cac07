"""Bad matrix options are one line and exit status 2, before anything is built."""

from __future__ import annotations

from pathlib import Path

import pytest

from cprlib.cli.main import main
from cprlib.errors import ExitStatus

BAD = {
    "--matrix nihgt": "there are: moments, night, operations, push",
    "--matrix /nowhere/x.yaml": "no such file",
    "--shard 1/2": "no matrix is given",
    "--points *": "no matrix is given",
    "--matrix push --shard 3/2": "NUMBER/COUNT",
    "--matrix push --shard 11/11": "only 10 points",
    "--matrix push --points q9-*": "no point matches",
    "--matrix push -p queues=2": "each of its points sets queues",
    "--matrix push -p rate=0": "above 0",
    "--matrix push -p qemu=/q": "give --qemu",
    "-p base=10.2": "give --base 10.2",
    "-p vhost=maybe": "on or off",
    "-p mechanism=teleport": "it has to be cpr or link-switch",
    "-p machine=frob": "q35, pc, or a version",
    "-p machine=microvm": "q35, pc, or a version",
    "-p mechanism=fd-share -p vhost=on": "has one owner",
    "--matrix push -t patch:vhost-reset": "none has tag patch:vhost-reset",
    "--matrix push --repeat": "leave --repeat out",
    "--matrix push --lab=kvm": "holds QEMU 10.0 only",
    "--base 10.2 --lab=kvm": "holds QEMU 10.0 only, not 10.2; use --lab=uml",
}
BAD_POINTS = {
    "quues: 1": "there is no such parameter",
    "queues: 0": "above 0",
    "mechanism: teleport": "it has to be cpr or link-switch",
    'base: "9.9"': "no such base",
    "machine: frob": "machine=frob",
    "vhost: maybe": "on or off",
}


@pytest.fixture(autouse=True)
def nothing_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*_: object, **__: object) -> None:
        raise AssertionError("something was built")

    for name in ("assets.build_assets", "assets.build_base", "qemu.build_qemu"):
        monkeypatch.setattr(f"cprlib.build.{name}", build)


def refused(arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", *arguments]) == ExitStatus.USAGE
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert why in lines[0]


@pytest.mark.parametrize(("given", "why"), BAD.items())
def test_options(given: str, why: str, capsys: pytest.CaptureFixture[str]) -> None:
    lab = [] if "--lab" in given else ["--lab"]
    refused([*given.split(), *lab], why, capsys)


@pytest.mark.parametrize(("given", "why"), BAD_POINTS.items())
def test_points(given: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(f"a: !mux\n  x:\n    {given}\n")
    refused(["--matrix", str(path), "--lab"], why, capsys)


def test_base_of_all_points(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text('base: "9.9"\na: !mux\n  x:\n    queues: 1\n')
    refused(["--matrix", str(path), "--lab"], "no such base", capsys)
