"""Avocado as cprlib starts it: without what no run of the suite needs, and with the same commands and options."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from cprlib.files import project_folder

PROGRAM = """
import contextlib, io, sys
from cprlib.lab.avocado_main import main
output = io.StringIO()
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(output):
    main()
print(*sorted(sys.modules))
print(output.getvalue())
"""
SLOW = {"avocado.plugins.vmimage", "http.client", "jinja2", "matplotlib", "numpy", "packaging", "scapy", "scipy"}


def run(*words: str) -> tuple[set[str], str]:
    """Modules and output of Avocado with that command line."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(project_folder())},
    )
    assert "Error running method" not in done.stderr, done.stderr
    modules, _, output = done.stdout.partition("\n")
    return set(modules.split()), output


def test_start_imports_nothing_slow() -> None:
    modules, output = run("run", "--help")
    assert "avocado.plugins.run" in modules
    assert SLOW & modules == set()
    for option in ("--lab-engine", "--max-parallel-tasks", "--mux-yaml", "--filter-by-tags", "--job-timeout"):
        assert option in output


def test_a_background_job_can_be_interrupted() -> None:
    """A shell starts it with SIGINT ignored, which Python leaves as it is."""
    program = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)" + PROGRAM + "print(signal.getsignal(2))"
    done = subprocess.run(
        [sys.executable, "-c", program, "run", "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=project_folder(),
    )
    assert "default_int_handler" in done.stdout.splitlines()[-1]


def test_list_is_that_of_avocado(tmp_path: Path) -> None:
    (tmp_path / "test_a.py").write_text(
        "from avocado import Test\nclass A(Test):\n    def test_x(self):\n        pass\n"
    )
    _, output = run("list", str(tmp_path))
    assert "avocado-instrumented" in output
    assert "test_a.py:A.test_x" in output
