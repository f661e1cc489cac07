"""What pyproject.toml cannot say: the project's folders go into the package, so that it works without a checkout.

``images/``, ``fixtures/``, ``tests/functional/`` and ``docs/`` stay where they are in a checkout; building a wheel
copies them to ``cprlib/_project/``, where ``cprlib.files.project_folder()`` finds them. Not as packages of their own:
``fixtures`` and ``tests`` are names that others use in site-packages. Nothing is copied for an editable install.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

TOP = Path(__file__).resolve().parent
CARRIED = ("images", "fixtures", "tests/__init__.py", "tests/functional", "docs", "LICENSE")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")
COMMIT = "COMMIT"  # which commit a wheel or an sdist was made of: one line


def commit() -> str:
    """The checkout's commit, or the one that an sdist carries; empty when neither is known."""
    if (TOP / ".git").exists():
        command = ["git", "-C", str(TOP), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""
    carried = TOP / COMMIT
    return carried.read_text(encoding="utf-8").strip() if carried.exists() else ""


class BuildWithProject(build_py):
    """Puts the project's folders into the package."""

    def run(self) -> None:
        """Build, then copy."""
        super().run()
        if self.editable_mode:
            return
        project = Path(self.build_lib) / "cprlib" / "_project"
        shutil.rmtree(project, ignore_errors=True)
        project.mkdir(parents=True)
        for name in CARRIED:
            source, target = TOP / name, project / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=LEFT_OUT)
            else:
                shutil.copy2(source, target)
        (project / COMMIT).write_text(f"{commit()}\n", encoding="utf-8")


class SdistWithCommit(sdist):
    """Notes the commit."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        """Copy what MANIFEST.in names, then write the note."""
        super().make_release_tree(base_dir, files)
        (Path(base_dir) / COMMIT).write_text(f"{commit()}\n", encoding="utf-8")


setup(cmdclass={"build_py": BuildWithProject, "sdist": SdistWithCommit})
