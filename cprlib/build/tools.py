"""Python tools that QEMU's configure needs (meson, distlib), in a virtual environment of their own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from cprlib.build import store
from cprlib.build.progress import Progress
from cprlib.errors import DownloadFailed, EnvironmentFailure, ProcessFailed
from cprlib.process import run

REQUIREMENTS = ("meson==1.9.0", "distlib==0.4.0")  # meson as QEMU 10.2's pythondeps.toml wants
PIP_ADVICE = "check the network, or set PIP_INDEX_URL to an index that can be reached"


def find_build_python(progress: Progress) -> Path:
    """The Python to give to QEMU's ``configure --python``; made once.

    :raises DownloadFailed: PyPI could not be reached, in pip's own words.
    """
    base = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
    interpreter = base if base.exists() else Path(sys.executable)
    key = store.key_of(requirements=" ".join(REQUIREMENTS), python=sys.version, interpreter=str(interpreter))

    def make(aside: Path) -> None:
        with progress.step("make the Python environment for QEMU's build"):
            try:
                run([str(interpreter), "-m", "venv", str(aside)], purpose="make a virtual environment", seconds=120)
            except ProcessFailed as error:
                raise EnvironmentFailure(
                    error.tried, error.happened, "sudo apt-get install python3-venv", details=error.details
                ) from error
            command = [str(aside / "bin" / "python3"), "-m", "pip", "install", "--quiet", "--no-compile", *REQUIREMENTS]
            environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
            try:
                run(command, purpose="install meson", seconds=300, env=environment)
            except ProcessFailed as error:
                words = [line for line in error.details.splitlines() if line.startswith("ERROR:")]
                happened = words[0][7:] if words else error.happened
                raise DownloadFailed("install meson", happened, PIP_ADVICE, details=error.details) from error

    return store.entry("build-python", key, make) / "bin" / "python3"
