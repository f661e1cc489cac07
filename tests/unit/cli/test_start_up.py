"""Help, completion and usage errors import the command line only: no library that takes long, no package of the work.

The time depends on the machine; the imports do not.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from cprlib.cli.main import COMMANDS

PROGRAM = """\
import sys
from cprlib.cli.main import main
try:
    status = main()
finally:
    sys.stdout.flush()
    print(*sorted(sys.modules), file=sys.stderr)
"""
ALLOWED_LIBRARIES = {"click"}
ALLOWED_OF_CPRLIB = {
    "cprlib",
    "cprlib.build",
    "cprlib.build.mutants",  # for completion of their names
    "cprlib.build.progress",
    "cprlib.build.series",
    "cprlib.build.store",
    "cprlib.campaign",
    "cprlib.campaign.compare",
    "cprlib.campaign.compare.effect",
    "cprlib.campaign.mutation",
    "cprlib.deadline",
    "cprlib.errors",
    "cprlib.files",
    "cprlib.lab",
    "cprlib.lab.engine",
    "cprlib.process",
}
SLOW = {"asyncio", "multiprocessing", "unittest", "xml", "http"}  # of the standard library
NOT_OURS = {"sitecustomize", "usercustomize", "_distutils_hack", "__main__"}  # of the environment


def imported(*words: str, **variables: str) -> set[str]:
    """The modules in a process that ran that command line."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    modules = set(done.stderr.splitlines()[-1].split())
    assert "cprlib.cli.main" in modules, done
    return modules


def unwanted(modules: set[str]) -> set[str]:
    """Modules that take time and are not needed."""
    ours = {name for name in modules if name.startswith("cprlib") and not name.startswith("cprlib.cli")}
    others = {name.partition(".")[0] for name in modules if not name.startswith("cprlib")}
    libraries = others - sys.stdlib_module_names - ALLOWED_LIBRARIES - NOT_OURS
    return (ours - ALLOWED_OF_CPRLIB) | libraries | (others & SLOW)


@pytest.mark.parametrize("words", ["--help", *(f"{command} --help" for command in COMMANDS)])
def test_help(words: str) -> None:
    assert unwanted(imported(*words.split())) == set()


@pytest.mark.parametrize(
    "words",
    ["runn", "run --nonsense", "run no/such/test.py", "run -p rate", "run --native --lab=uml", "prove --patch x"],
)
def test_usage_error(words: str) -> None:
    assert unwanted(imported(*words.split())) == set()


@pytest.mark.parametrize(
    "words", ["cprlib ru", "cprlib run --pol", "cprlib build --base 10.", "cprlib prove --mutant w"]
)
def test_completion(words: str) -> None:
    asked = {"_CPRLIB_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    assert unwanted(imported(**asked)) == set()
