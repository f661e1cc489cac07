"""The command line that runs one case of a run again."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

_FLAGS = ("--native", "--lab", "--no-repeat", "--anyway")  # options of `cprlib run` that may stand without a value
_SELECTION_OPTIONS = ("-t", "--tag", "--out", "--parallel", "--matrix", "--points", "--shard")
_TEST_ARGUMENT = re.compile(r"(?!-)(.+\.py(:.*)?|(.*/)?tests/functional/?)")


def rerun_command(run: str, case: str) -> str:
    """Replace the tests in a run's command line by one case; keep its QEMU, parameters and policy.

    :param run: command line of the whole run: ``cprlib run --qemu PATH -p rate=500 -t vhost:on``; may be empty.
    :param case: command line in the case's evidence: ``cprlib run FILE:CLASS.METHOD``; may be empty.
    :returns: a command line to paste; ``case`` when ``run`` is unknown or not a ``cprlib run``.
    """
    try:
        run_words, case_words = shlex.split(run), shlex.split(case)
    except ValueError:
        return case
    if run_words[:2] != ["cprlib", "run"] or case_words[:2] != ["cprlib", "run"]:
        return case
    kept: list[str] = []
    rest = run_words[2:]
    while rest:
        word = rest.pop(0)
        value = [rest.pop(0)] if rest and _takes_value(word) else []
        if word.partition("=")[0] in _SELECTION_OPTIONS or (
            not word.startswith("-") and _TEST_ARGUMENT.fullmatch(word)
        ):
            continue
        kept += [word, *value]
    return shlex.join(["cprlib", "run", *kept, *_without_given(case_words[2:], kept)])


def _without_given(case: Sequence[str], run: Sequence[str]) -> list[str]:
    """The words of a case without the parameters (``-p NAME=VALUE``) that the run's words give."""
    given = {word.removeprefix("-p").partition("=")[0] for word in run if "=" in word}
    if any(word.partition("=")[0] == "--qemu-arg" for word in run):
        given.add("qemu_args")
    words: list[str] = []
    rest = list(case)
    while rest:
        words.append(rest.pop(0))
        if words[-1] == "-p" and rest and rest[0].partition("=")[0] in given:
            words.pop()
            rest.pop(0)
    return words


def _takes_value(word: str) -> bool:
    """True when the next word is this option's value; not for ``--out=/x`` and ``-prate=5``."""
    return word.startswith("-") and "=" not in word and word not in _FLAGS and (word[:2] == "--" or len(word) == 2)
