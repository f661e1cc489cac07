"""Reads policies from TOML; an unknown or invalid value is an error that names file and line.

A file may have ``extends = "default"``: the name of a shipped policy, or a path relative to the file. The file then
changes single keys of that policy; otherwise it changes the strict values of :mod:`cprlib.verdict.policy`.
"""

from __future__ import annotations

import re
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from msgspec import structs

from cprlib import files
from cprlib.codec import Count, Positive
from cprlib.errors import UsageError
from cprlib.verdict.policy import Policy, PolicyTable

ADVICE = "docs/reading-a-report.md describes policies"
NO_LIMIT = "none"  # TOML has no null
TOP_LEVEL = ("description", "retries", "extends")
TYPE_NAMES = {Count: "a whole number, 0 or more", Positive: "a number above 0", bool: "true or false", str: "text"}


def _policies_folder() -> Path:
    return files.project_folder() / "fixtures" / "policies"


def shipped_policies() -> tuple[str, ...]:
    """Names of the policies that come with the project."""
    return tuple(sorted(path.stem for path in _policies_folder().glob("*.toml")))


def load_policy(name_or_path: str | Path) -> Policy:
    """The policy of that name, or in that file (a name with a ``/`` or ending in ``.toml`` is a path).

    :raises UsageError: no such policy, or an invalid file; the message has file and line.
    """
    return _load(_find(str(name_or_path), Path()), ())


def _find(name: str, base: Path) -> Path:
    if "/" in name or name.endswith(".toml"):
        return base / name
    if name not in shipped_policies():
        advice = f"choose one of {', '.join(shipped_policies())} or give the path of a TOML file"
        raise UsageError(f"use policy {name!r}", "there is no policy of that name", advice)
    return _policies_folder() / f"{name}.toml"


@dataclass(frozen=True, slots=True)
class _Source:
    """The text of a policy file, to find lines in."""

    path: Path
    text: str

    def line_of(self, table: str, key: str = "") -> int:
        """The line of a key in a table, of the table's header for no key, or 1 where neither is found."""
        current, header = "", 1
        for number, line in enumerate(self.text.splitlines(), 1):
            if found := re.match(r"\s*\[{1,2}\s*([\w\"'. -]+?)\s*\]", line):
                current = found[1].strip("\"'")
                if current == (f"{table}.{key}" if key else table):
                    return number
                header = number if current == table else header
            elif found := re.match(r"\s*[\"']?([\w. -]+?)[\"']?\s*=", line):
                if key and current == table and found[1] == key:
                    return number
                if not current and found[1] in (table, f"{table}.{key}"):  # inline table or dotted key
                    return number
        return header

    def error(self, happened: str, line: int) -> UsageError:
        return UsageError(f"use policy {self.path}", f"line {line}: {happened}", ADVICE)


def _load(path: Path, seen: tuple[Path, ...]) -> Policy:
    try:
        source = _Source(path, path.read_text(encoding="utf-8"))
        values = tomllib.loads(source.text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"use policy {path}", str(error), "correct the TOML there") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"use policy {path}", str(error), "give the path of a TOML file") from error

    seen = (*seen, path.resolve())
    policy = Policy()
    if "extends" in values:
        policy = _load(_extended(source, values["extends"], seen), seen)

    changes: dict[str, Any] = {"name": path.stem, "description": ""}
    fields = {field.name: field for field in structs.fields(Policy)}
    tables = [name for name in fields if isinstance(getattr(policy, name), PolicyTable)]
    for name, value in values.items():
        if name in tables:
            if not isinstance(value, dict):
                raise source.error(f"{name} must be a table", source.line_of(name))
            changes[name] = _table(source, name, getattr(policy, name), value)
        elif name not in TOP_LEVEL:
            kind, known = ("table", tables) if isinstance(value, dict) else ("key", TOP_LEVEL)
            happened = f"unknown {kind} {name!r} (known: {', '.join(sorted(known))})"
            raise source.error(happened, source.line_of(name))
        elif name != "extends":
            changes[name] = _value(source, "", name, fields[name].type, value)
    policy = structs.replace(policy, **changes)
    _refuse_contradictions(source, policy, values)
    return policy


def _extended(source: _Source, parent: object, seen: tuple[Path, ...]) -> Path:
    """The file that a policy extends.

    :param seen: the files that led here, which it must not be.
    """
    line = source.line_of("", "extends")
    if not isinstance(parent, str):
        raise source.error("extends must be text", line)
    try:
        path = _find(parent, source.path.parent)
    except UsageError as error:
        raise source.error(f"extends {parent!r}: {error.happened}; {error.advice}", line) from error
    if not path.is_file():
        raise source.error(f"extends {parent!r}: there is no file {path}", line)
    if path.resolve() in seen:
        raise source.error(f"extends {parent!r}, which extends this file", line)
    return path


def _table(source: _Source, table: str, current: PolicyTable, values: Mapping[str, object]) -> PolicyTable:
    fields = {field.encode_name: field for field in structs.fields(current)}
    changes = {}
    for key, value in values.items():
        if key not in fields:
            known = ", ".join(fields)
            raise source.error(f"unknown key {key!r} in [{table}] (known: {known})", source.line_of(table, key))
        changes[fields[key].name] = _value(source, table, key, fields[key].type, value)
    return structs.replace(current, **changes)


def _value(source: _Source, table: str, key: str, kind: Any, value: object) -> object:
    """A TOML value as the field's type has it, or an error with the line."""
    if value == NO_LIMIT and type(None) in typing.get_args(kind):
        return None
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise source.error(f"{key} must be {_describe(kind)}", source.line_of(table, key)) from error


def _describe(kind: Any) -> str:
    """The name of this type of values in an error."""
    if kind in TYPE_NAMES:
        return TYPE_NAMES[kind]
    if typing.get_origin(kind) is typing.Literal:
        return " or ".join(f'"{choice}"' for choice in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        return "a list of texts"
    return next(_describe(choice) for choice in typing.get_args(kind) if choice is not type(None))  # Positive | None


def _refuse_contradictions(source: _Source, policy: Policy, values: Mapping[str, Any]) -> None:
    """Refuse a setting that another one makes meaningless."""
    unmeasured = "a limit, but required = false lets cases without the measurement pass"
    skips, interruption = policy.skips, policy.interruption
    everything = "*" in skips.allow and "*" in skips.allow_checks
    rules = (
        (
            "skips",
            "whole_mechanism",
            skips.whole_mechanism and not skips.allow,
            "whole mechanisms may be skipped, but allow lists no skip at all",
        ),
        ("skips", "otherwise", everything, "allow = all leaves nothing otherwise"),
        ("interruption", "max_ms", not interruption.required, unmeasured),
        ("interruption", "max_ratio", not interruption.required, unmeasured),
    )
    for table, key, contradicted, reason in rules:
        if contradicted and values.get(table, {}).get(key, NO_LIMIT) != NO_LIMIT:
            raise source.error(f"[{table}] {key} contradicts the rest: {reason}", source.line_of(table, key))
