"""Numbers and lists as sentences have them, and text of others without its control characters."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

LISTED = 6  # items of a list in a sentence


def counted(count: int, noun: str = "packet") -> str:
    """``1 packet`` or ``7,000 packets``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def listed(items: Iterable[object], most: int = LISTED) -> str:
    """The first items, and how many more there are: ``tap0; tap1; and 3 more``."""
    return "; ".join(first_of([str(item) for item in items], most))


def first_of(texts: Sequence[str], most: int, more: str = "and {} more") -> list[str]:
    """The first ones, and how many more there are as a text of its own."""
    return [*texts[:most], *([more.format(len(texts) - most)] if len(texts) > most else [])]


def printable(text: str) -> str:
    """Untrusted text without control and bidirectional characters, which a terminal would obey; lines and tabs stay."""
    return "".join(
        character
        if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co")
        else "\ufffd"
        for character in text
    )
