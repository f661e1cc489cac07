"""Help, completion and usage errors import the command line only: no library that takes long, no package of the work.

The time depends on the machine; the imports do not.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from cprlib.cli.main import COMMANDS

PROGRAM = """\
import contextlib, io, json, os, sys
from cprlib.cli.main import main
imported = {"(start)": sorted(sys.modules)}
for line in json.loads(sys.argv[1]):
    before = set(sys.modules)
    completed = line.startswith("cprlib ")
    if completed:
        os.environ |= {
            "_CPRLIB_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)
        }
    output = io.TextIOWrapper(io.BytesIO(), write_through=True)
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        main([] if completed else line.split())
    assert output.buffer.getvalue(), line
    imported[line] = sorted(set(sys.modules) - before)
json.dump(imported, sys.stdout)
"""  # one process for all lines: whatever the first one imports is seen there
LINES = {
    "help": ["--help", *(f"{command} --help" for command in COMMANDS)],
    "usage error": [
        "runn",
        "run --no",
        "run no/such/test.py",
        "run -p rate",
        "run --native --lab=uml",
        "prove --patch x",
    ],
    "completion": ["cprlib ru", "cprlib run --pol", "cprlib build --base 10.", "cprlib prove --mutant w"],
}
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
    "cprlib.campaign.mutation",
    "cprlib.deadline",
    "cprlib.errors",
    "cprlib.files",
    "cprlib.lab",
    "cprlib.lab.engine",
    "cprlib.process",
    "cprlib.words",
}
SLOW = {"asyncio", "multiprocessing", "unittest", "xml", "http"}  # of the standard library
NOT_OURS = {"sitecustomize", "usercustomize", "_distutils_hack", "__main__"}  # of the environment


def unwanted(modules: set[str]) -> set[str]:
    """Modules that take time and are not needed."""
    ours = {name for name in modules if name.startswith("cprlib") and not name.startswith("cprlib.cli")}
    others = {name.partition(".")[0] for name in modules if not name.startswith("cprlib")}
    libraries = others - sys.stdlib_module_names - ALLOWED_LIBRARIES - NOT_OURS
    return (ours - ALLOWED_OF_CPRLIB) | libraries | (others & SLOW)


@pytest.mark.parametrize("kind", LINES)
def test_imports(kind: str) -> None:
    command = [sys.executable, "-c", PROGRAM, json.dumps(LINES[kind])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    imported = {line: unwanted(set(modules)) for line, modules in json.loads(done.stdout).items()}
    assert {line: modules for line, modules in imported.items() if modules} == {}
    assert set(imported) >= set(LINES[kind])
