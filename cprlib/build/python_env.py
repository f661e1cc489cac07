"""The project's Python environment: locked versions, the checkout linked in, bytecode compiled beforehand.

It is made once for each lock file, Python and checkout, in its final place (its programs name their interpreter by
path), and is never written afterwards: the lab sees it read-only.
"""

from __future__ import annotations

import compileall
import contextlib
import os
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from cprlib import __version__
from cprlib.build import store
from cprlib.build.progress import Progress
from cprlib.build.venv import make_venv, pip_install
from cprlib.files import cache_folder, locked, project_folder, write_text

LOCK = "requirements.lock"  # written by `tox -e lock`
NOT_COMPILED = re.compile(r"/(tests?|testing/data|sphinxext|lib2to3)/")
SCRIPT = """\
#!{python}
import sys

from {module} import {function}

if __name__ == "__main__":
    sys.exit({function}())
"""


def ensure_environment(progress: Progress) -> Path:
    """The environment's folder; made when it is missing or not whole.

    :raises DownloadFailed: packages are out of reach, in pip's own words.
    :raises MissingPackages: this Python cannot make environments.
    """
    project = project_folder()
    key = store.key_of(
        lock=project / LOCK, pyproject=project / "pyproject.toml", python=sys.version, checkout=str(project), recipe=1
    )
    folder = cache_folder() / "python" / key
    if not store.is_whole(folder):
        with store.no_space_in_one_line(f"make {folder}"), locked(folder.with_name(f".{key}.lock")):
            if not store.is_whole(folder):
                _make(folder, project, progress)
    _compile_checkout(project)
    return folder


def _make(folder: Path, project: Path, progress: Progress) -> None:
    with _removed_on_failure(folder):
        with progress.step("make the Python environment"):
            make_venv(folder, sys.executable)
        with progress.step("install Python packages"):
            _install(folder, project / LOCK)
        packages = next((folder / "lib").glob("python3.*/site-packages"))
        _link_checkout(packages, folder / "bin", project)
        with progress.step("compile Python packages"):
            # workers=0: one process per core; errors are those of templates that are no Python
            compileall.compile_dir(packages, quiet=2, workers=0, rx=NOT_COMPILED)
        store.write_listing(folder)


def _install(folder: Path, lock: Path) -> None:
    """Install the locked packages; pip checks the hash of each file."""
    arguments = ["--no-deps", "--only-binary=:all:", "--require-hashes", "--requirement", str(lock)]
    pip_install(folder, arguments, "install Python packages")


def _link_checkout(packages: Path, programs: Path, project: Path) -> None:
    """Make the checkout importable, with the programs and plugins of pyproject.toml, without writing to it."""
    settings = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (packages / "cprlib-checkout.pth").write_text(f"{project}\n", encoding="utf-8")
    info = packages / f"cprlib-{__version__}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: cprlib\nVersion: {__version__}\n", encoding="utf-8")
    (info / "INSTALLER").write_text("cprlib.bootstrap\n", encoding="utf-8")
    groups = {"console_scripts": settings.get("scripts", {}), **settings.get("entry-points", {})}
    lines = []
    for group, entries in groups.items():
        lines += [f"[{group}]", *(f"{name} = {target}" for name, target in entries.items()), ""]
    (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    for name, target in settings.get("scripts", {}).items():
        module, _, function = target.partition(":")
        text = SCRIPT.format(python=programs / "python3", module=module, function=function)
        write_text(programs / name, text, mode=0o755)


def _compile_checkout(project: Path) -> None:
    """Compile the project's own modules too, where the checkout may be written; fresh ones are left alone."""
    for name in ("cprlib",):
        if os.access(project / name, os.W_OK):
            compileall.compile_dir(project / name, quiet=2)


@contextlib.contextmanager
def _removed_on_failure(folder: Path) -> Iterator[None]:
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
