"""Records to JSON and back, by their type hints (msgspec), with one kind of error.

Reading is strict about types and accepts members it does not know, so that an older reader reads a newer file. Records
are frozen dataclasses; one that has a member named like a Python keyword is a :class:`msgspec.Struct` with ``rename``.
"""

from __future__ import annotations

import json
import re
import threading
import tomllib
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from cprlib.errors import UsageError

Value = TypeVar("Value")

Count = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[float, msgspec.Meta(gt=0, le=1e12)]
Name = Annotated[str, msgspec.Meta(min_length=1)]
_DECODING = threading.RLock()
"""msgspec 0.22 crashes when two threads use the same dataclass for the first time: one thread decodes at a time."""


class BadValue(ValueError):
    """A value does not fit its type; the message has the path to it: ``loss.forward: Expected `int` ...``."""


def encode(value: object) -> Any:
    """A record as JSON values: dicts, lists, texts and numbers.

    :raises BadValue: as :func:`dump_json`.
    """
    return json.loads(dump_json(value, indent=None))


def decode(kind: type[Value], value: object) -> Value:
    """The record ``kind`` from plain values.

    :raises BadValue: a member without default is missing, or a member has another type.
    """
    try:
        with _DECODING:
            return msgspec.convert(value, kind, str_keys=True, dec_hook=_from_text)
    except (msgspec.ValidationError, RecursionError) as error:
        raise BadValue(_with_path_first(str(error))) from error


def dump_json(value: object, *, indent: int | None = 2) -> str:
    """A record as the text of a JSON file, in ASCII.

    A surrogate without its partner, as Python has for a byte that is no UTF-8, becomes a question mark: its meaning is
    undefined (RFC 8259, section 8.2), and :func:`load_json` refuses it.

    :raises BadValue: it has no JSON form, as infinity and NaN; use None for what is not known.
    """
    separators = (",", ": ") if indent else (",", ":")
    try:
        plain = msgspec.to_builtins(value, str_keys=True, enc_hook=_to_text)
        text = json.dumps(plain, indent=indent, separators=separators, allow_nan=False)
        if "\\ud" in text:  # a surrogate; pairs stay as they are
            plain = json.loads(json.dumps(plain, ensure_ascii=False).encode("utf-8", "replace"))
            text = json.dumps(plain, indent=indent, separators=separators)
        return text + "\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise BadValue(str(error)) from error


def load_json(kind: type[Value], text: str | bytes) -> Value:
    """The record ``kind`` from the text of a JSON file.

    :raises BadValue: no JSON, or as :func:`decode`.
    """
    try:
        with _DECODING:
            return msgspec.json.decode(text, type=kind, dec_hook=_from_text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadValue(_with_path_first(str(error))) from error


def load_toml(kind: type[Value], path: Path, advice: str) -> Value:
    """The record ``kind`` from a TOML file.

    :param advice: of the error.
    :raises UsageError: it cannot be read, is no TOML, or as :func:`decode`.
    """
    try:
        return decode(kind, tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UsageError(f"read {path}", str(error), advice) from error


def _to_text(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _from_text(kind: type, value: object) -> Path:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise TypeError(f"Expected {kind.__name__}")


def _with_path_first(message: str) -> str:
    """``loss.forward: missing``: msgspec ends its messages with the path, a reader looks for the path first."""
    found = re.fullmatch(r"(.*?)(?: - at `\$\.?(.*)`)?", message, re.DOTALL)
    assert found
    happened, path = found[1], found[2] or ""
    if missing := re.fullmatch(r"Object missing required field `(.*)`", happened):
        return f"{path}.{missing[1]}: missing".removeprefix(".")
    return f"{path}: {happened}" if path else happened
