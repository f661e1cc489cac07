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
    if run_words[:2] != ["cprlib", "run"] or case_words[:2] != ["cprlib", "run"] or not case_words[2:]:
        return case
    *own, test = case_words[2:]
    given = [(name, words) for name, words in _options(run_words[2:]) if name not in SELECTION]
    settings = {_setting(name, words) for name, words in given}
    given += [(name, words) for name, words in _options(own) if _setting(name, words) not in settings]
    return shlex.join(["cprlib", "run", *(word for _, words in given for word in words), test])


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


def _setting(name: str, words: Sequence[str]) -> str:
    """What an option sets: the parameter of ``-p NAME=VALUE``, else its own name."""
    if name == "-p":
        return words[-1].removeprefix("-p").partition("=")[0]
    return "qemu_args" if name == "--qemu-arg" else name
