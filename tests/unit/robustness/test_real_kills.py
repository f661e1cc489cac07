"""Kill and observe the harness while it runs a real case; only with CPRLIB_KILLS::

    CPRLIB_KILLS=3 pytest tests/unit/robustness

Each kill boots a lab; see docs/safety.md.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from cprlib.files import project_folder

KILLS = os.environ.get("CPRLIB_KILLS")


@pytest.mark.skipif(not KILLS, reason="CPRLIB_KILLS, the number of kills, is not set")
@pytest.mark.parametrize("mode", ["lab", *(["native"] if os.geteuid() == 0 else [])])
def test_kills_leave_nothing(mode: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.robustness.kills", "--kills", str(KILLS), "--mode", mode],
        cwd=project_folder(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(not KILLS, reason="CPRLIB_KILLS, the number of kills, is not set")
@pytest.mark.parametrize("mode", ["lab", *(["native"] if os.geteuid() == 0 else [])])
def test_a_run_changes_nothing_on_the_host(mode: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.robustness.safety", "--mode", mode],
        cwd=project_folder(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
