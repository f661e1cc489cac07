"""requirements.lock and the contract of the bootstrap fit the dependencies in pyproject.toml."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import packages_distributions

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cprlib.files import project_folder

pytestmark = pytest.mark.fast

PYPROJECT = tomllib.loads((project_folder() / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
LOCK = (project_folder() / "requirements.lock").read_text(encoding="utf-8")
LOCKED = {canonicalize_name(name): version for name, version in re.findall(r"^([\w.-]+)==([^ ;]+)", LOCK, re.MULTILINE)}


@pytest.mark.parametrize("line", [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]])
def test_dependency_is_locked(line: str) -> None:
    requirement = Requirement(line)
    version = LOCKED.get(canonicalize_name(requirement.name))
    assert version, "run tox -e lock"
    assert requirement.specifier.contains(version), f"{version} is locked: run tox -e lock"


def test_bootstrap_may_import_no_dependency() -> None:
    """Of ``[project] dependencies``; others are not imported in cprlib."""
    needed = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    modules = {
        module
        for module, names in packages_distributions().items()
        if needed.intersection(map(canonicalize_name, names))
    }
    (contract,) = (each for each in PYPROJECT["tool"]["importlinter"]["contracts"] if each["id"] == "bootstrap")
    assert {name for name in modules if not name.startswith("_")} <= set(contract["forbidden_modules"])
