"""Every command and file that the documents name exists; pages are in the navigation and wrap at 100 columns."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cprlib.cli.examples import EXAMPLES
from cprlib.cli.main import COMMANDS
from cprlib.files import project_folder
from tests.documents.commands import markdown_lines
from tests.unit.docs.command_lines import Line, lines_of, problems_of, split, wrong_tags, wrong_test

TOP = project_folder()
PAGES = sorted((TOP / "docs").glob("*.md"))
DOCUMENTS = [TOP / "README.md", TOP / "CONTRIBUTING.md", *PAGES]
FILE_NAME = re.compile(r"(?<![\w/.~-])(?:cprlib|tests|images|fixtures|benchmarks|pipelines|docs)/[\w./-]*\w\b(?![\w*])")
WIDTH = 100
NOT_WRAPPED = ("|", "    ", "![")  # tables, code, pictures
PLACEHOLDER = re.compile(r"[A-Z]{3}")
PARSE_AVOCADO = """
import json, os, sys
from avocado.core.app import AvocadoApp
for words in json.loads(sys.stdin.read()):
    child = os.fork()  # Avocado registers its settings once per process
    if child == 0:
        sys.argv = words
        AvocadoApp()  # exits if it cannot parse the arguments
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        print("PROBLEM", " ".join(words))
"""


def all_lines() -> list[Line]:
    return [line for path in DOCUMENTS for line in lines_of(path)]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_of_a_document_exist(path: Path) -> None:
    found = [f"{line.place}: {line.text}: {problem}" for line in lines_of(path) for problem in problems_of(line)]
    assert not found, "\n".join(found)


def test_documents_contain_commands() -> None:
    assert len(all_lines()) > 50
    assert {"README.md", "prove.md", "tests.md"} <= {line.place.partition(":")[0] for line in all_lines()}


def refused_by_avocado(lines: list[list[str]]) -> str:
    command = [sys.executable, "-c", PARSE_AVOCADO]
    done = subprocess.run(command, input=json.dumps(lines), capture_output=True, text=True, check=True)
    return "\n".join(line for line in done.stdout.splitlines() if line.startswith("PROBLEM"))


def test_avocado_refuses_an_unknown_option() -> None:
    output = refused_by_avocado([["avocado", "run", "--gone", "x"], ["avocado", "list", "x"]])
    assert output == "PROBLEM avocado run --gone x"


def test_avocado_accepts_the_commands_of_the_documents() -> None:
    lines = [line for line in all_lines() if line.words[0] == "avocado"]
    assert not refused_by_avocado([list(line.words) for line in lines])
    for line in lines:
        filters = [word for before, word in zip(line.words, line.words[1:], strict=False) if before == "-t"]
        tests = [word for word in line.words if word.startswith("tests/")]
        assert not [problem for one in filters for problem in wrong_tags(one)], line
        assert not [problem for one in tests for problem in wrong_test(one)], line


def test_examples_of_every_command_are_valid() -> None:
    assert set(COMMANDS) <= set(EXAMPLES)
    for name, lines in EXAMPLES.items():
        for text in lines:
            for line in split(f"help of cprlib {name}", text):
                assert not problems_of(line), (line, problems_of(line))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("cprlib runn", "no command 'runn'"),
        ("cprlib run --polcy strict", "No such option"),
        ("cprlib run --policy lenient", "no policy lenient"),
        ("cprlib run tests/functional/test_gone.py", "no test"),
        ("cprlib run tests/functional/test_cpr_tap.py:CprTap.test_gone", "no test"),
        ("cprlib run -t patch:99", "no test has the tag"),
        ("cprlib run -p ratte=1", "no such parameter"),
        ("cprlib run -p rate=0", "above 0"),
        ("cprlib build --mutant without-0042", "no variant"),
        ("cprlib build --base 9.9", "no base"),
        ("cprlib run --qemu $(cprlib build --mutant without-0042)", "no variant"),
        ("python3 -m cprlib.bootstrap tset", "no command tset"),
        ("python3 -m cprlib.gone", "no module"),
        ("CPRLIB_TIMEOUT_SCALE=2 cprlib run --gone | tee log", "No such option"),
    ],
)
def test_a_wrong_command_is_found(text: str, problem: str) -> None:
    found = [problem for line in split("here:1", text) for problem in problems_of(line)]
    assert any(problem in one for one in found), found


def test_words_in_capitals_are_placeholders() -> None:
    for text in ("cprlib run --qemu PATH -t TAG -p NAME=VALUE", "cprlib prove --repeat N", "cprlib report FOLDER"):
        assert [problems_of(line) for line in split("here:1", text)] == [[]]


def test_blocks_spans_comments_and_continued_lines_are_parsed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "Text with `cprlib doctor --json` and `cprlib.net`.\n\n"
        "```sh\n$ cprlib run -t vhost:on \\\n    -p rate=500  # why\n"
        "CPRLIB_TIMEOUT_SCALE=2 cprlib run | tee log\n```\n\n    avocado list tests/functional\n"
        "\n```\ncprlib run is no command in a drawing\n```\n"
    )
    assert [line.words for line in lines_of(page)] == [
        ("cprlib", "doctor", "--json"),
        ("cprlib", "run", "-t", "vhost:on", "-p", "rate=500"),
        ("cprlib", "run"),
        ("avocado", "list", "tests/functional"),
    ]


def test_ci_runs_the_quick_start() -> None:
    """The quick start has the two commands of the bootstrap; .ci/run runs the second."""
    section = (TOP / "README.md").read_text(encoding="utf-8").split("## Quick start", 1)[1].split("\n## ", 1)[0]
    block = section.split("```sh\n", 1)[1].split("```", 1)[0]
    assert block.splitlines() == ["python3 -m cprlib.bootstrap run", "python3 -m cprlib.bootstrap test"]
    assert (TOP / ".ci" / "run").read_text(encoding="utf-8").splitlines()[-1] == f"exec {block.splitlines()[1]}"


def test_the_shown_test_is_the_real_test() -> None:
    page = (TOP / "docs" / "writing-a-test.md").read_text(encoding="utf-8")
    assert (TOP / "tests" / "functional" / "test_ipv6.py").read_text(encoding="utf-8") in page


def test_every_page_is_in_the_navigation() -> None:
    """Readers find pages by the navigation; the build of the site refuses other pages as well."""
    navigation = (TOP / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:\n", 1)[1].split("\n\n", 1)[0]
    missing = [path.name for path in PAGES if f": {path.name}\n" not in f"{navigation}\n"]
    assert not missing, f"missing in nav of mkdocs.yml: {missing}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_a_document_names_exist(path: Path) -> None:
    names = {name for name in FILE_NAME.findall(path.read_text(encoding="utf-8")) if not PLACEHOLDER.search(name)}
    missing = sorted(name for name in names - {"cprlib/_project"} if not (TOP / name).exists())
    assert not missing, f"{path.name} names files that do not exist: {missing}"


def test_cases_by_patch_are_all_cases_of_the_suite() -> None:
    page = (TOP / "docs" / "tests.md").read_text(encoding="utf-8")
    sources = [path.read_text(encoding="utf-8") for path in (TOP / "tests" / "functional").glob("test_*.py")]
    cases = {name.replace("_", "-") for text in sources for name in re.findall(r"    def test_(\w+)\(", text)}
    named = {name for name in re.findall(r"`([a-z][a-z0-9-]+)`", page) if name.count("-") > 1}
    assert cases - named == {"update"}, "named after the point of the matrix"
    assert {name for name in named - cases if not name.startswith("update-q4-")} == set()


def test_cases_of_a_patch_have_its_tag() -> None:
    """``cprlib run -t patch:7`` runs the cases that docs/tests.md lists for patch 7."""
    tags: dict[str, set[int]] = {}
    for path in (TOP / "tests" / "functional").glob("test_*.py"):
        for method in path.read_text(encoding="utf-8").split("\n    def test_")[1:]:
            name = method.partition("(")[0].replace("_", "-")
            tags[name] = {int(number) for number in re.findall(r"patch:(\d+)", method)}
    wrong, of_row = [], ""
    for row in (TOP / "docs" / "tests.md").read_text(encoding="utf-8").splitlines():
        if not (found := re.fullmatch(r"\| ([\d, to]*)(?:`patch:\S+`)? ?\| .* \| (.*) \|", row)):
            continue
        of_row = found[1] or of_row
        spans = [span.split(" to ") for span in of_row.strip(", ").split(", ")]
        patches = {number for span in spans for number in range(int(span[0]), int(span[-1]) + 1)}
        wrong += [(of_row, name) for name in re.findall(r"`([a-z0-9-]+)`", found[2]) if not tags[name] & patches]
    assert not wrong


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_text_of_a_document_wraps_at_100_columns(path: Path) -> None:
    text = [line for line in markdown_lines(path) if line.block is None and not line.text.startswith(NOT_WRAPPED)]
    long = [f"{path.name}:{line.number}" for line in text if len(line.text) > WIDTH and " " in line.text.strip()]
    assert not long, f"longer than {WIDTH} columns: {', '.join(long)}"
