"""Small changes of C code by rule: the mutants of the lines that a series adds (`cprlib prove --generated`).

Each change is written as text around the original one, so that a program holds all of them and takes one by its
number (mutant schemata: Untch, Offutt, Harrold, ISSTA 1993): see :mod:`cprlib.build.generated_mutants`.
"""

from __future__ import annotations

import collections
import enum
import itertools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import tree_sitter_c
from tree_sitter import Language, Node, Parser

MACRO = re.compile(rb"[A-Z][A-Z0-9_]*|container_of|offsetof|g_new0?|glue|stringify")
DECLARING_MACRO = re.compile(rb"[A-Z0-9_]*GUARD[A-Z0-9_]*|[A-Z]+_FOREACH[A-Z_]*")
NO_BEHAVIOUR = re.compile(rb"trace_\w+|assert|g_assert\w*")
NUMBER = re.compile(rb"-?\d+")
NUMBER_PLACE = b"\0"  # C text has none
CONDITIONAL_CODE = ("preproc_ifdef", "preproc_if", "preproc_else", "preproc_elif")
SIMPLE_ARGUMENTS = ("identifier", "field_expression", "number_literal", "true", "false", "pointer_expression")
LARGER_OR_EQUAL = {b"<": b"<=", b"<=": b"<", b">": b">=", b">=": b">"}
SAME_AS_NEXT = (b"<", b">=")  # x < 1 is x <= 0
OTHER_OPERATOR = {b"&&": b"||", b"||": b"&&", **LARGER_OR_EQUAL}
EARLY_RETURNS = {b"void": (b"",), b"bool": (b" true", b" false"), b"int": (b" 0", b" -1"), b"ssize_t": (b" 0", b" -1")}


class Rule(enum.StrEnum):
    """Kinds of changes."""

    DELETE = "delete the statement"
    NEGATE = "negate the condition"
    ALWAYS = "condition always true"
    NEVER = "condition always false"
    CONSTANT = "change the constant by one"
    RETURN = "return early"
    SWAP = "swap two arguments of one type"
    LOGIC = "exchange && and ||"
    BOUNDARY = "move the boundary by one"
    NOT = "drop the !"


@dataclass(frozen=True, slots=True)
class CodeChange:
    """One mutant of a file, or the three of a condition.

    :param rules: one, or those of a condition; their mutants have consecutive numbers.
    :param line, last_line: first and last line of the changed text, from 1.
    :param function: in which it is.
    :param original: the text that is changed, on one line.
    :param mutated: what each rule makes from it.
    :param start: offset of the first byte of the text. :param end: offset behind the last one.
    :param before: is put before the text; a NUL byte stands for the number of the (first) mutant.
    :param after: is put behind it.
    """

    rules: tuple[Rule, ...]
    line: int
    last_line: int
    function: str
    original: str
    mutated: tuple[str, ...]
    start: int
    end: int
    before: bytes
    after: bytes = b""
    #: of a swap: positions of the two arguments
    swapped: tuple[int, int] | None = None


@dataclass(slots=True)
class Changes:
    """The mutants of a file.

    :param skipped: how often a rule would apply where its mutant cannot be written or has no meaning, by reason.
    """

    changes: list[CodeChange] = field(default_factory=list)
    skipped: collections.Counter[str] = field(default_factory=collections.Counter)


def find_changes(source: bytes, lines: Mapping[int, str]) -> Changes:
    """The mutants of a file.

    :param lines: numbers of the lines to change, from 1; a text is changed when it starts on one of these.
    """
    finder = _Finder(source, lines)
    finder.visit(_parsed(source), _Place())
    return finder.found


def lines_of_functions(source: bytes, names: Collection[str]) -> dict[int, str]:
    """The lines of functions, from 1, each with the name of its function.

    :param names: of functions; those that the file does not define are left out.
    """
    return {
        line: name
        for node in _definitions(_parsed(source))
        if (name := _name_of(node)) in names
        for line in range(node.start_point[0] + 1, node.end_point[0] + 2)
    }


def weave(source: bytes, changes: Sequence[tuple[int, CodeChange]]) -> bytes:
    """The text of a file with mutants in it; line numbers stay.

    :param changes: each with the number of its (first) mutant.
    """
    inserts: list[tuple[int, int, int, bytes]] = []
    for number, change in changes:
        size, digits = change.end - change.start, str(number).encode()
        # At one offset: ends before starts, inner ends first, outer starts first; a pair of equal size stays nested.
        inserts.append((change.start, 1, -size * 100_000 + number, change.before.replace(NUMBER_PLACE, digits)))
        if change.after:
            inserts.append((change.end, 0, size * 100_000 - number, change.after))
    parts, position = [], 0
    for offset, _, _, text in sorted(inserts):
        parts += [source[position:offset], text]
        position = offset
    return b"".join([*parts, source[position:]])


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a node is.

    :param function: empty outside of functions. :param macro: inside the arguments of a macro.
    :param constant: where the compiler wants a constant.
    :param controls: it is the whole condition of a statement.
    """

    function: str = ""
    macro: bool = False
    constant: bool = False
    controls: bool = False


class _Finder:
    def __init__(self, source: bytes, lines: Mapping[int, str]) -> None:
        self._source = source
        self._lines = lines
        self.found = Changes()

    def visit(self, node: Node, place: _Place) -> None:
        directive = node.type.startswith("preproc_") and node.type not in CONDITIONAL_CODE
        if node.is_error or node.is_missing or directive:
            return
        if node.start_point[0] + 1 in self._lines and (place.function or node.type == "function_definition"):
            self._apply(node, place)
        for child in node.children:
            self.visit(child, self._place_of(child, node, place))

    def _place_of(self, child: Node, node: Node, place: _Place) -> _Place:
        function, macro, constant = place.function, place.macro, place.constant
        if node.type == "function_definition":
            function = _name_of(node) if child.type == "compound_statement" else ""
        if node.type == "call_expression" and child.type == "argument_list":
            macro = macro or MACRO.fullmatch(self._text(node.children[0])) is not None
        if node.type == "declaration" and any(self._text(item) == b"static" for item in node.children):
            constant = True
        if node.type in ("case_statement", "array_declarator", "enumerator", "sizeof_expression", "bitfield_clause"):
            constant = constant or (child.type != "compound_statement" and not child.type.endswith("_statement"))
        controls = self._controls(child, node) or (
            child.is_named and place.controls and node.type == "parenthesized_expression"
        )
        return _Place(function, macro, constant, controls)

    @staticmethod
    def _controls(child: Node, node: Node) -> bool:
        kinds = ("if_statement", "while_statement", "do_statement", "for_statement", "conditional_expression")
        return child.is_named and node.type in kinds and child == node.child_by_field_name("condition")

    def _apply(self, node: Node, place: _Place) -> None:
        for change in self._changes_of(node, place):
            if place.macro:
                self.found.skipped["in the arguments of a macro"] += 1
            elif place.constant or (not place.function and Rule.RETURN not in change.rules):
                self.found.skipped["where the compiler needs a constant"] += 1
            else:
                self.found.changes.append(change)

    def _changes_of(self, node: Node, place: _Place) -> Iterator[CodeChange]:
        if place.controls and node.type != "parenthesized_expression":
            yield from self._condition(node, place)
        match node.type:
            case "expression_statement" | "goto_statement" | "return_statement" | "break_statement":
                yield from self._deleted(node, place)
            case "binary_expression":
                yield from self._operator(node, place)
            case "unary_expression":
                yield from self._without_not(node, place)
            case "number_literal" | "true" | "false":
                yield from self._constant(node, place)
            case "call_expression":
                yield from self._swapped(node, place)
            case "function_definition":
                yield from self._early(node)
            case _:
                pass

    def _condition(self, node: Node, place: _Place) -> Iterator[CodeChange]:
        parent = _parent(node)
        if parent.type == "conditional_expression" and parent.child_by_field_name("consequence") is None:
            self.found.skipped["condition whose value is used"] += 1
            return
        text = self._line(node)
        rules = (Rule.NEGATE, Rule.ALWAYS, Rule.NEVER)
        mutated = (f"!({text})", "true", "false")
        yield self._change(rules, node, place.function, mutated, b"cprlib_condition(\0, !!(", b"))")

    def _deleted(self, node: Node, place: _Place) -> Iterator[CodeChange]:
        parent = _parent(node)
        if not self._text(node).endswith(b";"):
            return  # the parser took a macro with a block for a statement
        called = next((item for item in node.children if item.type == "call_expression"), None)
        name = self._text(called.children[0]) if called else b""
        alone = [item for item in parent.children if item.is_named and item.type != "comment"] == [node]
        block = _parent(parent) if parent.type == "compound_statement" and alone else parent
        if DECLARING_MACRO.fullmatch(name):
            self.found.skipped["statement that declares"] += 1
        elif NO_BEHAVIOUR.fullmatch(name):
            self.found.skipped["trace event or assertion"] += 1
        elif block.type in ("if_statement", "else_clause"):
            self.found.skipped["the whole of a branch: the same as to force its condition"] += 1
        elif node.type == "return_statement" and len(node.children) > 2 and parent == self._body_of(node):
            self.found.skipped["last return of a function with a value"] += 1
        elif block.type == "function_definition" and node.type == "expression_statement" and alone:
            self.found.skipped["the whole of a function: the same as to return early"] += 1
        else:
            yield self._change((Rule.DELETE,), node, place.function, (";",), b"{ if (!cprlib_mutant(\0)) { ", b" } }")

    def _operator(self, node: Node, place: _Place) -> Iterator[CodeChange]:
        left, operator, right = (node.child_by_field_name(name) for name in ("left", "operator", "right"))
        if left is None or operator is None or right is None or self._text(operator) not in OTHER_OPERATOR:
            return
        kind = self._text(operator)
        sides = [f"({self._line(item)})" if "_expression" in item.type else self._line(item) for item in (left, right)]
        text = f" {OTHER_OPERATOR[kind].decode()} ".join(sides)
        rule = Rule.BOUNDARY if kind in LARGER_OR_EQUAL else Rule.LOGIC
        yield self._value(rule, node, place.function, text)

    def _without_not(self, node: Node, place: _Place) -> Iterator[CodeChange]:
        operand = node.child_by_field_name("argument")
        if not self._text(node).startswith(b"!") or operand is None:
            return
        if place.controls:
            self.found.skipped["! of a whole condition: the same as to negate it"] += 1
            return
        yield self._value(Rule.NOT, node, place.function, f"!!({self._line(operand)})")

    def _constant(self, node: Node, place: _Place) -> Iterator[CodeChange]:
        text = self._text(node)
        if node.type == "number_literal" and not NUMBER.fullmatch(text):
            self.found.skipped["number that is not decimal"] += 1
            return
        parent = _parent(node)
        operator = parent.child_by_field_name("operator")
        is_right = operator is not None and node == parent.child_by_field_name("right")
        if is_right and operator is not None and self._text(operator) in SAME_AS_NEXT:
            self.found.skipped["constant of a comparison: the same as to move its boundary"] += 1
            return
        other = {b"true": "false", b"false": "true"}.get(text) or str(int(text) + 1)
        yield self._value(Rule.CONSTANT, node, place.function, other)

    def _swapped(self, node: Node, place: _Place) -> Iterator[CodeChange]:
        arguments = node.child_by_field_name("arguments")
        name = self._text(node.children[0])
        if arguments is None or MACRO.fullmatch(name) or NO_BEHAVIOUR.fullmatch(name):
            return
        items = [item for item in arguments.children if item.is_named and item.type != "comment"]
        simple = [index for index, item in enumerate(items) if item.type in SIMPLE_ARGUMENTS]
        for one, two in itertools.combinations(simple, 2):
            first, second = self._text(items[one]), self._text(items[two])
            if first != second:
                texts = [self._line(item) for item in items]
                texts[one], texts[two] = texts[two], texts[one]
                mutated = f"{name.decode()}({', '.join(texts)})"
                before = b"(CPRLIB_SWAP(\0, %s, %s) ? %s : (" % (first, second, mutated.encode())
                yield self._change((Rule.SWAP,), node, place.function, (mutated,), before, b"))", (one, two))

    def _early(self, node: Node) -> Iterator[CodeChange]:
        body, kind = node.child_by_field_name("body"), node.child_by_field_name("type")
        if body is None or kind is None:
            return
        pointer = getattr(node.child_by_field_name("declarator"), "type", "") == "pointer_declarator"
        values = (b" NULL",) if pointer else EARLY_RETURNS.get(self._text(kind), ())
        if not values or body.named_child_count == 0:
            self.found.skipped["function that cannot return early"] += 1
        name = _name_of(node)
        line = node.start_point[0] + 1
        at = body.start_byte + 1
        for value in values if body.named_child_count else ():
            before = b" if (cprlib_mutant(\0)) { return%s; }" % value
            text = f"return{value.decode()};"
            yield CodeChange((Rule.RETURN,), line, line, name, f"{name}()", (text,), at, at, before)

    def _value(self, rule: Rule, node: Node, function: str, mutated: str) -> CodeChange:
        before = b"(cprlib_mutant(\0) ? (%s) : (" % mutated.encode()
        return self._change((rule,), node, function, (mutated,), before, b"))")

    def _change(
        self,
        rules: tuple[Rule, ...],
        node: Node,
        function: str,
        mutated: tuple[str, ...],
        before: bytes,
        after: bytes,
        swapped: tuple[int, int] | None = None,
    ) -> CodeChange:
        first, last = node.start_point[0] + 1, node.end_point[0] + 1
        start, end = node.start_byte, node.end_byte
        return CodeChange(rules, first, last, function, self._line(node), mutated, start, end, before, after, swapped)

    def _body_of(self, node: Node) -> Node | None:
        while node.parent and node.type != "function_definition":
            node = node.parent
        return node.child_by_field_name("body")

    def _text(self, node: Node) -> bytes:
        return self._source[node.start_byte : node.end_byte]

    def _line(self, node: Node) -> str:
        """The text of a node on one line."""
        return " ".join(self._text(node).decode(errors="replace").split())


def _parsed(source: bytes) -> Node:
    return Parser(Language(tree_sitter_c.language())).parse(source).root_node


def _name_of(function: Node) -> str:
    """The name of a function, given its definition."""
    node = function.child_by_field_name("declarator")
    while node is not None and node.type != "identifier":
        node = node.child_by_field_name("declarator")
    return node.text.decode() if node and node.text else ""


def _definitions(node: Node) -> Iterator[Node]:
    """The definitions of functions, also under conditional code."""
    for child in node.children:
        if child.type == "function_definition":
            yield child
        elif child.type in CONDITIONAL_CODE:
            yield from _definitions(child)


def _parent(node: Node) -> Node:
    parent = node.parent
    assert parent is not None, "only the translation unit has no parent"
    return parent if parent.type != "parenthesized_expression" else _parent(parent)
