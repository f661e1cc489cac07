"""Packages import in one direction, and the picture of it shows every import that there is."""

from __future__ import annotations

import importlib.util
import re
import sys
import xml.etree.ElementTree as ET
from types import ModuleType

import pytest

from cprlib.files import project_folder


@pytest.fixture(scope="module")
def package_imports() -> ModuleType:
    """The module that draws the picture; it is part of the documents, not of the library."""
    path = project_folder() / "docs" / "_site" / "package_imports.py"
    spec = importlib.util.spec_from_file_location("package_imports", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_every_part_has_its_place_in_the_order_and_a_subject(package_imports: ModuleType) -> None:
    assert sorted(package_imports.order()) == sorted(package_imports.parts())
    assert set(package_imports.SUBJECTS) >= package_imports.parts()


def test_no_import_goes_against_the_order(package_imports: ModuleType) -> None:
    wrong = package_imports.against_the_order(package_imports.order(), package_imports.imports())
    assert not wrong, "\n".join(wrong)


def test_an_import_against_the_order_is_told_with_its_place(package_imports: ModuleType) -> None:
    found = {"files": {"cli": "cprlib/files.py:7"}, "cli": {"files": "cprlib/cli/main.py:3"}}
    assert package_imports.against_the_order(["files", "cli"], found) == [
        "cprlib/files.py:7: cprlib.files imports cprlib.cli, which comes later"
    ]


def test_the_picture_has_a_dot_for_every_import_left_of_the_diagonal(package_imports: ModuleType) -> None:
    picture = ET.fromstring(package_imports.picture())  # noqa: S314 - our own
    dots = list(picture.iter("{http://www.w3.org/2000/svg}circle"))
    assert len(dots) == sum(len(theirs) for theirs in package_imports.imports().values())
    for dot in dots:
        row = (float(dot.attrib["cy"]) - package_imports.HEAD) // package_imports.ROW
        column = (float(dot.attrib["cx"]) - package_imports.LEFT) // package_imports.COLUMN
        assert column < row
        assert re.match(r"\w+ imports \w+: cprlib/", "".join(dot.itertext()))
