"""A real lab, where its kernel is built: the behaviour of images/lab/init.c."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from cprlib.errors import CprlibError, LabLost
from cprlib.lab.engine import LabCommand, LabStreams, run_in_lab
from cprlib.lab.engines import find_kernel, make_engine
from cprlib.lab.uml import LAYERS, UmlEngine


@pytest.fixture(scope="module")
def engine() -> UmlEngine:
    try:
        find_kernel()
    except (CprlibError, ImportError) as error:
        pytest.skip(f"no lab kernel: {error}")
    made = make_engine("uml")
    assert isinstance(made, UmlEngine)
    return made


def run(engine: UmlEngine, script: str, results: Path | None = None) -> tuple[int, str, str]:
    out, err = bytearray(), bytearray()
    command = LabCommand(("sh", "-c", script), Path("/"), {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}, results, 30)
    returncode = run_in_lab(engine, command, LabStreams(out.extend, err.extend))
    return returncode, out.decode(), err.decode()


def test_devices_root_and_results(engine: UmlEngine, tmp_path: Path) -> None:
    script = (
        f"id -u; test -c /dev/vhost-net -a -c /dev/net/tun && echo devices; echo e >&2; echo r > {tmp_path}/r; exit 7"
    )
    assert run(engine, script, tmp_path) == (7, "0\ndevices\n", "e\n")
    assert (tmp_path / "r").read_text() == "r\n"


def test_clock_is_that_of_the_host(engine: UmlEngine) -> None:
    before = time.time_ns()
    _, out, _ = run(engine, "date +%s%N")
    assert before < int(out) < time.time_ns()


def test_long_output_is_complete(engine: UmlEngine) -> None:
    _, out, _ = run(engine, "seq 200000; true &")
    assert out == "".join(f"{number}\n" for number in range(1, 200001))


@pytest.mark.parametrize("layers", [LAYERS, ("landlock",), ("namespaces",)])
def test_root_inside_cannot_write_the_host(engine: UmlEngine, tmp_path: Path, layers: tuple[str, ...]) -> None:
    precious = tmp_path / "precious"
    precious.write_text("kept")
    results = tmp_path / "results"
    results.mkdir()
    truncate = f"{sys.executable} -I -S -c 'import os; os.truncate(\"/mnt/host{precious}\", 0)'"  # by its path
    script = f"""
        echo inside > {precious} && cat {precious}
        mkdir -p /mnt/host
        for root in / /proc/1/root/ /proc/self/root/ /proc/self/cwd/; do
            mount -t hostfs -o $root none /mnt/host || continue
            mount -o remount,rw /mnt/host
            echo lost > /mnt/host{precious}; rm -f /mnt/host{precious}; {truncate}; touch /mnt/host{tmp_path}/new
            umount /mnt/host
        done
    """
    confined = UmlEngine(engine.kernel, engine.init, layers)
    _, out, _ = run(confined, script, results)
    assert out == "inside\n"
    assert precious.read_text() == "kept"
    assert {entry.name for entry in tmp_path.iterdir()} == {"precious", "results"}


@pytest.mark.parametrize("layers", [LAYERS, ("landlock",)])
def test_panic_is_a_lost_lab_at_once(engine: UmlEngine, layers: tuple[str, ...]) -> None:
    dying = UmlEngine(engine.kernel, Path("/bin/true"), layers)  # a first process that exits
    started = time.monotonic()
    with pytest.raises(LabLost, match="Attempted to kill init"):
        dying.attempt(LabCommand(("true",), Path("/"), {}), LabStreams(lambda _: None, lambda _: None))
    assert time.monotonic() - started < 10


KILLED = """
import os, subprocess, sys
from tests.robustness.processes import become_subreaper, descendants, reap_all
become_subreaper()
owner = subprocess.Popen([sys.executable, "-c", '''
import sys
from pathlib import Path
from cprlib.lab.engine import LabCommand, LabStreams
from cprlib.lab.uml import UmlEngine
engine = UmlEngine(Path(sys.argv[1]), Path(sys.argv[2]), tuple(sys.argv[3].split(",")))
command = LabCommand(("sh", "-c", "echo here; sleep 60 & sleep 60"), Path("/"), {"PATH": "/usr/bin:/bin"})
engine.attempt(command, LabStreams(lambda _: print("here", flush=True), lambda _: None))
''', *sys.argv[1:]], stdout=subprocess.PIPE, text=True)
owner.stdout.readline()
there = descendants(os.getpid())
owner.kill()
owner.wait()
reap_all(10)
print(len(there), [one.command for one in descendants(os.getpid())])
"""


@pytest.mark.parametrize("layers", [LAYERS, ("landlock",)])
def test_lab_ends_with_the_process_that_started_it(engine: UmlEngine, layers: tuple[str, ...]) -> None:
    command = [sys.executable, "-c", KILLED, str(engine.kernel), str(engine.init), ",".join(layers)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    number, left = done.stdout.split(maxsplit=1)
    assert int(number) > 3
    assert left.strip() == "[]"
