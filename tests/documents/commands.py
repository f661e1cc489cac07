"""The shell commands in README.md, CONTRIBUTING.md and docs/, in the order in which a reader meets them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SHELL = "sh"
COMMENT = re.compile(r"(?:^|\s+)#\s.*$")
NAVIGATION = re.compile(r": (\S+\.md)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class MarkdownLine:
    """One line of a Markdown file, without the lines of the fences; continued shell lines are joined.

    :param number: in the file, from 1; of the last one of joined lines.
    :param block: language of the fenced block (``sh``, ``yaml``, or empty); None outside of blocks.
    :param text: the line; indentation is kept outside of shell blocks.
    """

    number: int
    block: str | None
    text: str


@dataclass(frozen=True, slots=True)
class ShownCommand:
    """One command of a shell block.

    :param page: file name.
    :param number: of its line, from 1.
    :param text: without comments, continued lines joined.
    """

    page: str
    number: int
    text: str

    @property
    def location(self) -> str:
        """For messages: ``tutorial.md:13``."""
        return f"{self.page}:{self.number}"


def markdown_lines(page: Path) -> Iterator[MarkdownLine]:
    """All lines of a page."""
    block: str | None = None
    joined = ""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if line.lstrip().startswith("```"):
            block = line.strip().strip("`") if block is None else None
        elif block != SHELL:
            yield MarkdownLine(number, block, line)
        elif line.endswith("\\"):
            joined += line.strip().removesuffix("\\")
        else:
            yield MarkdownLine(number, block, joined + line.strip())
            joined = ""


def shown_commands(page: Path) -> Iterator[ShownCommand]:
    """The commands of one page."""
    for line in markdown_lines(page):
        if line.block == SHELL and (text := COMMENT.sub("", line.text)):
            yield ShownCommand(page.name, line.number, text)


def pages(top: Path) -> list[Path]:
    """README.md and CONTRIBUTING.md, then docs/ in the order of the site's navigation.

    :param top: the project's folder.
    """
    order = NAVIGATION.findall((top / "mkdocs.yml").read_text(encoding="utf-8"))
    named = [top / "README.md", top / "CONTRIBUTING.md", *(top / "docs" / name for name in order)]
    return [page for page in named if page.exists()]  # packages.md is generated
