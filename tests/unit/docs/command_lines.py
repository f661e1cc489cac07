"""Command lines in the documents, checked against the real commands and options.

A command line is in a block fenced as ``sh``, in an indented block or in a code span, and begins with one of our
programs. Words in capitals (``PATH``, ``NAME``) are placeholders and are not checked.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import click

from cprlib.bootstrap import PASSED_ON
from cprlib.build.mutants import load_mutants
from cprlib.build.series import load_bases
from cprlib.cli.main import cprlib
from cprlib.errors import CprlibError
from cprlib.files import project_folder
from cprlib.testing.parameters import check_parameters
from cprlib.verdict.policy_file import shipped_policies
from tests.documents.commands import SHELL, markdown_lines

PLACEHOLDER = re.compile(r"\.\.\.|\$?[A-Z][A-Z0-9_.]*")
SPAN = re.compile(r"`((?:cprlib|avocado (?:run|list|replay|jobs|diff)|python3 -m \w+)[^`]*)`")
BEGINS = re.compile(r"(?:\$ )?((?:[A-Z_]+=\S+ )*(?:cprlib|avocado|python3 -m)(?: .*)?)$")
WITHIN = re.compile(r"\$\(([^()]+)\)")


@dataclass(frozen=True, slots=True)
class Line:
    """One command line of a document.

    :param place: file and line, for messages.
    :param words: split as by a shell.
    """

    place: str
    text: str
    words: tuple[str, ...]


def lines_of(path: Path) -> Iterator[Line]:
    """Every command line of a Markdown file; a command in ``$(...)`` is a line of its own."""
    for line in markdown_lines(path):
        place = f"{path.name}:{line.number}"
        if line.block == SHELL or (line.block is None and line.text.startswith("    ")):
            if found := BEGINS.match(line.text.strip()):
                yield from split(place, found[1])
        elif line.block is None:
            for found in SPAN.finditer(line.text):
                yield from split(place, found[1])


def split(place: str, text: str) -> Iterator[Line]:
    """Split a shell line into its commands."""
    for inner in WITHIN.findall(text):
        yield from split(place, inner)
    text = WITHIN.sub("SUBSTITUTE", text.replace('"$(', "$(").replace(')"', ")"))
    lexer = shlex.shlex(text, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if re.fullmatch(r"[|&;<>]+", word):
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            if words and words[0] in ("cprlib", "avocado", "python3"):
                yield Line(place, text, tuple(words))
            words = []
        else:
            words.append(word)


def problems_of(line: Line) -> list[str]:
    """Problems of a command line of cprlib or python3; lines of ``avocado`` are checked by the tests."""
    if line.words[0] == "cprlib":
        return _of_cprlib(line.words[1:])
    if line.words[:2] == ("python3", "-m"):
        module = line.words[2]
        if importlib.util.find_spec(module) is None:
            return [f"no module {module}"]
        if module == "cprlib.bootstrap":
            if line.words[3] not in (*PASSED_ON, "test") and not _is_placeholder(line.words[3]):
                return [f"bootstrap has no command {line.words[3]}"]
            return _of_cprlib(line.words[3:]) if line.words[3] in PASSED_ON else []
    return []


def _of_cprlib(words: tuple[str, ...]) -> list[str]:
    command: click.Command = cprlib
    context = click.Context(cprlib, info_name="cprlib")
    rest = list(words)
    while isinstance(command, click.Group):
        while rest and rest[0] in ("-v", "--verbose"):
            rest.pop(0)
        if not rest or rest[0] in ("--help", "-h", "--version") or _is_placeholder(rest[0]):
            return []
        below = command.get_command(context, rest[0])
        if below is None:
            return [f"cprlib has no command {rest[0]!r}"]
        command, context = below, click.Context(below, context, rest.pop(0))
    return [] if "--help" in rest else _of_command(command, rest, context, words[-1])


def _of_command(command: click.Command, rest: list[str], context: click.Context, last: str) -> list[str]:
    try:
        parsed = command.make_context(str(command.name), _with_values(command, rest), context.parent)
    except click.BadOptionUsage as error:
        named_only = last.startswith("-") and "requires an argument" in error.format_message()
        return [] if named_only else [error.format_message()]  # the text names an option without its value
    except click.MissingParameter as error:
        return [error.format_message()] if rest else []  # the text names a command without its arguments
    except click.ClickException as error:
        return [error.format_message()]
    return list(_wrong_values(parsed))


def _with_values(command: click.Command, words: list[str]) -> list[str]:
    """Replace placeholders by values that the option accepts."""
    kinds = {name: option.type for option in command.params for name in option.opts}
    result = list(words)
    for index, word in enumerate(words):
        if index and _is_placeholder(word):
            kind = kinds.get(words[index - 1])
            if isinstance(kind, click.types.IntParamType | click.types.FloatParamType):
                result[index] = "1"
            elif isinstance(kind, click.Choice):
                result[index] = str(next(iter(kind.choices)))
    return result


def _wrong_values(parsed: click.Context) -> Iterator[str]:
    given = parsed.params
    name = parsed.command.name
    for key in ("base", "target_base"):
        if given.get(key) and not _is_placeholder(given[key]) and given[key] not in load_bases():
            yield f"no base {given[key]}"
    policy = str(given.get("policy") or "default")
    if not (_is_placeholder(policy) or policy.endswith(".toml") or policy in shipped_policies()):
        yield f"no policy {policy}"
    if name in ("build", "prove"):
        folder = given.get("mutants_folder")
        known = variant_names(str(folder) if folder else None)
        yield from (f"no variant {one}" for one in given["mutants"] if not _is_placeholder(one) and one not in known)
    pairs = dict(item.partition("=")[::2] for item in given.get("parameter") or ())
    pairs = {key: value for key, value in pairs.items() if not (_is_placeholder(key))}
    try:
        check_parameters({key: value for key, value in pairs.items() if not _is_placeholder(value)})
    except CprlibError as error:
        yield error.one_line()
    if name in ("run",):
        yield from (problem for test in given.get("tests") or () for problem in wrong_test(test))
        yield from (problem for tag in given.get("tag") or () for problem in wrong_tags(tag))


def wrong_test(reference: str) -> Iterator[str]:
    """Problems of a test reference: no such file, class or method."""
    if _is_placeholder(reference):
        return
    name, _, method = reference.partition(":")
    path = project_folder() / name
    if name.startswith(("~", "/")) or name.startswith("my"):
        return  # a file of the reader
    if not path.exists():
        yield f"no test {name}"
    elif method:
        text = path.read_text(encoding="utf-8")
        klass, _, function = method.partition(".")
        if f"class {klass}(" not in text or (function and f"def {function}(" not in text):
            yield f"no test {reference}"


def wrong_tags(filter_: str) -> Iterator[str]:
    """Problems of a tag filter: tags that no test has."""
    known = suite_tags()
    for tag in filter_.split(","):
        bare = tag.removeprefix("-")
        if not _is_placeholder(bare) and bare not in known:
            yield f"no test has the tag {bare}"


@cache  # parses ninety patches
def variant_names(folder: str | None) -> frozenset[str]:
    """Names of the variants of a folder; None: of the project's own."""
    return frozenset(variant.name for variant in load_mutants(Path(folder) if folder else None))


@cache
def suite_tags() -> frozenset[str]:
    """Tags of the functional suite."""
    files = (project_folder() / "tests" / "functional").glob("test_*.py")
    lists = (found for path in files for found in re.findall(r":avocado: tags=(\S+)", path.read_text(encoding="utf-8")))
    return frozenset(tag for tags in lists for tag in tags.split(","))


def _is_placeholder(word: str) -> bool:
    return bool(PLACEHOLDER.fullmatch(str(word)))
