"""The commands that README and the documents show in blocks of shell, in a reader's order."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.documents.fences import SHELL, fenced_lines

COMMENT = re.compile(r"(?:^|\s+)#\s.*$")


@dataclass(frozen=True, slots=True)
class Shown:
    """One command of a block.

    :param page: file name; :param number: of its line, from 1.
    :param text: as a reader types it: lines that go on are joined, comments are left out.
    """

    page: str
    number: int
    text: str

    @property
    def place(self) -> str:
        """For messages: ``tutorial.md:13``."""
        return f"{self.page}:{self.number}"


def pages(top: Path) -> list[Path]:
    """README, then the documents in the order of the site's navigation.

    :param top: the project's folder.
    """
    order = re.findall(r": (\S+\.md)$", (top / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    named = [top / "README.md", top / "CONTRIBUTING.md", *(top / "docs" / name for name in order)]
    return [page for page in named if page.exists()]  # one page is made when the site is built


def shown_in(page: Path) -> Iterator[Shown]:
    """The commands of one page."""
    for line in fenced_lines(page):
        if line.block == SHELL and (text := COMMENT.sub("", line.text)):
            yield Shown(page.name, line.number, text)
