"""The builds that a comparison has to tell from the good one are well-formed variants, and no business of the proof."""

from __future__ import annotations

import pytest

from cprlib.build.mutants import load_mutants
from cprlib.cli.main import main
from cprlib.files import project_folder

FOLDER = project_folder() / "fixtures" / "comparison"


def test_both_builds_are_variants_beside_those_of_the_proof() -> None:
    made = {variant.name: variant for variant in load_mutants(FOLDER)}
    assert set(made) == {"loses-a-packet-in-one-update-of-ten", "resumes-30-percent-slower"}
    assert not set(made) & {variant.name for variant in load_mutants()}
    assert all(variant.patches and not variant.leaves_out for variant in made.values())


def test_build_lists_variants_of_another_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "--list", "--mutants-in", str(FOLDER)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["loses-a-packet-in-one-update-of-ten", "resumes-30-percent-slower"]
