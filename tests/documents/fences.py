"""A Markdown file line by line, each with the fenced block that it stands in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SHELL = "sh"


@dataclass(frozen=True, slots=True)
class FencedLine:
    """One line; in a block of shell, one that goes on is joined with those that follow.

    :param number: of the line in the file, from 1; of the last one, where lines are joined.
    :param block: what the fence says (``sh``, ``yaml``, or nothing); None outside of blocks.
    :param text: without the fence's own lines, indentation kept outside of shell.
    """

    number: int
    block: str | None
    text: str


def fenced_lines(page: Path) -> Iterator[FencedLine]:
    """All lines of a page but the fences."""
    block: str | None = None
    joined = ""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if line.lstrip().startswith("```"):
            block = line.strip().strip("`") if block is None else None
        elif block != SHELL:
            yield FencedLine(number, block, line)
        elif line.endswith("\\"):
            joined += line.strip().removesuffix("\\")
        else:
            yield FencedLine(number, block, joined + line.strip())
            joined = ""
