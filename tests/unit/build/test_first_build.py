"""The first command: what it builds beside the Python environment, several builds at once, the expected time."""

from __future__ import annotations

import io
import json
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from cprlib.build import first_build, host_packages, store, together
from cprlib.build.expected import Expected, qemu_work
from cprlib.build.first_build import Builds, build_everything, builds_of
from cprlib.build.precompiled import GENERATED, RECORD, ensure_precompiled
from cprlib.build.progress import LineProgress, Progress, TerminalProgress
from cprlib.build.source_tree import SourceTree
from cprlib.build.together import run_together
from cprlib.errors import BuildFailed, EnvironmentFailure, MissingPackages, ProcessFailed, UsageError
from cprlib.files import locked
from cprlib.process import run

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("arguments", "needed"),
    [
        ("run", Builds("10.0", True, True, True)),
        ("run tests/functional/test_ipv6.py --base=10.2", Builds("10.2", True, True)),
        ("run --base 10.2", Builds("10.2", True, True)),
        ("run --qemu /opt/qemu", Builds(None, True, True)),
        ("run --matrix push", Builds(None, True, True)),
        ("run --native", Builds("10.0", True, False)),
        ("run --lab kvm", Builds("10.0", True, False)),
        ("prove --quick", Builds("10.0", True, True)),
        ("build", Builds("10.0", True, True)),
        ("build --mutant NAME", Builds()),
        ("run --help", Builds()),
        ("doctor", Builds(compilers=False)),
        ("report --merge x", Builds(compilers=False)),
        ("lab run true", Builds()),
        ("test", Builds()),
    ],
)
def test_arguments_show_what_is_built(arguments: str, needed: Builds) -> None:
    assert builds_of(arguments.split(), lambda: False) == needed


def test_host_that_runs_tests_natively_needs_no_lab_kernel() -> None:
    assert not builds_of(["run"], lambda: True).lab
    assert builds_of(["run", "--lab"], lambda: True).lab


def test_chosen_lab_kernel_is_not_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(store.KERNEL_VARIABLE, str(tmp_path / "linux"))
    with pytest.raises(UsageError, match="no such file"):
        builds_of(["run"], lambda: False)
    (tmp_path / "linux").touch()
    assert builds_of(["run"], lambda: False) == Builds("10.0", True, False, True)


def test_results_of_builds_at_once() -> None:
    met = threading.Barrier(2, timeout=20)  # passed only when both run at once
    results = run_together(Progress(), {"a": lambda _shown: met.wait() >= 0, "b": lambda _shown: met.wait() >= 0})
    assert results == {"a": True, "b": True}


def test_failed_build_ends_the_others() -> None:
    started, ended = threading.Event(), []

    def long(shown: Progress) -> None:
        try:
            with shown.step("sleep"):
                started.set()
                run(["sleep", "600"], purpose="sleep")
        except ProcessFailed:
            with shown.step("sleep again"):
                pytest.fail("a step began after the failure")
        finally:
            ended.append("long")

    def failing(_shown: Progress) -> None:
        started.wait(20)
        raise BuildFailed("compile", "an error")

    with pytest.raises(BuildFailed, match="an error"):
        run_together(Progress(), {"long": long, "failing": failing})
    assert ended == ["long"]


def test_failed_build_ends_the_wait_for_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPRLIB_CACHE", str(tmp_path))
    monkeypatch.setattr(together, "STOP_S", 60.0)
    waits, ended = threading.Event(), list[str]()

    class Noted(Progress):
        def note(self, text: str) -> None:
            assert text == "another run makes it"
            waits.set()

    def waiting(shown: Progress) -> None:
        try:
            store.entry("thing", "k1", lambda _folder: pytest.fail("made"), progress=shown, note="another run makes it")
        finally:
            ended.append("waiting")

    def failing(_shown: Progress) -> None:
        assert waits.wait(20)
        raise BuildFailed("compile", "an error")

    with (
        locked(store.store_folder() / ".locks" / "thing-k1"),  # held by another run
        pytest.raises(BuildFailed, match="an error"),
    ):
        run_together(Noted(), {"waiting": waiting, "failing": failing})
    assert ended == ["waiting"]


@pytest.mark.parametrize(("needed", "missing"), [(Builds(), True), (Builds(compilers=False), False)])
def test_compilers_are_required_by_commands_that_build(
    needed: Builds, missing: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_packages, "REQUIRED", {"gcc": "no-such-program", "ca-certificates": "/etc/passwd"})
    monkeypatch.setattr(host_packages, "has_apt", lambda: True)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr(first_build, "has_environment", lambda: False)
    monkeypatch.setattr(first_build, "ensure_environment", lambda *_, **__: tmp_path)
    if missing:
        with pytest.raises(MissingPackages, match=r"install .*gcc"):
            build_everything(needed, Progress())
    else:
        assert build_everything(needed, Progress()) == tmp_path


def test_failed_installation_ends_the_builds_that_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def install_packages(missing: Sequence[str], _shown: Progress) -> None:
        assert missing == ("gcc",)
        raise MissingPackages("install packages", "apt-get failed")

    monkeypatch.setattr(first_build, "packages_to_install", lambda _compilers: ("gcc",))
    monkeypatch.setattr(first_build, "install_packages", install_packages)
    monkeypatch.setattr(together, "STOP_S", 60.0)
    began = time.monotonic()
    with pytest.raises(MissingPackages, match="apt-get failed"):
        build_everything(Builds(lab=True), Progress())
    assert time.monotonic() - began < 30.0


def test_expected_time_follows_the_measured_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    expected = Expected(work=600.0, cores=2)
    assert expected.left() == pytest.approx(300.0)
    now[0] += 100.0
    assert expected.left() > 400.0  # nothing done yet: slower than expected
    expected.finish(200.0)
    assert expected.left() == pytest.approx(200.0)  # as fast as expected
    expected.finish(1000.0)
    assert expected.left() == 0.0


def test_what_follows_the_builds_is_slower_on_a_slower_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    expected = Expected(work=600.0, cores=2, then=20.0)
    assert expected.left() == pytest.approx(320.0)
    now[0] += 660.0
    expected.finish(600.0)
    assert expected.left() == pytest.approx(40.0)


def test_first_half_of_the_steps_of_qemu_is_the_shorter_part() -> None:
    work = [qemu_work(part / 10) for part in range(11)]
    assert work == sorted(work)
    assert work[0] == 0.0
    assert work[5] < 0.25
    assert work[10] == pytest.approx(1.0)


@pytest.mark.parametrize("kind", [LineProgress, TerminalProgress])
def test_time_left_is_shown_with_steps_at_once(
    kind: type[LineProgress | TerminalProgress], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kind, "period", 0.01)
    stream = io.StringIO()
    progress = kind(stream)
    progress.expect(Expected(work=100.0, cores=2, then=16.0, until="to the first verdict"))
    with progress.step("compile", work=60.0) as say:
        say("[1/2]", 0.5)
        with progress.step("unpack", work=40.0):
            while "verdict" not in stream.getvalue() or "[1/2]" not in stream.getvalue():
                threading.Event().wait(0.01)
    assert "to the first verdict" in stream.getvalue()


def test_common_header_is_compiled_again_when_its_sources_changed(tmp_path: Path) -> None:
    tree = SourceTree(tmp_path)
    tree.build.mkdir()
    (tmp_path / "osdep.h").write_text("one")
    command = f"cc -O2 -MD -MQ libcommon.a.p/x.o -MF libcommon.a.p/x.d -o libcommon.a.p/x.o -c {tmp_path}/x.c"
    entry = {"file": "x.c", "output": "libcommon.a.p/x.o", "command": command}
    (tree.build / "compile_commands.json").write_text(json.dumps([entry]))
    done: list[list[str]] = []

    def fake_run(words: Sequence[str]) -> None:
        done.append(list(words))
        if "-MF" in words:
            text = f"header: \\\n {tmp_path / 'osdep.h'} \\\n absent.h\n"
            (tree.build / words[words.index("-MF") + 1]).write_text(text)

    def compiled() -> list[list[str]]:
        done.clear()
        ensure_precompiled(tree, fake_run)
        return [words for words in done if GENERATED not in words]

    (first,) = compiled()
    assert first[:2] == ["cc", "-O2"]
    assert "x.c" not in " ".join(first)
    assert set(json.loads((tmp_path / RECORD).read_text())) == {str(tmp_path / "osdep.h"), "absent.h"}
    assert compiled() == []
    (tmp_path / "osdep.h").write_text("two")
    clean, second = compiled()
    assert clean[-1] == "clean"
    assert second == first


def test_compiler_uses_the_header_in_the_build_folder(tmp_path: Path) -> None:
    source, build = tmp_path / "source", tmp_path / "build"
    for folder in (source / "include" / "qemu", build / "qemu" / "osdep.h.gch"):
        folder.mkdir(parents=True)
    header = source / "include" / "qemu" / "osdep.h"
    header.write_text("#ifndef ONE\n#define ONE\nint one;\n#endif\n")
    (build / "qemu" / "osdep.h").symlink_to(header)  # gcc needs it where a file includes the header twice
    (source / "x.c").write_text('#include "qemu/osdep.h"\nint two;\n#include "qemu/osdep.h"\n')
    flags = ["-iquote", ".", "-iquote", str(source / "include")]
    made = [*flags, "-x", "c-header", str(header), "-o", "qemu/osdep.h.gch/0"]
    run(["gcc", *made], purpose="compile a header", cwd=build)
    shown = subprocess.run(
        ["gcc", *flags, "-H", "-c", str(source / "x.c"), "-o", "x.o"],
        cwd=build,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "! ./qemu/osdep.h.gch/0" in shown.stderr


def test_compiler_commands_name_files_of_the_source(tmp_path: Path) -> None:
    tree = SourceTree(tmp_path)
    tree.build.mkdir()
    with pytest.raises(EnvironmentFailure, match=r"read .*compile_commands\.json"):
        tree.compile_commands()
    entry = {"directory": "/x", "file": "../source/net/tap.c", "output": "net_tap.c.o", "command": "cc -D'A B' tap.c"}
    (tree.build / "compile_commands.json").write_text(json.dumps([entry, {**entry, "file": "made.c"}]))
    tap, made = tree.compile_commands()
    assert (tap.file, tap.output, tap.words) == ("net/tap.c", "net_tap.c.o", ["cc", "-DA B", "tap.c"])
    assert made.file == "../build/made.c"
