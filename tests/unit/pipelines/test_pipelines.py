"""Pipeline files match their schemas, cprlib accepts every command in them, and the image has what it needs."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from cprlib.bootstrap import PASSED_ON
from cprlib.build.host_packages import REQUIRED
from cprlib.campaign.matrix import load_matrix, parse_shard
from cprlib.cli.main import COMMANDS
from cprlib.errors import ExitStatus
from cprlib.files import project_folder

FOLDER = project_folder() / "pipelines"
GITLAB, GITHUB = FOLDER / "gitlab-ci.yml", FOLDER / "github-actions.yml"
DOCUMENT = project_folder() / "docs" / "pipelines.md"
CALL = re.compile(r"(?:python3 -m cprlib\.bootstrap|(?:^|\s)cprlib) ([a-z][^|>&;\n]*)")
NUMBERS = {"$CI_NODE_INDEX": "1", "$CI_NODE_TOTAL": "4", "${{ matrix.shard }}": "1"}
OPTIONAL = re.compile(r"\$\{(\w+):\+([^}]*)\}")  # ${NAME:+words}: the words, when NAME is set


def scripts(value: object) -> Iterator[str]:
    """Every shell command of a pipeline file."""
    if isinstance(value, dict):
        for key, member in value.items():
            if key in ("script", "before_script", "after_script", "run") and not isinstance(member, dict):
                yield from [member] if isinstance(member, str) else member
            else:
                yield from scripts(member)
    elif isinstance(value, list):
        for member in value:
            yield from scripts(member)


def calls(text: str) -> Iterator[list[str]]:
    """Arguments of each call of cprlib in a shell script; variables are not expanded."""
    for name, number in NUMBERS.items():
        text = text.replace(name, number)
    for found in CALL.finditer(OPTIONAL.sub(r"\2", text)):
        yield shlex.split(found[1])


def calls_of(path: Path) -> list[list[str]]:
    """All calls in a pipeline file."""
    return [words for script in scripts(yaml.safe_load(path.read_text())) for words in calls(script)]


def parse(words: list[str]) -> Mapping[str, Any]:
    """Parse a command without running it.

    :raises click.ClickException: there is no such command or option.
    """
    command = getattr(importlib.import_module(f"cprlib.cli.{words[0]}"), words[0])
    assert isinstance(command, click.Command)
    return command.make_context(words[0], words[1:]).params


ALL = [
    pytest.param(words, id=f"{path.stem}: {' '.join(words)}") for path in (GITLAB, GITHUB) for words in calls_of(path)
]


@pytest.mark.parametrize(
    ("schema", "path", "more"),
    [("vendor.gitlab-ci", GITLAB, ["--data-transform", "gitlab-ci"]), ("vendor.github-workflows", GITHUB, [])],
)
def test_each_file_matches_its_schema(schema: str, path: Path, more: list[str]) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *more, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("words", ALL)
def test_cprlib_accepts_every_command(words: list[str]) -> None:
    given = parse(words)
    if given.get("matrix"):
        assert load_matrix(given["matrix"]).points
    if given.get("shard"):
        parse_shard(given["shard"])


def test_both_have_every_stage() -> None:
    for path in (GITLAB, GITHUB):
        found = {words[0] for words in calls_of(path)}
        assert found == {"doctor", "run", "report", "prove"}, path
        joined = [" ".join(words) for words in calls_of(path)]
        several = ("--matrix push", "--matrix night --shard", "--merge", "--policy strict", "prove --quick")
        for expected in (*several, "mode=normal -t mechanism:local"):
            assert any(expected in line for line in joined), (path, expected)


def test_jobs_can_run_in_the_image() -> None:
    for name, job in yaml.safe_load(GITHUB.read_text())["jobs"].items():
        assert "vars.CPRLIB_IMAGE || 'debian:trixie'" in job["container"]["image"], name
        assert "--user root" in job["container"]["options"], name  # for apt-get, /opt and GitHub's own files
    gitlab = yaml.safe_load(GITLAB.read_text())
    assert '"$(id -u)" = 0' in "".join(gitlab[".cprlib"]["before_script"])
    assert "CPRLIB_CACHE" in gitlab["variables"]  # an including file can replace it; a job's own it cannot
    assert "CPRLIB_CACHE" not in gitlab[".cprlib"]["variables"]


def test_release_uses_no_cache() -> None:
    assert yaml.safe_load(GITLAB.read_text())["cprlib release"]["cache"] == []
    jobs = yaml.safe_load(GITHUB.read_text())["jobs"]
    cached = {name for name, job in jobs.items() if any("cache" in step.get("uses", "") for step in job["steps"])}
    assert cached == {"push", "night", "prove"}


def test_commands_of_the_bootstrap_are_commands_of_cprlib() -> None:
    assert set(PASSED_ON) <= set(COMMANDS)


def test_artifacts_of_prove_are_the_files_that_it_writes() -> None:
    for path in (GITLAB, GITHUB):
        patterns = [line for line in path.read_text().splitlines() if "results/prove/" in line]
        assert patterns
        for pattern in patterns:
            assert fnmatch("mutation.json", pattern.rpartition("/")[2]), (path, pattern)


def test_there_is_one_runner_per_shard() -> None:
    workflow = yaml.safe_load(GITHUB.read_text())["jobs"]["night"]
    numbers = workflow["strategy"]["matrix"]["shard"]
    assert numbers == list(range(1, len(numbers) + 1))
    assert workflow["strategy"]["fail-fast"] is False
    assert f"${{{{ matrix.shard }}}}/{len(numbers)} " in str(workflow["steps"])
    assert yaml.safe_load(GITLAB.read_text())["cprlib night"]["parallel"] == 4


def test_only_inconclusive_is_a_warning_and_not_in_a_release() -> None:
    gitlab = yaml.safe_load(GITLAB.read_text())
    assert gitlab[".cprlib"]["allow_failure"] == {"exit_codes": [int(ExitStatus.INCONCLUSIVE)]}
    assert gitlab["cprlib release"]["allow_failure"] is False
    assert gitlab["cprlib doctor"]["allow_failure"] is False
    jobs = yaml.safe_load(GITHUB.read_text())["jobs"]
    for name in ("push", "night", "verdict", "prove"):
        assert f'"$status" = {int(ExitStatus.INCONCLUSIVE)}' in str(jobs[name]["steps"]), name
    assert '"$status"' not in str(jobs["release"]["steps"])


def github_step(status: int, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Run the step of the push job with a cprlib that ends with that status."""
    steps = yaml.safe_load(GITHUB.read_text())["jobs"]["push"]["steps"]
    script = next(step["run"] for step in steps if "--matrix push" in step.get("run", ""))
    fake = tmp_path / "python3"
    fake.write_text(f"#!/bin/sh\nexit {status}\n")
    fake.chmod(0o755)
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.parametrize(("status", "expected"), [(0, 0), (1, 1), (2, 2), (3, 0), (4, 4), (130, 130)])
def test_the_step_maps_exit_statuses(status: int, expected: int, tmp_path: Path) -> None:
    done = github_step(status, tmp_path)
    assert done.returncode == expected
    assert ("::warning" in done.stdout) == (status == ExitStatus.INCONCLUSIVE)


def test_the_image_has_the_packages_for_building_and_no_root() -> None:
    text = (FOLDER / "Containerfile").read_text()
    listed = re.search(r"--no-install-recommends \\\n(.*?)&& rm", text, re.DOTALL)
    assert listed
    assert set(listed[1].replace("\\", " ").split()) == set(REQUIRED) | {
        "git",
        "python3",
        "python3-venv",
    }
    assert text.index("USER tester") < text.index("COPY") < text.index("RUN python3")
    assert not re.search(r"^USER root", text, re.MULTILINE)


def test_cprlib_accepts_the_commands_of_the_documents() -> None:
    blocks = re.findall(r"```sh\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    blocks += re.findall(r"```sh\n(.*?)```", DOCUMENT.with_name("matrix.md").read_text(), re.DOTALL)
    found = [words for block in blocks for words in calls(block.split("#")[0] if "\n" not in block else _bare(block))]
    assert len(found) >= 5
    for words in found:
        parse(words)


def _bare(block: str) -> str:
    """A block of commands without trailing comments."""
    return "\n".join(line.split("  #")[0] for line in block.splitlines())


def test_no_link_to_the_latest_results_is_expected_in_an_artifact() -> None:
    assert "/latest" not in GITLAB.read_text()
    lines = [line for line in GITHUB.read_text().splitlines() if "/latest" in line]
    assert all("run: cat" in line for line in lines)  # in the job that made it


def test_the_merged_run_alone_is_stored_by_the_job_that_merges() -> None:
    job = yaml.safe_load(GITLAB.read_text())["cprlib verdict"]
    assert job["artifacts"] == {"paths": ["results/2*/"], "reports": {"junit": "results/2*/junit.xml"}}
