"""Python's virtual environments, with errors that keep the words of the tool that refused."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from cprlib.errors import DownloadFailed, MissingPackages, ProcessFailed
from cprlib.process import run

VENV_SECONDS = 180.0
PIP_SECONDS = 900.0
PIP_ADVICE = "check the network, or set PIP_INDEX_URL to an index that can be reached"


def make_venv(folder: Path, interpreter: Path | str) -> None:
    """Make an environment with pip in it.

    :param folder: an empty folder, or none yet.
    :raises MissingPackages: this Python came without pip.
    :raises ProcessFailed: anything else, for instance no space.
    """
    purpose = "make a Python environment"
    run([str(interpreter), "-m", "venv", "--without-pip", str(folder)], purpose=purpose, seconds=VENV_SECONDS)
    try:
        run(
            [str(folder / "bin" / "python3"), "-m", "ensurepip", "--default-pip"], purpose=purpose, seconds=VENV_SECONDS
        )
    except ProcessFailed as error:
        if "ensurepip" not in error.happened:
            raise
        advice = "sudo apt-get install python3-venv"
        raise MissingPackages(error.tried, error.happened, advice, details=error.details) from error


def pip_install(folder: Path, arguments: Sequence[str], purpose: str) -> None:
    """Install with an environment's own pip; the caller's settings (index, proxy, certificates) hold.

    :raises DownloadFailed: pip refused, in its own words.
    """
    command = [str(folder / "bin" / "python3"), "-m", "pip", "install", "--quiet", "--no-compile", *arguments]
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    try:
        run(command, purpose=purpose, seconds=PIP_SECONDS, env=environment)
    except ProcessFailed as error:
        words = [line[7:] for line in error.details.splitlines() if line.startswith("ERROR: ")]
        happened = "; ".join(words[:2]) or error.happened
        raise DownloadFailed(purpose, happened, PIP_ADVICE, details=error.details) from error
