"""Which package of cprlib imports which, read from the sources, and the picture of it."""

from __future__ import annotations

import ast
import html
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
PACKAGE = TOP / "cprlib"
SUBJECTS: Mapping[str, str] = {
    "errors": "one exception tree",
    "deadline": "deadlines instead of sleeps",
    "files": "files whole or not at all; where things are",
    "process": "children that die with their parent",
    "cleanup": "what ends with its process even when that is killed",
    "codec": "records to JSON and back",
    "linux": "descriptors, kcmp(2), namespaces, links, tracefs",
    "traffic": "STAMP sender and capture, metrics, ledger",
    "qemu": "a QEMU: probe, command line, QMP",
    "guest": "image, console, agent",
    "update": "mechanisms, the live update, faults",
    "evidence": "records of case.json, checks that fill them",
    "verdict": "policies, the judge",
    "report": "results folder, run.json, pages",
    "build": "QEMU, variants, guest image, lab kernel",
    "lab": "engines, confinement, spawner, doctor",
    "testing": "what a test is written with",
    "campaign": "many jobs: prove, soak, compare",
    "cli": "the commands",
}
ROW, LEFT, COLUMN, HEAD = 24, 380, 24, 84
INK, SOFT, LINE, DOT = "#1b1f24", "#5b6570", "#d5dae0", "#2f5d8a"


def order() -> list[str]:
    """Packages and modules in the order of imports, as cprlib/__init__.py gives it."""
    text = ast.get_docstring(ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))) or ""
    found = re.search(r"::\n\n((?: {4}.*\n)+)", text)
    return found[1].split() if found else []


def parts() -> set[str]:
    """Packages and modules that there are, apart from programs of their own that need nothing of the others."""
    names = {path.stem for path in PACKAGE.glob("[!_]*.py")} | {
        path.parent.name for path in PACKAGE.glob("*/__init__.py")
    }
    return names - {"bootstrap", "cleanup_process"}


def imports() -> dict[str, dict[str, str]]:
    """Importing part -> imported part -> where: the first file and line. Imports inside of functions count too."""
    found: dict[str, dict[str, str]] = {name: {} for name in parts()}
    for name, theirs in found.items():
        folder = PACKAGE / name
        for path in sorted(folder.rglob("*.py")) if folder.is_dir() else [PACKAGE / f"{name}.py"]:
            for line, imported in _imported(ast.parse(path.read_text(encoding="utf-8"))):
                if imported != name and imported in found:
                    theirs.setdefault(imported, f"{path.relative_to(TOP)}:{line}")
    return found


def _imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            head, _, rest = node.module.partition(".")
            if head == "cprlib":
                names = [rest.partition(".")[0]] if rest else [alias.name for alias in node.names]
                yield from ((node.lineno, name) for name in names)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("cprlib."):
                    yield node.lineno, alias.name.split(".")[1]


def against_the_order(names: Sequence[str], found: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Imports of a part that comes later, with their places; there should be none."""
    place = {name: number for number, name in enumerate(names)}
    return [
        f"{where}: cprlib.{importing} imports cprlib.{imported}, which comes later"
        for importing, theirs in found.items()
        for imported, where in theirs.items()
        if place[imported] > place[importing]
    ]


def picture() -> str:
    """The imports as SVG: a row and a column for each part, a dot where the row's part imports the column's."""
    names, found = order(), imports()
    width, height = LEFT + COLUMN * len(names) + 16, HEAD + ROW * len(names) + 12
    parts_ = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="system-ui, Liberation Sans, DejaVu Sans, sans-serif" font-size="13" role="img">',
        "<title>Which package of cprlib imports which</title>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for number, name in enumerate(names):
        x, y = LEFT + COLUMN * number + COLUMN / 2, HEAD + ROW * number + ROW / 2
        right = LEFT + COLUMN * number
        parts_.append(f'<line x1="8" y1="{y + ROW / 2}" x2="{width - 8}" y2="{y + ROW / 2}" stroke="{LINE}"/>')
        parts_.append(f'<line x1="{x}" y1="{HEAD}" x2="{x}" y2="{y - 9}" stroke="{LINE}" stroke-dasharray="1 4"/>')
        parts_.append(
            f'<text transform="translate({x + 4} {HEAD - 8}) rotate(-60)" fill="{INK}">{name}</text>'
            f'<text x="8" y="{y + 4.5}" fill="{INK}" font-weight="600">{name}</text>'
            f'<text x="84" y="{y + 4.5}" fill="{SOFT}">{html.escape(SUBJECTS.get(name, ""))}</text>'
            f'<rect x="{right + 6}" y="{y - 6}" width="12" height="12" fill="none" stroke="{SOFT}"/>'
        )
        for imported, where in sorted(found[name].items()):
            across = LEFT + COLUMN * names.index(imported) + COLUMN / 2
            title = html.escape(f"{name} imports {imported}: {where}")
            parts_.append(f'<circle cx="{across}" cy="{y}" r="5" fill="{DOT}"><title>{title}</title></circle>')
    return "\n".join([*parts_, "</svg>"]) + "\n"
