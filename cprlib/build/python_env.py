"""Python environments: the project's own, with locked versions and the checkout linked in, and one to build QEMU with.

The project's environment is made once for each lock file, Python and checkout, in its final folder (its programs name
their interpreter by path), and is not written afterwards: the lab sees it read-only. The bootstrap uses this module, so
it needs the standard library only.
"""

from __future__ import annotations

import compileall
import os
import shutil
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

from cprlib import __version__
from cprlib.build import expected, store
from cprlib.build.host_packages import has_apt
from cprlib.build.progress import Progress
from cprlib.errors import DownloadFailed, MissingPackages, ProcessFailed
from cprlib.files import cache_folder, locked, project_folder, write_text
from cprlib.process import run

LOCK = "requirements.lock"  # written by `tox -e lock`
NOT_COMPILED = r"/(tests?|testing/data|sphinxext|lib2to3)/"
SCRIPT = """\
#!{python}
import sys

from {module} import {function}

if __name__ == "__main__":
    sys.exit({function}())
"""
NOT_ALL_COMPILED = 1  # exit status of compileall
VENV_SECONDS = 180.0
PIP_SECONDS = 900.0
PIP_ADVICE = "check the network, or set PIP_INDEX_URL to an index that can be reached"
REQUIREMENTS = ("meson==1.9.0", "distlib==0.4.0")  # meson as in pythondeps.toml of QEMU 10.2


def ensure_environment(progress: Progress, *, is_complete: bool = False) -> Path:
    """The folder of the project's environment, created when it is missing or incomplete.

    :param is_complete: whether the caller has found it complete (:func:`has_environment`), which takes a while.
    :raises DownloadFailed: packages could not be fetched; holds pip's messages.
    :raises MissingPackages: this Python lacks ensurepip.
    """
    project, folder = project_folder(), _environment_folder()
    if not is_complete and not store.is_complete(folder):
        lock = folder.with_name(f".{folder.name}.lock")
        with store.disk_full_as_error(f"make {folder}"), locked(lock, waiting=progress.raise_if_stopped):
            if not store.is_complete(folder):
                _make(folder, project, progress)
    if not sys.dont_write_bytecode and os.access(project / "cprlib", os.W_OK):
        compileall.compile_dir(project / "cprlib", quiet=2)  # modules that were modified
    return folder


def has_environment() -> bool:
    """Whether the project's environment exists and is complete."""
    return store.is_complete(_environment_folder())


def _environment_folder() -> Path:
    project = project_folder()
    key = store.key_of(
        lock=project / LOCK, pyproject=project / "pyproject.toml", python=sys.version, checkout=str(project), recipe=1
    )
    return cache_folder() / "python" / key


def _make(folder: Path, project: Path, progress: Progress) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with progress.step("make the Python environment", expected.VENV):
            make_venv(folder, sys.executable)
        with progress.step("install Python packages", expected.PIP):  # pip checks the hash of each file
            arguments = ["--no-deps", "--only-binary=:all:", "--require-hashes", "--requirement", str(project / LOCK)]
            pip_install(folder, arguments, "install Python packages")
        packages = next((folder / "lib").glob("python3.*/site-packages"))
        _link_checkout(packages, folder / "bin", project)
        with progress.step("compile Python packages", expected.BYTE_CODE):
            # In a process, because this one may have threads; -j 0: one for each core. Templates in packages are not
            # valid Python.
            command = [*_isolated(folder / "bin" / "python3"), "-m", "compileall", "-qq", "-j", "0", "-x", NOT_COMPILED]
            try:
                run([*command, str(packages)], purpose="compile Python packages", seconds=PIP_SECONDS)
            except ProcessFailed as error:
                if error.returncode != NOT_ALL_COMPILED:
                    raise
        store.write_listing(folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _link_checkout(packages: Path, programs: Path, project: Path) -> None:
    """Make the checkout importable and install programs and plugins of pyproject.toml; the checkout is not written."""
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


def find_build_python(progress: Progress) -> Path:
    """The Python for QEMU's ``configure --python``, with meson; created once.

    :raises DownloadFailed: PyPI could not be reached; holds pip's messages.
    """
    base = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
    interpreter = base if base.exists() else Path(sys.executable)
    key = store.key_of(requirements=" ".join(REQUIREMENTS), python=sys.version, interpreter=str(interpreter))

    def make(temporary: Path) -> None:
        with progress.step("make the Python environment for QEMU's build", expected.BUILD_PYTHON):
            make_venv(temporary, interpreter)
            pip_install(temporary, REQUIREMENTS, "install meson")

    return store.entry("build-python", key, make, progress=progress) / "bin" / "python3"


def make_venv(folder: Path, interpreter: Path | str) -> None:
    """Create an environment with pip.

    :param folder: empty or missing.
    :raises MissingPackages: this Python lacks ensurepip.
    :raises ProcessFailed: another failure, for instance no space.
    """
    make = [*_isolated(interpreter), "-m", "venv", "--without-pip", str(folder)]
    add_pip = [*_isolated(folder / "bin" / "python3"), "-m", "ensurepip", "--default-pip"]
    try:
        for command in (make, add_pip):
            run(command, purpose="make a Python environment", seconds=VENV_SECONDS)
    except ProcessFailed as error:
        if "ensurepip" not in error.happened:
            raise
        advice = "sudo apt-get install python3-venv" if has_apt() else "use a Python that has the module ensurepip"
        raise MissingPackages(error.tried, error.happened, advice, details=error.details) from error


def pip_install(folder: Path, arguments: Sequence[str], purpose: str) -> None:
    """Install packages with pip of an environment; settings of the caller (index, proxy, certificates) apply,
    but for the user's own packages, which pip refuses in an environment.

    :raises DownloadFailed: pip failed; holds its messages.
    """
    command = [*_isolated(folder / "bin" / "python3"), "-m", "pip", "install", "--quiet", "--no-compile", *arguments]
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PIP_USER": "0"}
    try:
        run(command, purpose=purpose, seconds=PIP_SECONDS, env=environment)
    except ProcessFailed as error:
        errors = [line[7:] for line in error.details.splitlines() if line.startswith("ERROR: ")]
        happened = "; ".join(errors[:2]) or error.happened
        raise DownloadFailed(purpose, happened, PIP_ADVICE, details=error.details) from error


def _isolated(interpreter: Path | str) -> tuple[str, str]:
    """The start of a command that ignores $PYTHONPATH: pip takes packages there for installed ones."""
    return str(interpreter), "-I"
