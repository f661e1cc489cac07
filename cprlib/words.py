"""Numbers and lists as sentences have them, and text of others without its control characters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

LISTED = 6  # items of a list in a sentence


def counted(count: int, noun: str = "packet") -> str:
    """``1 packet`` or ``7,000 packets``; ``2 processes``."""
    plural = "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}{'' if count == 1 else plural}"


def listed(items: Iterable[object], most: int = LISTED, separator: str = "; ") -> str:
    """The first items, and how many more there are: ``tap0; tap1; and 3 more``."""
    return separator.join(first_of([str(item) for item in items], most))


def first_of(texts: Sequence[str], most: int, more: str = "and {} more") -> list[str]:
    """The first ones, and how many more there are as a text of its own."""
    return [*texts[:most], *([more.format(len(texts) - most)] if len(texts) > most else [])]


def printable(text: str, keep: str = "\n\t") -> str:
    """Untrusted text with a replacement character for each that cannot be printed, such as a control character.

    :param keep: characters that stay.
    """
    rest = text.translate(dict.fromkeys(map(ord, keep)))
    return text if rest.isprintable() else "".join(c if c.isprintable() or c in keep else "\ufffd" for c in text)
