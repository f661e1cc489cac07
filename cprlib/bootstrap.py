"""The commands of README's quick start: all set-up on a system with git and Python only, then the work itself.

Usage::

    python3 -m cprlib.bootstrap run [ARGUMENTS of cprlib run]
    python3 -m cprlib.bootstrap test [ARGUMENTS of tox]
    python3 -m cprlib.bootstrap doctor | build | lab | prove | report [ARGUMENTS of that command of cprlib]

Set-up: Debian packages that building needs (installed where the caller is root, else named in one line), and a Python
environment in the cache folder. Only the standard library is used here. Exit statuses are those of ``cprlib``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

OLDEST_PYTHON = (3, 11)
ENVIRONMENT_STATUS = 4
INTERRUPTED_STATUS = 130
PASSED_ON = ("build", "doctor", "lab", "prove", "report", "run")  # to cprlib; pipelines have no other way to its path
USAGE_STATUS = 2


def program_of(environment: Path, arguments: Sequence[str]) -> list[str]:
    """The command line that a sub-command of this module ends in.

    :param environment: folder of the Python environment.
    :param arguments: sub-command and its arguments.
    """
    if arguments[0] == "test":
        return [str(environment / "bin" / "tox"), *arguments[1:]]
    return [str(environment / "bin" / "cprlib"), *arguments]


def child_environment(environment: Path) -> dict[str, str]:
    """The caller's environment with the Python environment's programs first."""
    path = os.pathsep.join([str(environment / "bin"), os.environ.get("PATH", os.defpath)])
    dropped = ("PYTHONHOME", "PYTHONPATH", "__PYVENV_LAUNCHER__")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return {**kept, "PATH": path, "VIRTUAL_ENV": str(environment)}


def set_up() -> Path:
    """Do all set-up; the Python environment's folder."""
    # Imported late: they need no more than this module does, but an old Python shall get its one line first.
    from cprlib.build.host_packages import ensure_packages  # noqa: PLC0415
    from cprlib.build.progress import console_progress  # noqa: PLC0415
    from cprlib.build.python_env import ensure_environment  # noqa: PLC0415

    progress = console_progress()
    ensure_packages(progress)
    return ensure_environment(progress)


def main(arguments: Sequence[str], execute: Callable[[str, list[str], dict[str, str]], object] = os.execve) -> int:
    """Set up, then become the program.

    :param execute: replaces this process by a program; a parameter for tests.
    :returns: an exit status, only when there is nothing to become.
    """
    if not arguments or arguments[0] not in (*PASSED_ON, "test"):
        print(__doc__, file=sys.stderr)
        return USAGE_STATUS
    if sys.version_info < OLDEST_PYTHON:
        version = ".".join(str(number) for number in OLDEST_PYTHON)
        print(f"cprlib: Python {version} or newer is needed (Debian 12 or 13 has it)", file=sys.stderr)
        return ENVIRONMENT_STATUS
    from cprlib.errors import CprlibError  # noqa: PLC0415
    from cprlib.files import project_folder  # noqa: PLC0415
    from cprlib.process import terminate_on_signals  # noqa: PLC0415

    try:
        with terminate_on_signals():
            environment = set_up()
    except CprlibError as error:
        print(f"cprlib: {error.one_line()}", file=sys.stderr)
        return int(error.exit_status)
    except KeyboardInterrupt:
        print("cprlib: interrupted", file=sys.stderr)
        return INTERRUPTED_STATUS
    command = program_of(environment, arguments)
    print(f"using {environment / 'bin' / 'cprlib'}", file=sys.stderr, flush=True)
    if arguments[0] == "test":
        os.chdir(project_folder())
    execute(command[0], command, child_environment(environment))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
