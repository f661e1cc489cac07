"""Python tools that QEMU's configure needs (meson, distlib), in a virtual environment of their own."""

from __future__ import annotations

import sys
from pathlib import Path

from cprlib.build import store
from cprlib.build.progress import Progress
from cprlib.build.venv import make_venv, pip_install

REQUIREMENTS = ("meson==1.9.0", "distlib==0.4.0")  # meson as QEMU 10.2's pythondeps.toml wants


def find_build_python(progress: Progress) -> Path:
    """The Python to give to QEMU's ``configure --python``; made once.

    :raises DownloadFailed: PyPI could not be reached, in pip's own words.
    """
    base = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
    interpreter = base if base.exists() else Path(sys.executable)
    key = store.key_of(requirements=" ".join(REQUIREMENTS), python=sys.version, interpreter=str(interpreter))

    def make(aside: Path) -> None:
        with progress.step("make the Python environment for QEMU's build"):
            make_venv(aside, interpreter)
            pip_install(aside, REQUIREMENTS, "install meson")

    return store.entry("build-python", key, make) / "bin" / "python3"
