"""Avocado without plugins runs a test as with them, and the replacement of pkg_resources is removed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import avocado.core.job  # noqa: F401 - registers the job's options
from avocado.core.nrunner.runnable import Runnable

from cprlib.files import project_folder

KIND = "avocado-instrumented"
TEST = """
from avocado import Test
class A(Test):
    def test(self):
        import pkg_resources, jsonschema
        assert pkg_resources.working_set is not None
        print("said")
        import subprocess
        subprocess.run(["echo", "child"], check=True)
        if self.params.get("fail"):
            self.fail("on purpose")
"""

IMPORTS = """
import sys
sys.argv = ["x", "-k", "avocado-instrumented"]
import cprlib.lab.guest_main, test_cpr_tap
print(*sorted(sys.modules))
"""
SLOW = {"click", "http.client", "jinja2", "jsonschema", "matplotlib", "numpy", "pkg_resources", "psutil", "pyroute2"}
SLOW |= {"rich", "scapy", "scipy", "urllib.request", "yaml"}


def run_inside(folder: Path, *extra: str) -> tuple[list[dict[str, object]], str]:
    test = folder / "a.py"
    test.write_text(TEST)
    # The job passes the values of all options, because defaults are unknown inside.
    runnable = Runnable(KIND, f"{test}:A.test", config=Runnable.filter_runnable_config(KIND, {}))
    command = [sys.executable, "-m", "cprlib.lab.guest_main", *runnable.get_command_args()]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # Avocado's runners are programs there
    environment = {**os.environ, "PATH": path}
    done = subprocess.run(
        [*command, *extra, f"output_dir={folder}"], capture_output=True, text=True, check=True, env=environment
    )
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def test_each_line_of_standard_output_is_a_message(tmp_path: Path) -> None:
    messages, errors = run_inside(tmp_path)
    assert messages[0]["status"] == "started"
    assert messages[-1]["status"] == "finished"
    assert messages[-1]["result"] == "pass", messages[-1]
    assert errors == "child\n"


def test_parameters_and_results_get_through(tmp_path: Path) -> None:
    variant = {"paths": ["/"], "variant_id": None, "variant": [["/", [["/", "fail", True]]]]}
    messages, _ = run_inside(tmp_path, f"variant=json:{json.dumps(variant)}")
    assert (messages[-1]["result"], messages[-1]["fail_reason"]) == ("fail", "on purpose")


def test_a_lab_imports_nothing_slow_before_its_test_runs() -> None:
    """The lab has one core, and imports everything for one test."""
    path = f"{project_folder()}{os.pathsep}{project_folder() / 'tests' / 'functional'}"
    command = [sys.executable, "-c", IMPORTS]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": path})
    assert SLOW & set(done.stdout.split()) == set()
