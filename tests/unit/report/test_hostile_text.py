"""Hostile text of a guest, a QEMU or a log, anywhere in the evidence, changes no report's structure."""

from __future__ import annotations

import functools
import html.parser
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cprlib.codec import BadValue, decode, dump_json
from cprlib.errors import ExitStatus, QemuFailed, report_error
from cprlib.evidence.case import CASE_FILE, CaseEvidence
from cprlib.evidence.records import Check, Outcome
from cprlib.guest.console import escape
from cprlib.report.build_report import build_report
from cprlib.report.environment import Environment
from cprlib.report.results_folder import start_case
from cprlib.report.summary import markdown_summary, result_table
from cprlib.verdict.policy_file import load_policy
from tests.unit.evidence.samples import good_case

HOSTILE = {
    "script": "<script>alert(1)</script>",
    "attribute": '" onmouseover="alert(1)" x=\'',
    "template": "{{ 7 * 7 }}{% for x in y %}",
    "bar": "a | b || c",
    "newline": "one\n\n# two\r\n| three |\n",
    "ansi": "\x1b[2J\x1b]0;title\x07\x9b31m",
    "right-to-left": "\u202egpj.exe\u2066\u200f",
    "nul": "a\0b",
    "invalid": b"\xff\xfe\xc3".decode("utf-8", "surrogateescape"),
    "link": "[click](https://evil.example) ![i](https://evil.example/x.png) `code` <https://evil.example>",
    "autolink": "http://evil.example WWW.evil.example www.evil.example a@evil.example @torvalds ~~s~~ $x$",
    "entity": "&lt;script&gt;&#60;b&#62;",
    "long": "A" * 60_000,
}
FORBIDDEN = "\x1b\x07\x9b\u202e\u2066\u200f\0"
CODE_SPAN = re.compile(r"(?<!`)(`+)(?!`)[^\n]*?(?<!`)\1(?!`)")  # CommonMark 6.1: closed by as many backticks
IDENTIFIERS = {"id"}  # names of folders: checked when they are made


def text_paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all texts in a case's evidence as JSON."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from text_paths(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from text_paths(item, (*path, index))
    elif isinstance(value, str) and path[-1] not in IDENTIFIERS:
        yield path


def put(value: Any, path: tuple[Any, ...], text: str) -> str:
    """Replace the text at a path; return the old one."""
    for step in path[:-1]:
        value = value[step]
    before = str(value[path[-1]])
    value[path[-1]] = text
    return before


@functools.cache
def sample() -> tuple[str, tuple[tuple[Any, ...], ...]]:
    """A failing case as JSON, so that its reasons are shown, and the paths in it that accept any text."""
    case = good_case().with_checks(Check("tap", Outcome.FAIL, "x", "y", "z"), Check("v", Outcome.SKIP, "x", "y", "z"))
    value: Any = case.to_json()
    free = []
    for path in list(text_paths(value)):
        before = put(value, path, "any text")
        try:
            decode(CaseEvidence, value)
            free.append(path)
        except BadValue:  # only fixed words are valid here
            pass
        put(value, path, before)
    assert len(free) > 20
    return json.dumps(value), tuple(free)


def hostile_case(text: str) -> str:
    """The case with hostile text at every such path."""
    as_json, free = sample()
    value = json.loads(as_json)
    for path in free:
        put(value, path, text)
    return dump_json(value)


class Elements(html.parser.HTMLParser):
    """Names of a page's elements and their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.links: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found |= {tag, *(f"{tag} {name}" for name, _ in attrs)}
        self.links |= {value or "" for name, value in attrs if name in ("href", "src")}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_text_changes_no_report(tmp_path: Path, kind: str) -> None:
    pages, summaries = {}, {}
    for name, text in (("tame", "any text"), ("hostile", HOSTILE[kind])):
        results = tmp_path / name
        folder = start_case(results, "cpr-tap-vhost-1-queue")
        (folder / CASE_FILE).write_text(hostile_case(text))
        environment = Environment(mode="native", kernel=text, distribution=text, cpu=text, commit="", python="3")
        report = build_report(results, load_policy("default"), environment=environment, command=text)
        assert report.exit_status == ExitStatus.FAIL  # the evidence was read
        pages[name] = (results / "report.html").read_text(encoding="utf-8")
        summaries[name] = markdown_summary(report)
        for shown in (pages[name], summaries[name], result_table(report)):
            assert not set(FORBIDDEN) & set(shown)
            shown.encode("utf-8")
    tame, hostile = Elements(pages["tame"]), Elements(pages["hostile"])
    assert hostile.found == tame.found
    assert hostile.links == tame.links
    assert len(pages["hostile"]) < 1_000_000
    assert kind != "template" or "{{ 7 * 7 }}" in pages["hostile"]
    plain = {name: CODE_SPAN.sub("", text) for name, text in summaries.items()}  # nothing is live in a code span
    tables = {name: [line.count("|") - line.count("\\|") for line in text.splitlines()] for name, text in plain.items()}
    assert tables["hostile"] == tables["tame"]
    assert "<script" not in summaries["hostile"]
    for live in (
        "](http",
        "://",
        "www.",
        "WWW.",
        "@e",
        "@t",
        "~",
        "$",
        "<",
        "![",
        "&lt;script&gt;" if kind == "entity" else "<b",
    ):
        assert live not in re.sub(r"\\.", "", plain["hostile"])


def test_console_line_is_printable_and_bounded() -> None:
    for text in HOSTILE.values():
        shown = escape(text)
        assert not set(FORBIDDEN) & set(shown)
        assert shown.isprintable()
        assert len(shown) < 2000
        shown.encode("utf-8")


@pytest.mark.parametrize("kind", HOSTILE)
def test_an_error_brings_no_control_character_to_the_terminal(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = HOSTILE[kind]
    error = QemuFailed(f"start {text}", text, text, details=text)
    error.__cause__ = OSError(text)
    for verbose in (False, True):
        report_error(error, verbose=verbose)
        report_error(ValueError(text))
        shown = capsys.readouterr().err
        assert not set(FORBIDDEN) & set(shown)
        shown.encode("utf-8")
    assert "\n" not in error.one_line()
