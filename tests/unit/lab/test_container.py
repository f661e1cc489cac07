"""A lab wants nothing of a container that containers refuse by default (docs/pipelines.md)."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from cprlib.build.store import KERNEL_VARIABLE
from cprlib.errors import CprlibError
from cprlib.files import project_folder
from cprlib.lab.engines import find_kernel

CONTAINER = Path(__file__).with_name("container.py")

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="its numbers of system calls are x86-64's")


def contained(*command: str, kernel: str = "") -> subprocess.CompletedProcess[str]:
    """A command under a container's limits.

    :param kernel: of the lab.
    """
    return subprocess.run(
        [sys.executable, str(CONTAINER), *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(project_folder())} | ({KERNEL_VARIABLE: kernel} if kernel else {}),
    )


@pytest.mark.parametrize("refused", ["unshare --user true", "unshare --mount true", "setarch --addr-no-randomize true"])
def test_container_limits_are_in_force(refused: str) -> None:
    done = contained(*refused.split())
    assert done.returncode != 0
    assert "not permitted" in done.stderr
    assert contained("grep", "CapEff", "/proc/self/status").stdout.split()[1].strip("0") == ""


def test_lab_starts_in_a_container_with_its_devices() -> None:
    try:
        kernel = find_kernel()
    except (CprlibError, ImportError) as error:
        pytest.skip(f"no lab kernel: {error}")
    script = (
        "from pathlib import Path; from cprlib.lab.engine import *; from cprlib.lab.engines import make_engine; "
        "import sys; status = run_in_lab(make_engine('uml'), "
        "LabCommand(('sh', '-c', 'id -u; test -c /dev/vhost-net && test -c /dev/net/tun && echo devices'), Path('/'), "
        "{'PATH': '/usr/bin:/bin'}), standard_streams()); sys.exit(status)"
    )
    done = contained(sys.executable, "-c", script, kernel=str(kernel))
    assert (done.returncode, done.stdout) == (0, "0\ndevices\n"), done.stderr
