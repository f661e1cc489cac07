"""What a cell is made of, as a key: when an input changes, the cell has to be run anew."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from cprlib.build import store
from cprlib.files import INSTALLED_PROJECT, import_folder, project_folder

# What runs in a test: the package, data, the lab's first process and the helpers beside the tests. A test's own file
# is in its key. Commands and campaigns do not run in a test.
FOLDERS = ("cprlib", "fixtures", "images/lab", "tests/functional")
APART = ("cprlib/cli", "cprlib/campaign", f"cprlib/{INSTALLED_PROJECT}")
SUFFIXES = (".py", ".toml", ".yaml", ".c", ".h")


def code_digest(top: Path | None = None) -> str:
    """Digest of the project's code that every test runs: cprlib, fixtures, helpers, the lab's first process.

    :param top: the checkout; this one, or what is installed, when None.
    """
    total = hashlib.sha256()
    for name, path in _code_files(top):
        total.update(f"{name}\0".encode())
        try:
            total.update(hashlib.sha256(path.read_bytes()).digest())
        except FileNotFoundError:
            continue  # removed while we look: another digest than before either way
    return total.hexdigest()


def _code_files(top: Path | None) -> Iterable[tuple[Path, Path]]:
    """Files with their names in a checkout, whether they are in one or not."""
    for name in FOLDERS:
        root = top or (import_folder() if name == "cprlib" else project_folder())
        apart = [root / name for name in APART]
        for path in sorted((root / name).rglob("*")):
            hidden = path.name.startswith((".", "test_")) or "__pycache__" in path.parts
            if path.suffix in SUFFIXES and not hidden and not any(path.is_relative_to(folder) for folder in apart):
                yield path.relative_to(root), path


def cell_key(test_file: Path, code: str, others: Mapping[str, str]) -> str:
    """The key of one cell.

    :param code: from :func:`code_digest`.
    :param others: digests of the build, Avocado's parameters, and the place; files that the store names by their
        content (guest, lab kernel) by their paths.
    """
    text = "\n".join(f"{name}={value}" for name, value in sorted(others.items()))
    return store.key_of(test=test_file, code=code, others=text)
