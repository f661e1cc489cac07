"""A name or value from the user stays one value: of a shell, a path, QEMU, a kernel, Avocado."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cprlib.cli.main import main
from cprlib.errors import CprlibError, ExitStatus, UsageError
from cprlib.lab.avocado_run import SuiteRun
from cprlib.lab.engine import LabCommand
from cprlib.lab.session import Channels
from cprlib.lab.uml import UmlEngine
from cprlib.qemu.binary import QemuBinary
from cprlib.qemu.command_line import MachineFiles, MachineSettings, command_line, option_value
from cprlib.qemu.netdev import TapNetdev, VirtioNet
from cprlib.report.results_folder import start_case

pytestmark = pytest.mark.fast

PLAIN = MachineSettings(
    QemuBinary(Path("/q")), Path("/k"), Path("/i"), "x", (TapNetdev(),), (VirtioNet("52:54:00:0:0:1"),)
)


@pytest.fixture(autouse=True)
def nothing_is_built_or_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*_: object, **__: object) -> None:
        raise AssertionError("a run continued after its parameters were read")

    monkeypatch.setattr("cprlib.build.assets.build_assets", build)


NASTY = ["q35,accel=kvm", "q35 -monitor stdio", "", "../q35", "q35;id", "-nographic", "q35\n", "$(id)"]


@pytest.mark.parametrize("machine", NASTY)
def test_machine_type_is_a_name(machine: str) -> None:
    with pytest.raises(UsageError):
        replace(PLAIN, machine=machine)
    if machine:  # empty: not given
        assert main(["run", "--lab", "-p", f"machine={machine}"]) == ExitStatus.USAGE


@pytest.mark.parametrize("accelerator", ["kvm,thread=multi", "TCG", "tcg -S"])
def test_accelerator_is_one_of_two(accelerator: str) -> None:
    assert main(["run", "--lab", "-p", f"accelerator={accelerator}"]) == ExitStatus.USAGE


def test_comma_in_the_results_folder_is_escaped() -> None:
    command = command_line(PLAIN, MachineFiles(Path("/a,server=on"), "source"), 5, 6)
    assert "file,id=console,path=/a,,server=on/console-source.log" in command
    assert option_value("a,b,,c") == "a,,b,,,,c"


def test_paths_are_separate_arguments_and_never_options() -> None:
    qemu = QemuBinary(Path("-version"), Path("-S"))
    command = command_line(replace(PLAIN, qemu=qemu, kernel=Path("-daemonize")), MachineFiles(Path("/e"), "s"), 5, 6)
    assert not {"-version", "-S", "-daemonize"} & set(command)
    assert str(Path("-daemonize").absolute()) in command


@pytest.mark.parametrize("name", ["n=v", "a b", "--x", "a;b", "a/b", ""])
def test_parameter_name_is_a_word(name: str) -> None:
    assert main(["run", "--lab", "-p", f"{name}=1"]) == ExitStatus.USAGE


def test_values_for_avocado_are_no_options() -> None:
    suite = SuiteRun(Path("/r"), ["/t;x.py"], {"qemu": "--config=/x"}, engine="uml", extra=["--filter-by-tags=--job"])
    command = suite.command(Path("/r/avocado.conf"))
    assert command[command.index("-p") + 1] == "qemu=--config=/x"
    assert "/t;x.py" in command
    assert [word for word in command if word.startswith("--job")] == ["--job-results-dir"]


@pytest.mark.parametrize("reference", ["/nonexistent", "$(id)", "--spawner=process", "a\nb"])
def test_missing_test_file_is_refused(reference: str) -> None:
    assert main(["run", "--lab", "--", reference]) == ExitStatus.USAGE


@pytest.mark.parametrize("policy", ["../default", "../../etc/passwd", "strict\n", "/dev/null/x.toml", "$(id)"])
def test_policy_is_a_known_name_or_a_toml_file(policy: str) -> None:
    assert main(["run", "--lab", "--policy", policy]) == ExitStatus.USAGE


@pytest.mark.parametrize("name", ["../x", "a/b", "..", ".hidden", "-rf"])
def test_case_stays_in_its_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        start_case(tmp_path, name)


@pytest.mark.parametrize("folder", ["/a b", "/a\tinit=x", '/a"b', "/a'b"])
def test_no_word_is_added_to_the_lab_kernel_command_line(folder: str) -> None:
    engine = UmlEngine(Path("/linux"), Path(folder, "init"))
    with pytest.raises(CprlibError, match="CPRLIB_CACHE"):
        engine._arguments(LabCommand(("true",), Path("/"), {}), Channels({}, {}), 9)


def test_project_starts_no_shell() -> None:
    top = Path(__file__).parents[3]
    for path in (*top.glob("cprlib/**/*.py"), *top.glob("fixtures/**/*.py")):
        text = path.read_text(encoding="utf-8")
        assert "shell=True" not in text, path
        assert "os.system" not in text, path
