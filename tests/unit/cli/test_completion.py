"""Completion: a script per shell that the shell itself accepts, and names of what there is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from cprlib.cli.completion import SHELLS
from cprlib.cli.main import main

PROGRAM = "import sys; from cprlib.cli.main import main; sys.exit(main())"


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_takes_its_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "_CPRLIB_COMPLETE" in script
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed: its script was printed, and not tried")
    subprocess.run([shell, "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("cprlib comp", "completion"),
        ("cprlib run --pol", "--policy"),
        ("cprlib run --policy slow", "slow-machine"),
        ("cprlib build --variant without-0009", "without-0009-no-loss"),
        ("cprlib build --base 10.", "10.2"),
        ("cprlib run tests/functional/test_cpr_t", "tests/functional/test_cpr_tap.py"),
    ],
)
def test_names_are_completed(words: str, wanted: str) -> None:
    asked = {"_CPRLIB_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**os.environ, **asked}, capture_output=True, text=True, check=False
    )
    assert f"plain,{wanted}" in done.stdout.splitlines(), done


def test_another_shell_is_a_usage_error() -> None:
    assert main(["completion", "csh"]) == 2
