"""A stored result: what it was made from, so that a resumed run keeps it only while that is unchanged."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cprlib import files
from cprlib.build import store
from cprlib.campaign.store import STORE_VERSION
from cprlib.codec import BadValue, dump_json, load_json
from cprlib.errors import InstrumentError
from cprlib.files import INSTALLED_PROJECT, import_folder, project_folder

RESULT_FILE = "result.json"

# The code that a test runs: the package, data, the lab's first process and the helpers beside the tests. A test's own
# file is in its key. Commands and campaigns do not run in a test.
FOLDERS = ("cprlib", "fixtures", "images/lab", "tests/functional")
LEFT_OUT = ("cprlib/cli", "cprlib/campaign", f"cprlib/{INSTALLED_PROJECT}")
SUFFIXES = (".py", ".toml", ".yaml", ".c", ".h")


@dataclass(frozen=True, slots=True)
class ResultRecord:
    """``result.json`` in a job's folder.

    :param build: ``good/run-1`` or ``mutants/<name>``.
    :param test: id of the test's case.
    :param key: digest of the inputs (:func:`result_key`).
    :param started_ns: start of Avocado, CLOCK_REALTIME.
    :param seconds: from then to the end of Avocado.
    :param lab_lost: labs that died under the test.
    :param changed: an input was edited while the test ran, so the key may be wrong.
    """

    build: str
    test: str
    key: str
    started_ns: int = 0
    seconds: float = 0.0
    lab_lost: int = 0
    changed: bool = False
    version: int = STORE_VERSION

    def write(self, folder: Path) -> None:
        """Write ``result.json``."""
        files.write_text(folder / RESULT_FILE, dump_json(self, indent=1), mode=0o600)

    @classmethod
    def read(cls, folder: Path) -> ResultRecord:
        """Read ``result.json``.

        :raises InstrumentError: it is missing, broken, or of another version of this program.
        """
        path = folder / RESULT_FILE
        try:
            record = load_json(cls, path.read_bytes())
        except (OSError, BadValue) as error:
            raise InstrumentError(f"read {path}", str(error)) from error
        if record.version != STORE_VERSION:
            raise InstrumentError(f"read {path}", f"version {record.version}, this program reads {STORE_VERSION}")
        return record


def code_digest(top: Path | None = None) -> str:
    """Digest of the project's code that every test runs: cprlib, fixtures, helpers, the lab's first process.

    :param top: the checkout; this one, or the installed package, when None.
    """
    total = hashlib.sha256()
    for name, path in _code_files(top):
        total.update(f"{name}\0".encode())
        try:
            total.update(hashlib.sha256(path.read_bytes()).digest())
        except FileNotFoundError:
            continue  # removed since the listing: the digest changes either way
    return total.hexdigest()


def _code_files(top: Path | None) -> Iterable[tuple[Path, Path]]:
    """Files with their names in a checkout, also when installed."""
    for name in FOLDERS:
        root = top or (import_folder() if name == "cprlib" else project_folder())
        left_out = [root / folder for folder in LEFT_OUT]
        for path in sorted((root / name).rglob("*")):
            hidden = path.name.startswith((".", "test_")) or "__pycache__" in path.parts
            if path.suffix in SUFFIXES and not hidden and not any(path.is_relative_to(item) for item in left_out):
                yield path.relative_to(root), path


def result_key(test_file: Path, code: str, others: Mapping[str, str]) -> str:
    """The key of a result.

    :param code: from :func:`code_digest`.
    :param others: digests of the build, Avocado's parameters, engine and lab kernel; files that the store names by
        their content (guest, lab kernel) by their paths.
    """
    text = "\n".join(f"{name}={value}" for name, value in sorted(others.items()))
    return store.key_of(test=test_file, code=code, others=text)
