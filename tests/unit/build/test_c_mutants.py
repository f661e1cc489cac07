"""Mutants of C code by rule."""

from __future__ import annotations

import pytest

from cprlib.build.c_mutants import CodeChange, Rule, find_changes, weave

pytestmark = pytest.mark.fast

CODE = b"""\
static bool f(struct a *s, int n)
{
    int i = 0;

    trace_f(n);
    if (!s->x && n < 8) {
        return true;
    }
    g(s->a, n,
      3);
out:
    s->x = false;
    return false;
}
"""


def _found(code: bytes, *lines: int) -> list[CodeChange]:
    return find_changes(code, dict.fromkeys(lines or range(1, 100), "0001-first.patch")).changes


def _of(changes: list[CodeChange], rule: Rule) -> list[tuple[str, str]]:
    pairs = [(change.original, dict(zip(change.rules, change.mutated, strict=True))) for change in changes]
    return [(original, mutated[rule]) for original, mutated in pairs if rule in mutated]


def test_each_rule() -> None:
    changes = _found(CODE)
    assert _of(changes, Rule.DELETE) == [("g(s->a, n, 3);", ";"), ("s->x = false;", ";")]
    assert _of(changes, Rule.NEGATE) == [("!s->x && n < 8", "!(!s->x && n < 8)")]
    assert _of(changes, Rule.ALWAYS) == [("!s->x && n < 8", "true")]
    assert _of(changes, Rule.NEVER) == [("!s->x && n < 8", "false")]
    assert _of(changes, Rule.LOGIC) == [("!s->x && n < 8", "(!s->x) || (n < 8)")]
    assert _of(changes, Rule.NOT) == [("!s->x", "!!(s->x)")]
    assert _of(changes, Rule.BOUNDARY) == [("n < 8", "n <= 8")]
    assert _of(changes, Rule.RETURN) == [("f()", "return true;"), ("f()", "return false;")]
    assert _of(changes, Rule.CONSTANT) == [
        ("0", "1"),
        ("true", "false"),
        ("3", "4"),
        ("false", "true"),
        ("false", "true"),
    ]
    assert ("g(s->a, n, 3)", "g(s->a, 3, n)") in _of(changes, Rule.SWAP)


def test_what_has_no_mutant_is_counted() -> None:
    skipped = find_changes(CODE, dict.fromkeys(range(1, 100), "p")).skipped
    assert skipped["trace event or assertion"] == 1
    assert skipped["the whole of a branch: the same as to force its condition"] == 1
    assert skipped["last return of a function with a value"] == 1
    assert skipped["constant of a comparison: the same as to move its boundary"] == 1


def test_only_lines_of_the_series_change() -> None:
    assert _of(_found(CODE, 12), Rule.DELETE) == [("s->x = false;", ";")]
    assert not _of(_found(CODE, 10), Rule.DELETE)  # the statement begins on a line of the base


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (b"static const struct a b = {\n    .n = 1,\n};\n", ""),
        (b"void f(void)\n{\n    static int n = 1;\n    g(n);\n    h();\n}\n", "where the compiler needs a constant"),
        (b"void f(void)\n{\n    QTAILQ_INSERT_TAIL(&a, 1, next);\n    h();\n}\n", "in the arguments of a macro"),
        (b"int f(int a)\n{\n    int b = a ?: 2;\n    return b;\n}\n", "condition whose value is used"),
    ],
)
def test_places_that_cannot_change(code: bytes, reason: str) -> None:
    found = find_changes(code, dict.fromkeys(range(1, 10), "p"))
    assert "1" not in [original for original, _ in _of(found.changes, Rule.CONSTANT)]
    assert not reason or found.skipped[reason] == 1


def test_woven_text_keeps_lines_and_nesting() -> None:
    changes = [change for change in _found(CODE, 6) if Rule.SWAP not in change.rules]
    numbered, number = [], 1
    for change in changes:
        numbered.append((number, change))
        number += len(change.rules)
    woven = weave(CODE, numbered)
    assert woven.count(b"\n") == CODE.count(b"\n")
    assert woven.splitlines()[5].strip() == (
        b"if (cprlib_condition(1, !!((cprlib_mutant(4) ? ((!s->x) || (n < 8)) : ("
        b"(cprlib_mutant(5) ? (!!(s->x)) : (!s->x)) && (cprlib_mutant(6) ? (n <= 8) : (n < 8))))))) {"
    )


def test_at_sign_of_the_source_stays() -> None:
    code = b"int f(int c)\n{\n    return c == '@' && c < 70;\n}\n"
    changes = [change for change in _found(code) if Rule.LOGIC in change.rules]
    assert b"(cprlib_mutant(7) ? ((c == '@') || (c < 70)) : (" in weave(code, [(7, changes[0])])
