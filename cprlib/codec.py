"""Frozen dataclasses to JSON and back, by their type hints.

A field whose Python name ends in an underscore has the JSON name without it (``return_`` is ``return``).
Reading is strict about types and lenient about keys it does not know, so that an older reader takes what a
newer writer added.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

Value = TypeVar("Value")


class BadValue(ValueError):
    """A JSON value does not fit; the message names the path to it: ``loss.forward: text where a number is wanted``."""


def json_name(field_name: str) -> str:
    """The name of a field in JSON."""
    return field_name.rstrip("_")


def encode(value: object) -> Any:
    """A JSON value for a dataclass, an enum, a mapping, a tuple or a plain value.

    :raises BadValue: the value has no JSON form (a float that is no number, a foreign object).
    """
    if isinstance(value, enum.Enum):
        return value.value
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise BadValue(f"{value} cannot be written as JSON; use None for what is not known")
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {json_name(f.name): encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): encode(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [encode(member) for member in value]
    raise BadValue(f"a {type(value).__name__} cannot be written as JSON")


def decode(wanted: type[Value], value: object, path: str = "") -> Value:
    """The dataclass ``wanted`` from a JSON object.

    :raises BadValue: a member is missing that has no default, or has the wrong type.
    """
    return typing.cast(Value, _decode(wanted, value, path))


def _decode(wanted: Any, value: object, path: str) -> Any:
    origin = typing.get_origin(wanted)
    arguments = typing.get_args(wanted)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _decode_union([choice for choice in arguments if choice is not type(None)], value, path)
    if origin is tuple:
        if not isinstance(value, list):
            raise _mismatch(path, "a list", value)
        return tuple(_decode(arguments[0], member, f"{path}[{index}]") for index, member in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            raise _mismatch(path, "an object", value)
        return {key: _decode(arguments[1], member, f"{path}.{key}") for key, member in value.items()}
    if dataclasses.is_dataclass(wanted):
        return _decode_dataclass(typing.cast(type, wanted), value, path)
    return _decode_plain(wanted, value, path)


def _decode_union(choices: list[Any], value: object, path: str) -> Any:
    errors = []
    for choice in choices:
        try:
            return _decode(choice, value, path)
        except BadValue as error:
            errors.append(error)
    raise errors[0]


def _decode_dataclass(wanted: type, value: object, path: str) -> Any:
    if not isinstance(value, dict):
        raise _mismatch(path, "an object", value)
    hints = typing.get_type_hints(wanted)
    members = {}
    for field in dataclasses.fields(wanted):
        name = json_name(field.name)
        here = f"{path}.{name}" if path else name
        if name in value:
            members[field.name] = _decode(hints[field.name], value[name], here)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise BadValue(f"{here}: missing")
    return wanted(**members)


def _decode_plain(wanted: Any, value: object, path: str) -> Any:
    if isinstance(wanted, type) and issubclass(wanted, enum.Enum):
        try:
            return wanted(value)
        except ValueError:
            known = ", ".join(str(member.value) for member in wanted)
            raise BadValue(f"{path}: {value!r} is none of {known}") from None
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if wanted is object:
        return value
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        raise _mismatch(path, _NAMES.get(wanted, wanted.__name__), value)
    return value


_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def _mismatch(path: str, wanted: str, value: object) -> BadValue:
    return BadValue(f"{path or 'value'}: {type(value).__name__} where {wanted} is wanted")
