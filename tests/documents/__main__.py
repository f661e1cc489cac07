"""Run the commands that README.md, CONTRIBUTING.md and docs/ show, and check their exit statuses.

::

    python -m tests.documents                       # all pages, about half an hour
    python -m tests.documents --page tutorial.md    # one page
    python -m tests.documents --list                # print the commands, and the substitutes

They run in a clone of the current commit (uncommitted changes are not seen), on real guests. ``substitutes.py``
replaces commands that take hours or that need a QEMU of the reader. Exit status 1 if a command ended with an unexpected
status, 3 if one was inconclusive.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cprlib.errors import CprlibError, ExitStatus
from cprlib.files import project_folder
from cprlib.process import tail, terminate_on_signals
from tests.documents.checkout import Checkout, prepared_checkout
from tests.documents.commands import ShownCommand, pages, shown_commands
from tests.documents.substitutes import substitute_for

LONGEST_S = 1500.0
PASS, FAIL, INCONCLUSIVE = ExitStatus.PASS, ExitStatus.FAIL, ExitStatus.INCONCLUSIVE
WORDS = {PASS: "ok", FAIL: "FAILED", INCONCLUSIVE: "INCONCLUSIVE"}


def run_all(checkout: Checkout, commands: Sequence[ShownCommand], logs: Path) -> list[ExitStatus]:
    """Run commands one after the other, and print a line for each.

    :param logs: folder for their output.
    :returns: pass, fail or inconclusive for each command that ran.
    """
    results: list[ExitStatus] = []
    for number, shown in enumerate(commands, 1):
        substitute = substitute_for(shown.text)
        if not substitute.executed:
            print(f"not run       {shown.location}: {shown.text}\n              {substitute.reason}", flush=True)
            continue
        checkout.link_two_runs()
        log, begun = logs / f"{number:02}.log", time.monotonic()
        status = checkout.execute(substitute.executed, log, LONGEST_S)
        seconds = time.monotonic() - begun
        result = PASS if status in substitute.statuses else INCONCLUSIVE if status == INCONCLUSIVE else FAIL
        results.append(result)
        line = f"{shown.location}: {substitute.executed}  ({seconds:.0f} s, exit status {status})"
        print(f"{WORDS[result]:12}  {line}", flush=True)
        if result != PASS:
            print(tail(log.read_text(encoding="utf-8", errors="replace"), 2000), flush=True)
    return results


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="append", help="only this page, e.g. tutorial.md; can be repeated")
    parser.add_argument("--list", action="store_true", help="print the commands and run nothing")
    parser.add_argument("--logs", type=Path, default=Path("results/documents"), help="folder for their output")
    arguments = parser.parse_args(argv)
    chosen = [page for page in pages(project_folder()) if not arguments.page or page.name in arguments.page]
    commands = [shown for page in chosen for shown in shown_commands(page)]
    if not commands:
        parser.error(f"no commands in {arguments.page}")
    if arguments.list:
        for shown in commands:
            entry = substitute_for(shown.text)
            note = f"\n    run: {entry.command or 'nothing'} ({entry.reason})" if entry.command is not None else ""
            print(f"{shown.location}: {shown.text}{note}")
        return 0
    arguments.logs.mkdir(parents=True, exist_ok=True)
    try:
        with terminate_on_signals(), prepared_checkout() as checkout:
            results = run_all(checkout, commands, arguments.logs.resolve())
    except CprlibError as error:
        print(f"documents: {error.one_line()}", file=sys.stderr)
        return int(error.exit_status)
    passed, skipped = results.count(PASS), len(commands) - len(results)
    print(f"{passed} of {len(results)} commands ended as expected; {skipped} did not run")
    return FAIL if FAIL in results else INCONCLUSIVE if INCONCLUSIVE in results else PASS


if __name__ == "__main__":
    sys.exit(main())
