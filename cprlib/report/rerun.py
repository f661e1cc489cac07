"""The command line that runs one case of a run again."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence

# Of the options of `cprlib run`; a unit test compares them with the command line.
FLAGS = frozenset({"--native", "--repeat", "--no-repeat", "--anyway"})  # the rest has a value
OPTIONAL_VALUES: Mapping[str, tuple[str, ...]] = {"--lab": ("uml", "kvm")}  # another word after it is a test
VERBOSE = ("-v", "--verbose")  # before the command or behind it
SELECTION = frozenset({"-t", "--tag", "--out", "--parallel", "--matrix", "--points", "--shard"})


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
    while run_words[1:2] and run_words[1] in VERBOSE:
        del run_words[1]
    if run_words[:2] != ["cprlib", "run"] or case_words[:2] != ["cprlib", "run"]:
        return case
    kept = [word for name, words in _options(run_words[2:]) if name not in SELECTION for word in words]
    return shlex.join(["cprlib", "run", *kept, *_without_given(case_words[2:], kept)])


def _options(words: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """The options of a command line without its tests: name, and the words of name and value."""
    rest = list(words)
    while rest and (word := rest.pop(0)) != "--":
        if word in VERBOSE:
            continue
        name = word.partition("=")[0] if word.startswith("--") else word[:2]
        if not name.startswith("-"):
            continue
        values = OPTIONAL_VALUES.get(name, rest[:1])
        has_value = word == name and name not in FLAGS and rest[:1] and rest[0] in values
        yield name, [word, *([rest.pop(0)] if has_value else [])]


def _without_given(case: Sequence[str], run: Sequence[str]) -> list[str]:
    """The words of a case without the options and the parameters (``-p NAME=VALUE``) that the run's words give."""
    options = {word.partition("=")[0] for word in run if word.startswith("--")}
    given = {word.removeprefix("-p").partition("=")[0] for word in run if "=" in word}
    if any(word.partition("=")[0] == "--qemu-arg" for word in run):
        given.add("qemu_args")
    words: list[str] = []
    rest = list(case)
    while rest:
        words.append(rest.pop(0))
        word, value = words[-1], rest[0] if rest else ""
        if (word == "-p" and value.partition("=")[0] in given) or (word in options and word not in FLAGS):
            words.pop()
            del rest[:1]
    return words
