"""The tests of the functional suite, by the ids of their cases."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cprlib.cleanup import swept_folder
from cprlib.errors import EnvironmentFailure, ProcessFailed, UsageError
from cprlib.files import project_folder
from cprlib.lab.avocado_run import avocado_environment
from cprlib.process import run
from cprlib.report.results_folder import case_id

INSTRUMENTED = "avocado-instrumented"


@dataclass(frozen=True, slots=True)
class SuiteTest:
    """One test.

    :param id: of its case: the method's name without ``test_``, with dashes.
    :param reference: as Avocado takes it: ``/.../test_cpr_tap.py:CprTap.test_update_with_tap_1_queue``.
    """

    id: str
    reference: str

    @property
    def file(self) -> Path:
        """The file that it is in."""
        return Path(self.reference.partition(":")[0])


def list_tests(folder: Path | None = None, tags: Sequence[str] = ()) -> tuple[SuiteTest, ...]:
    """The tests of a folder in Avocado's order; the project's functional suite when None.

    :param tags: only tests with one of these, as ``-t`` of Avocado takes them.
    :raises UsageError: there are none, or two have one id.
    :raises EnvironmentFailure: Avocado cannot list them.
    """
    top = folder or project_folder() / "tests" / "functional"
    with swept_folder("cprlib-prove-") as aside:
        listing = Path(aside, "tests.json")
        command = [sys.executable, "-m", "avocado", "--show=none", "list", "--json", str(listing)]
        command += [str(top), *(word for tag in tags for word in ("-t", tag))]
        try:
            run(command, purpose="list the suite's tests", seconds=120, env=avocado_environment())
            value = json.loads(listing.read_text(encoding="utf-8"))
        except (ProcessFailed, OSError, ValueError) as error:
            raise EnvironmentFailure("list the suite's tests", str(error), "try `avocado list` on it") from error
    references = [str(item["Test"]) for item in value if item.get("Type") == INSTRUMENTED]
    if tags and not references:
        raise UsageError("list the suite's tests", f"none has tag {', '.join(tags)}", "docs/tests.md lists the tags")
    return named_tests(references, top)


def named_tests(references: Iterable[str], top: Path) -> tuple[SuiteTest, ...]:
    """Tests from Avocado's references, each with the id of its case.

    :param top: the folder that they are from, for messages.
    :raises UsageError: there are none, or two have one id.
    """
    tests: dict[str, SuiteTest] = {}
    for reference in references:
        path, _, name = reference.partition(":")
        found = SuiteTest(case_id(name), f"{Path(path).resolve()}:{name}")
        if found.id in tests:
            first = tests[found.id].reference
            raise UsageError(
                "list the suite's tests", f"{first} and {found.reference} have one id", "give one of them another name"
            )
        tests[found.id] = found
    if not tests:
        raise UsageError("list the suite's tests", f"no test in {top}", "`avocado list` says why a file is none")
    return tuple(tests.values())


def find_tests(names: Sequence[str], tests: Sequence[SuiteTest], wanted_by: str) -> tuple[SuiteTest, ...]:
    """Tests by the ids of their cases.

    :param wanted_by: who names them, for the message.
    :raises UsageError: there is none of that id.
    """
    by_id = {test.id: test for test in tests}
    for name in names:
        if name not in by_id:
            raise UsageError(
                f"prove {wanted_by}",
                f"the suite has no test with the case id {name!r}",
                "correct its Killed-by",
            )
    return tuple(by_id[name] for name in names)
