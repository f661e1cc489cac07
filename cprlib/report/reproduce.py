"""The exact command line that runs one case again: that of the run, with the case in the place of its tests."""

from __future__ import annotations

import re
import shlex

WITHOUT_VALUE = ("--native", "--lab")  # options of `cprlib run` after which no value has to follow
#: Options that choose tests or places; one case needs none of them, its own command says at which point it ran.
CHOOSING = ("-t", "--tag", "--out", "--parallel", "--matrix", "--points", "--shard")
TEST = re.compile(r"[^-].*\.py(:.*)?|(.*/)?tests/functional/?")


def again(run: str, case: str) -> str:
    """A command line to paste.

    :param run: command line of the whole run (``cprlib run --qemu PATH -p rate=500 -t vhost:on``), or empty.
    :param case: the one that the case's evidence has (``cprlib run FILE:CLASS.METHOD``), or empty.
    :returns: that of the case with the run's QEMU, parameters and policy; the case's own where the run's is not known.
    """
    try:
        words, one = shlex.split(run), shlex.split(case)
    except ValueError:
        return case
    if words[:2] != ["cprlib", "run"] or one[:2] != ["cprlib", "run"]:
        return case
    kept: list[str] = []
    rest = words[2:]
    while rest:
        word = rest.pop(0)
        takes_value = word.startswith("-") and "=" not in word and word not in WITHOUT_VALUE and _is_option(word)
        value = [rest.pop(0)] if takes_value and rest else []
        if word.partition("=")[0] in CHOOSING or (not word.startswith("-") and TEST.fullmatch(word)):
            continue
        kept += [word, *value]
    return shlex.join(["cprlib", "run", *kept, *one[2:]])


def _is_option(word: str) -> bool:
    """False for ``-prate=5``, an option and its value in one word."""
    return word.startswith("--") or len(word) == 2
