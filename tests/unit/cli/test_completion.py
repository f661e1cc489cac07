"""Completion: a script that each shell accepts, and completion of names."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cprlib.cli.completion import SHELLS
from cprlib.cli.main import main
from cprlib.files import project_folder

PROGRAM = "import sys; from cprlib.cli.main import main; sys.exit(main())"


LINES = [
    ("cprlib comp", "completion"),
    ("cprlib run --pol", "--policy"),
    ("cprlib run --policy slow", "slow-machine"),
    ("cprlib build --mutant without-0009", "without-0009-no-loss"),
    ("cprlib build --base 10.", "10.2"),
    ("cprlib run tests/functional/test_cpr_t", "tests/functional/test_cpr_tap.py"),
]
SHORT = [LINES[4]]  # zsh shows a digit, which is also in its terminal sequences
ZSH = """
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell 'autoload -U compinit; compinit -u -D; source ./script; print rea""dy'
zpty -r shell said '*ready*'
zpty -w -n shell "$1"$'\\t'
zpty -r shell said "*$2*"
print -r -- $said
"""  # completion of zsh works only with a terminal and a typed key
BASH = """
source ./script
COMP_WORDS=($1) COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_cprlib_completion cprlib "${COMP_WORDS[-1]}" "${COMP_WORDS[-2]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""  # as readline calls it
FISH = 'source ./script; complete -C "$argv[1]"'


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_accepts_its_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "_CPRLIB_COMPLETE" in script
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed: its script was printed, and not tried")
    subprocess.run([shell, "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize(("words", "wanted"), LINES)
def test_names_are_completed(words: str, wanted: str) -> None:
    asked = {"_CPRLIB_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**os.environ, **asked}, capture_output=True, text=True, check=False
    )
    assert f"plain,{wanted}" in done.stdout.splitlines(), done


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Folder with a program ``cprlib``."""
    program = tmp_path / "cprlib"
    program.write_text(f"#!{sys.executable}\n{PROGRAM}\n")
    program.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize(
    ("shell", "words", "wanted"),
    [(shell, *line) for shell in SHELLS for line in LINES if shell != "zsh" or line not in SHORT],
)
def test_shell_completes(shell: str, words: str, wanted: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed: nothing was completed in it; apt-get install {shell}")
    assert main(["completion", shell]) == 0
    (folder / "script").write_text(capsys.readouterr().out)
    command = {
        "bash": ["bash", "-c", BASH, "bash", words],
        "fish": ["fish", "--no-config", "-c", FISH, words],
        "zsh": ["zsh", "-f", "-c", ZSH, "zsh", words, wanted[len(words.rsplit(maxsplit=1)[-1]) :]],
    }[shell]
    done = subprocess.run(command, cwd=folder, env=own(folder), capture_output=True, text=True, timeout=60, check=True)
    said = [line.partition("\t")[0] for line in done.stdout.splitlines()]
    assert wanted in (said if shell != "zsh" else done.stdout), done


def own(folder: Path) -> dict[str, str]:
    """An environment in which shells find that program and this project."""
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(project_folder()), "HOME": str(folder), "TERM": "dumb"}


def test_unknown_shell_is_a_usage_error() -> None:
    assert main(["completion", "csh"]) == 2
