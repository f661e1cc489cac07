"""The commands of the quick start: set up a system that has git and Python only, then run cprlib or tox.

Usage::

    python3 -m cprlib.bootstrap run [ARGUMENTS of cprlib run]
    python3 -m cprlib.bootstrap test [ARGUMENTS of tox]
    python3 -m cprlib.bootstrap doctor | build | lab | prove | report [ARGUMENTS of that command of cprlib]

Set-up installs Debian packages that a build needs (as root; else it prints the command), creates a Python environment
in the cache folder, and builds what the command needs; all at the same time. This module uses the standard library
only. Exit statuses are those of ``cprlib``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

OLDEST_PYTHON = (3, 11)
ENVIRONMENT_STATUS = 4
INTERRUPTED_STATUS = 130
PASSED_ON = ("build", "doctor", "lab", "prove", "report", "run")  # to cprlib; pipelines do not know its path
USAGE_STATUS = 2


def child_environment(environment: Path) -> dict[str, str]:
    """The environment of the caller with programs of the Python environment first."""
    path = os.pathsep.join([str(environment / "bin"), os.environ.get("PATH", os.defpath)])
    dropped = ("PYTHONHOME", "PYTHONPATH", "__PYVENV_LAUNCHER__")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return {**kept, "PATH": path, "VIRTUAL_ENV": str(environment)}


def set_up(arguments: Sequence[str]) -> Path:
    """Install and create what is missing, and build what the command needs, at the same time.

    :param arguments: of the command, its name first.
    :returns: folder of the Python environment.
    """
    # Imported late, because an old Python cannot import them; they use the standard library only.
    from cprlib.build.first_build import build_everything, builds_of  # noqa: PLC0415
    from cprlib.build.progress import console_progress  # noqa: PLC0415
    from cprlib.lab.checks_native import supports_native  # noqa: PLC0415

    return build_everything(builds_of(arguments, supports_native), console_progress())


def main(arguments: Sequence[str], execute: Callable[[str, list[str], dict[str, str]], object] = os.execve) -> int:
    """Set up, then execute the program.

    :param execute: replaces this process; a parameter for tests.
    :returns: exit status when no program is executed.
    """
    usage = (__doc__ or "").replace("::", ":").replace("``", "")
    if arguments[:1] in (["-h"], ["--help"]):
        print(usage)
        return 0
    if not arguments or arguments[0] not in (*PASSED_ON, "test"):
        print(usage, file=sys.stderr)
        return USAGE_STATUS
    if sys.version_info < OLDEST_PYTHON:
        version = ".".join(str(number) for number in OLDEST_PYTHON)
        print(f"cprlib: Python {version} or newer is needed (Debian 12 or 13 has it)", file=sys.stderr)
        return ENVIRONMENT_STATUS
    from cprlib.errors import report_error  # noqa: PLC0415
    from cprlib.files import CACHE_VARIABLE, cache_folder, project_folder, require_plain_cache  # noqa: PLC0415
    from cprlib.process import terminate_on_signals  # noqa: PLC0415

    try:
        require_plain_cache()
        if CACHE_VARIABLE in os.environ:  # maybe relative, and tox runs in another folder
            os.environ[CACHE_VARIABLE] = str(cache_folder())
        with terminate_on_signals():
            environment = set_up(arguments)
    except Exception as error:
        verbose = arguments[0] != "lab" and bool({"-v", "--verbose"} & set(arguments))  # that of `lab` is the command's
        return report_error(error, verbose=verbose)
    except KeyboardInterrupt:
        print("cprlib: interrupted", file=sys.stderr)
        return INTERRUPTED_STATUS
    command = [str(environment / "bin" / "cprlib"), *arguments]
    print(f"using {command[0]}", file=sys.stderr, flush=True)
    if arguments[0] == "test":
        command = [str(environment / "bin" / "tox"), *arguments[1:]]
        os.chdir(project_folder())
    execute(command[0], command, child_environment(environment))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
