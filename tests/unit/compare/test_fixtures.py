"""The builds that a comparison must find are well-formed mutants, and no mutants of the suite."""

from __future__ import annotations

import pytest

from cprlib.build.mutants import load_mutants
from cprlib.cli.main import main
from cprlib.files import project_folder

pytestmark = pytest.mark.fast

FOLDER = project_folder() / "fixtures" / "comparison"


def test_both_builds_are_mutants_apart_from_those_of_the_suite() -> None:
    made = {mutant.name: mutant for mutant in load_mutants(FOLDER)}
    assert set(made) == {"loses-a-packet-in-one-update-of-ten", "resumes-30-percent-slower"}
    assert not set(made) & {mutant.name for mutant in load_mutants()}
    assert all(mutant.patches and not mutant.leaves_out for mutant in made.values())


def test_build_lists_mutants_of_another_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "--list", "--mutants-in", str(FOLDER)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["loses-a-packet-in-one-update-of-ten", "resumes-30-percent-slower"]
