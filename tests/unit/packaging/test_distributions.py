"""Wheel and sdist have everything that the repository has, and the wheel works where there is no checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from cprlib.build.assets import recipes_digest
from cprlib.campaign.session import code_digest
from cprlib.files import project_folder

IN_PACKAGE = ("images/", "fixtures/", "tests/functional/", "docs/", "LICENSE")
MADE = ("PKG-INFO", "COMMIT")  # by hatchling and hatch_build.py
PROGRAM_OF_CLI = "import sys; from cprlib.cli.main import main; sys.exit(main())"


def repository_files() -> set[str]:
    """Names of the files of this checkout, those that were not committed yet included."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    if not (project_folder() / ".git").exists():
        pytest.skip("not a checkout: nothing to compare with")
    listing = subprocess.run(command, cwd=project_folder(), capture_output=True, text=True, check=True).stdout
    return {name for name in listing.splitlines() if (project_folder() / name).is_file()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with wheel and sdist, made of a copy of the repository: building leaves files in it."""
    top = tmp_path_factory.mktemp("packaging")
    for name in repository_files():
        (top / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(project_folder() / name, top / "tree" / name)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(top / "dist"), str(top / "tree")]
    done = subprocess.run(command, cwd=top, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return top / "dist"


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to import from that has the wheel's content, as site-packages would."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        for member in wheel.infolist():
            os.chmod(wheel.extract(member, folder), (member.external_attr >> 16) & 0o777)  # as pip does
    return folder


def of_installed(installed: Path, program: str, *arguments: str) -> str:
    """Standard output of a Python program that sees the wheel's content and no checkout."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-P", "-c", program, *arguments]
    done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_sdist_has_every_file_of_the_repository(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as sdist:
        names = {member.name.partition("/")[2] for member in sdist.getmembers() if member.isfile()}
    extra = {name for name in names if name in MADE}
    assert names - extra == repository_files()


def test_the_wheel_has_the_library_and_what_it_runs(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = {name for name in wheel.namelist() if not name.endswith("/")}
    wanted = set()
    for name in repository_files():
        if name.startswith("cprlib/"):
            wanted.add(name)
        elif name.startswith(IN_PACKAGE):
            wanted.add(f"cprlib/_project/{name}")
    about = {name for name in names if ".dist-info/" in name}
    assert names - about == wanted | {"cprlib/_project/COMMIT"}
    assert {name.partition("/")[2] for name in about} >= {"METADATA", "RECORD", "entry_points.txt", "licenses/LICENSE"}


def test_installed_recipes_are_those_of_the_checkout(installed: Path) -> None:
    """The keys in the store are the same: after a build from a checkout nothing is built again."""
    program = "from cprlib.build.assets import recipes_digest; print(recipes_digest())"
    assert of_installed(installed, program).strip() == recipes_digest()
    program = "from cprlib.campaign.session import code_digest; print(code_digest())"
    assert of_installed(installed, program).strip() == code_digest()
    assert (installed / "cprlib/_project/images/guest/init").stat().st_mode & 0o111


def test_commands_work_without_a_checkout(installed: Path) -> None:
    assert f"from {installed}/cprlib/_project" in of_installed(installed, PROGRAM_OF_CLI, "--version")
    assert "without-0001-stop-early" in of_installed(installed, PROGRAM_OF_CLI, "build", "--list")
    assert "--policy" in of_installed(installed, PROGRAM_OF_CLI, "run", "--help")
    program = "from cprlib.verdict.policy_file import shipped_policies; print(*shipped_policies())"
    assert of_installed(installed, program).split() == ["default", "slow-machine", "strict"]
    program = "from cprlib.report.run_json import RUN_SCHEMA_FILE; print(RUN_SCHEMA_FILE.path.is_file())"
    assert of_installed(installed, program).strip() == "True"


def test_the_installed_suite_is_found_by_avocado(installed: Path) -> None:
    program = "from cprlib.campaign.job import list_tests; print(*(test.file for test in list_tests()))"
    found = {Path(name) for name in of_installed(installed, program).split()}
    theirs = installed / "cprlib/_project/tests/functional"
    assert found == set(theirs.glob("test_*.py"))
