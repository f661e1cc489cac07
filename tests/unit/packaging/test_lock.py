"""requirements.lock has a version of every dependency in pyproject.toml that satisfies it."""

from __future__ import annotations

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cprlib.files import project_folder

pytestmark = pytest.mark.fast

PROJECT = tomllib.loads((project_folder() / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK = (project_folder() / "requirements.lock").read_text(encoding="utf-8")
LOCKED = {canonicalize_name(name): version for name, version in re.findall(r"^([\w.-]+)==([^ ;]+)", LOCK, re.MULTILINE)}


@pytest.mark.parametrize("line", [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]])
def test_dependency_is_locked(line: str) -> None:
    requirement = Requirement(line)
    version = LOCKED.get(canonicalize_name(requirement.name))
    assert version, "run tox -e lock"
    assert requirement.specifier.contains(version), f"{version} is locked: run tox -e lock"
