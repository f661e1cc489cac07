"""The patches of the series and what this run shows of each: its properties are the tests with its tag.

A property is a test of the suite; its sentence is the first line of the test's docstring. Tests that did not run are
listed too, so that a patch that nothing covered is not taken for good.
"""

from __future__ import annotations

import ast
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cprlib.errors import EnvironmentFailure, SkipWord
from cprlib.evidence.records import Outcome
from cprlib.files import project_folder
from cprlib.report.results_folder import plain_name
from cprlib.update.mechanism import Mechanism
from cprlib.verdict.findings import worst_first
from cprlib.verdict.judge import JudgedCase, ran_by_local
from cprlib.verdict.policy import NOT_ASKED_FOR

_SERIES = Path("images", "qemu", "series")
_WITHOUT = Path("images", "qemu", "mutants", "series")  # without-0003-vhost-reset.patch has the short name of patch 3
_RELEASE = re.compile(r"\d+\.\d+")  # not a stand-in: 10.2-local
_NUMBERED = re.compile(r"(?:without-)?(\d+)-(.+)\.patch")
_SUBJECT = re.compile(r"^Subject: (?:\[PATCH[^\]]*\] )?(.+(?:\n[ \t].*)*)", re.MULTILINE)
_PARSING = threading.Lock()  # campaigns judge in threads, in which ast.parse() of Python 3.11 raises SystemError
_TAGS = re.compile(r"^\s*:avocado:\s+tags=(\S+)\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class TestSource:
    """A test of the suite, as its source has it.

    :param key: file, class and method: ``test_cpr_tap.py:CprTap.test_x``.
    :param title: the first line of its docstring.
    :param tags: of Avocado: ``patch:9``, ``vhost:on``.
    """

    key: str
    title: str
    tags: frozenset[str]


@dataclass(frozen=True, slots=True)
class PropertyResult:
    """A property of a patch, and whether it holds.

    :param test: file, class and method: ``test_cpr_tap.py:CprTap.test_x``.
    :param sentence: the property.
    :param verdict: the worst of its cases; null when no case of it ran.
    :param cases: ids of its cases, skipped ones too.
    """

    test: str
    sentence: str
    verdict: Outcome | None
    cases: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PatchResult:
    """What a run shows of one patch of the series.

    :param number: in the series, from 1; :param name: as in the tag ``patch:NAME``; :param subject: of its commit.
    :param verdict: the worst of its properties; null when this run covered none of them.
    :param properties: the tests with its tag.
    """

    number: int
    name: str
    subject: str
    verdict: Outcome | None
    properties: tuple[PropertyResult, ...]

    def count(self, verdict: Outcome | None) -> int:
        """Number of properties with this verdict; None counts those that this run did not cover."""
        return sum(each.verdict == verdict for each in self.properties)

    @property
    def covered(self) -> int:
        """Number of properties that this run covered."""
        return len(self.properties) - self.count(None)

    @property
    def complete(self) -> bool:
        """True when the test of each property was run, or skipped for a reason that the policy allows."""
        return all(each.cases for each in self.properties)


def suite_key(name: str) -> str:
    """Avocado's name of a test without number, folders and variant.

    ``1-tests/functional/test_x.py:X.test_y;run-10.0`` becomes ``test_x.py:X.test_y``.
    """
    return plain_name(name).partition(";")[0]


def read_test_sources(folder: Path | None = None) -> tuple[TestSource, ...]:
    """The tests in the sources of the suite; files that cannot be parsed are left out.

    :param folder: the project's ``tests/functional`` when None.
    """
    found: list[TestSource] = []
    for path in sorted((folder or project_folder() / "tests" / "functional").glob("test_*.py")):
        try:
            with _PARSING:
                tree = ast.parse(path.read_text(encoding="utf-8"))
        except (OSError, SyntaxError, ValueError):
            continue
        for group in (node for node in tree.body if isinstance(node, ast.ClassDef)):
            for method in group.body:
                if isinstance(method, ast.FunctionDef) and method.name.startswith("test_"):
                    text = ast.get_docstring(method) or ""
                    tags = frozenset(tag for line in _TAGS.findall(text) for tag in line.split(","))
                    title = (text.splitlines() or [method.name])[0].replace("``", "")
                    found.append(TestSource(f"{path.name}:{group.name}.{method.name}", title, tags))
    return tuple(found)


def series_names(project: Path | None = None) -> tuple[tuple[int, str, str], ...]:
    """Number, short name and subject of each patch of the series for the newest release.

    :param project: the project's folder; this one's when None.
    """
    top = project or project_folder()
    bases = sorted(
        (path for path in (top / _SERIES).glob("*") if _RELEASE.fullmatch(path.name)),
        key=lambda path: [int(part) for part in path.name.split(".")],
    )
    names = {patch_number(path): _short_name(path) for path in (top / _WITHOUT).glob("*.patch")}
    found = []
    for path in sorted(bases[-1].glob("*.patch")) if bases else ():
        if number := patch_number(path):
            found.append((number, names.get(number, _short_name(path)), subject_of(path)))
    return tuple(found)


def patch_number(patch: Path) -> int:
    """6 for ``0006-tap-cpr-support.patch``; 0 for a name without a number."""
    match = _NUMBERED.fullmatch(patch.name)
    return int(match[1]) if match else 0


def _short_name(patch: Path) -> str:
    match = _NUMBERED.fullmatch(patch.name)
    return match[2] if match else patch.stem


def subject_of(patch: Path) -> str:
    """The subject of a patch file without ``[PATCH]``; its name when it has none.

    :raises EnvironmentFailure: the file cannot be read.
    """
    try:
        text = patch.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise EnvironmentFailure(f"read {patch}", error.strerror or str(error)) from error
    found = _SUBJECT.search(text)
    return " ".join(found[1].split()) if found else _short_name(patch).replace("-", " ")


def property_results(cases: Sequence[JudgedCase], tests: Sequence[TestSource]) -> tuple[PropertyResult, ...]:
    """What the cases show of each test."""
    by_test: dict[str, list[JudgedCase]] = {}
    for case in cases:
        by_test.setdefault(suite_key(case.evidence.test), []).append(case)

    def result(test: TestSource) -> PropertyResult:
        own = by_test.get(test.key, [])
        ran = worst_first(case for case in own if case.outcome != Outcome.SKIP)
        ids = tuple(case.evidence.id for case in own)
        return PropertyResult(test.key, test.title, ran[0].outcome if ran else None, ids)

    return tuple(map(result, tests))


def lacks_feature(cases: Sequence[JudgedCase]) -> bool:
    """True when the QEMU has neither ``cpr=on`` nor migration parameter ``local``, so that nothing was updated."""
    return _lacks_cpr(cases) and not ran_by_local(cases)


def _lacks_cpr(cases: Sequence[JudgedCase]) -> bool:
    """True when each case of mechanism ``cpr`` was skipped because the QEMU does not have the feature."""
    own = [case.evidence for case in cases if case.evidence.mechanism == Mechanism.CPR]
    asked_for = [case for case in own if case.skip_word not in NOT_ASKED_FOR]
    return bool(asked_for) and all(case.skip_word == SkipWord.NO_CPR for case in asked_for)


def patch_results(cases: Sequence[JudgedCase]) -> tuple[PatchResult, ...]:
    """What the cases show of each patch of the series; nothing without ``cpr=on``, nor by mechanism ``local``."""
    tests = read_test_sources()
    cases = () if _lacks_cpr(cases) else [case for case in cases if case.evidence.mechanism != Mechanism.LOCAL]
    results = dict(zip(tests, property_results(cases, tests), strict=True))
    found = []
    for number, name, subject in series_names():
        own = tuple(result for test, result in results.items() if f"patch:{number}" in test.tags)
        verdicts = [result.verdict for result in own if result.verdict is not None]
        worst = next((each for each in (Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS) if each in verdicts), None)
        found.append(PatchResult(number, name, subject, worst, own))
    return tuple(found)
