"""Write ``requirements.lock``: exact versions, and hashes of the files that each of some Pythons would install.

For maintainers, after a change of the dependencies in pyproject.toml::

    python3 -m cprlib.build.lock python3.11 python3.13
"""

from __future__ import annotations

import json
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

from cprlib.errors import BuildFailed
from cprlib.files import project_folder, write_text
from cprlib.process import run

LOCK = "requirements.lock"
HEADER = """\
# Every Python package of the project's environment at an exact version, with the sha256 of its files (wheels for Linux
# on x86_64, one Python each). Written by `python3 -m cprlib.build.lock` from pyproject.toml; do not edit.
"""


def wanted(pyproject: Path) -> list[str]:
    """The requirements that pyproject.toml names, those for developers included."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["dev"]]


def resolve(python: str, requirements: Sequence[str], constraints: Path) -> dict[str, tuple[str, str]]:
    """What pip of one Python would install: name -> (version, sha256)."""
    command = [python, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--only-binary=:all:"]
    command += ["--constraint", str(constraints)]
    report = json.loads(run([*command, "--report=-", *requirements], purpose="resolve requirements", seconds=600))
    return {
        item["metadata"]["name"].lower().replace("_", "-").replace(".", "-"): (
            item["metadata"]["version"],
            item["download_info"]["archive_info"]["hashes"]["sha256"],
        )
        for item in report["install"]
    }


def lock(pythons: Sequence[str]) -> str:
    """The text of the lock file; the first Python, which should be the oldest, chooses the versions.

    :raises BuildFailed: the Pythons need different versions of a package.
    """
    found: dict[str, tuple[str, set[str]]] = {}
    requirements = wanted(project_folder() / "pyproject.toml")
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        for python in pythons:
            constraints.write_text("".join(f"{name}=={version}\n" for name, (version, _) in found.items()))
            for name, (version, digest) in resolve(python, requirements, constraints).items():
                known, digests = found.setdefault(name, (version, set()))
                if known != version:
                    raise BuildFailed("lock requirements", f"{name} would be {known} and {version}", "pin it")
                digests.add(digest)
    lines = [HEADER]
    for name, (version, digests) in sorted(found.items()):
        lines.append(
            f"{name}=={version}" + "".join(f" \\\n    --hash=sha256:{digest}" for digest in sorted(digests)) + "\n"
        )
    return "".join(lines)


if __name__ == "__main__":
    write_text(project_folder() / LOCK, lock(sys.argv[1:] or ["python3"]))
