"""Type the commands of README and the documents, in a reader's order, and see that they do what is said there.

::

    python -m tests.documents                       # all pages, about half an hour
    python -m tests.documents --page tutorial.md    # one
    python -m tests.documents --list                # what would be typed, and what otherwise than it is shown

They are typed in a clone of the project's commit (what is not committed is not seen), on real guests. What takes
hours is made shorter, and what is the reader's own is put in: ``otherwise.py`` says where, and why. Exit status 1 when
a command ended otherwise than it should, 3 when one was inconclusive.
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
from tests.documents.otherwise import otherwise
from tests.documents.reader import Reader, reader
from tests.documents.shown import Shown, pages, shown_in

LONGEST_S = 1500.0
PASS, FAIL, INCONCLUSIVE = ExitStatus.PASS, ExitStatus.FAIL, ExitStatus.INCONCLUSIVE


def type_all(one: Reader, commands: Sequence[Shown], logs: Path) -> list[int]:
    """Type commands one after the other, and print what came of each.

    :param logs: folder for what they print; kept.
    :returns: 0, 1 or 3 for each that was typed.
    """
    came: list[int] = []
    for number, shown in enumerate(commands, 1):
        row = otherwise(shown.text)
        if not row.command:
            print(f"not typed  {shown.place}: {shown.text}\n           {row.why}", flush=True)
            continue
        one.keep_two_days()
        log, begun = logs / f"{number:02}.log", time.monotonic()
        status = one.type(row.command, log, LONGEST_S)
        seconds = time.monotonic() - begun
        good = status in row.statuses
        came.append(PASS if good else INCONCLUSIVE if status == INCONCLUSIVE else FAIL)
        word = "ok" if good else "INCONCLUSIVE" if status == INCONCLUSIVE else "WRONG"
        print(f"{word:9}  {shown.place}: {row.command}  ({seconds:.0f} s, exit status {status})", flush=True)
        if not good:
            print(tail(log.read_text(encoding="utf-8", errors="replace"), 2000), flush=True)
    return came


def main(given: Sequence[str] | None = None) -> int:
    """The command line; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="append", help="only this page, e.g. tutorial.md; may be given again")
    parser.add_argument("--list", action="store_true", help="show what would be typed, and type nothing")
    parser.add_argument("--logs", type=Path, default=Path("results/documents"), help="folder for what they print")
    arguments = parser.parse_args(given)
    chosen = [page for page in pages(project_folder()) if not arguments.page or page.name in arguments.page]
    commands = [shown for page in chosen for shown in shown_in(page)]
    if not commands:
        parser.error(f"no commands in {arguments.page}")
    if arguments.list:
        for shown in commands:
            row = otherwise(shown.text)
            note = f"\n    typed: {row.typed or 'not'} ({row.why})" if row.typed is not None else ""
            print(f"{shown.place}: {shown.text}{note}")
        return 0
    arguments.logs.mkdir(parents=True, exist_ok=True)
    try:
        with terminate_on_signals(), reader() as one:
            came = type_all(one, commands, arguments.logs.resolve())
    except CprlibError as error:
        print(f"documents: {error.one_line()}", file=sys.stderr)
        return int(error.exit_status)
    print(
        f"{came.count(PASS)} of {len(came)} commands did what they should; {len(commands) - len(came)} were not typed"
    )
    return FAIL if FAIL in came else INCONCLUSIVE if INCONCLUSIVE in came else PASS


if __name__ == "__main__":
    sys.exit(main())
