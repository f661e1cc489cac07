"""Build hook of hatchling: notes in a wheel or sdist the commit that it was made of."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

COMMIT = "COMMIT"  # one line: at the top of an sdist, in cprlib/_project of a wheel


class CommitHook(BuildHookInterface[Any]):
    """Adds the file :data:`COMMIT`."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the file and add it to the build."""
        if version == "editable":
            return
        with tempfile.NamedTemporaryFile("w", prefix="cprlib-commit-", delete=False, encoding="utf-8") as note:
            note.write(f"{commit(Path(self.root))}\n")
        self._note = Path(note.name)
        self._note.chmod(0o644)
        build_data["force_include"][note.name] = COMMIT if self.target_name == "sdist" else f"cprlib/_project/{COMMIT}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the file's source."""
        del build_data, artifact_path
        if version != "editable":
            self._note.unlink(missing_ok=True)


def commit(top: Path) -> str:
    """The commit of a checkout, or the one noted in an sdist; empty when neither is known."""
    if (top / ".git").exists():
        command = ["git", "-C", str(top), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""
    note = top / COMMIT
    return note.read_text(encoding="utf-8").strip() if note.exists() else ""
