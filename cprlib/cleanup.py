"""Clean up even after SIGKILL: temporary folders, a process group, a trace instance.

Sockets without a name, anonymous namespaces and PR_SET_PDEATHSIG need no clean-up. Other things do: Avocado keeps its
status socket and several folders below TMPDIR, its own spawner does not bind runners to its life, and a trace instance
stays in the kernel until it is removed. A small process waits for the end of this one and removes them.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cprlib.errors import EnvironmentFailure

USERS_TMPDIR = "CPRLIB_USERS_TMPDIR"
LONGEST_BASE = 48  # characters: Avocado's socket is two folders further down, and sockaddr_un takes 107
CLEANUP_S = 15.0


class CleanupProcess:
    """Removes what is registered here when it is closed, or when this process ends without closing it.

    :raises EnvironmentFailure: on entering, when the process cannot be started.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> CleanupProcess:
        program = Path(__file__).with_name("cleanup_process.py")
        try:
            owner = os.pidfd_open(os.getpid())
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", str(program), str(owner)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=[owner],
                    start_new_session=True,  # a signal to our group must not reach it
                )
            finally:
                os.close(owner)
        except OSError as error:
            raise EnvironmentFailure("start the cleanup process", str(error)) from error
        return self

    def __exit__(self, *_: object) -> None:
        process, self._process = self._process, None
        if process is None or process.stdin is None:
            return
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(timeout=CLEANUP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _register(self, entry: str) -> None:
        if self._process is None or self._process.stdin is None:
            raise EnvironmentFailure("register a clean-up", "the cleanup process is not open")
        with contextlib.suppress(BrokenPipeError):  # the cleanup process was killed
            self._process.stdin.write(os.fsencode(entry) + b"\0")
            self._process.stdin.flush()

    def folder(self, prefix: str = "cprlib-", base: Path | None = None) -> Path:
        """Create and register a private folder (0700).

        :param base: its parent; the folder for temporary files when None.
        :raises EnvironmentFailure: it cannot be created.
        """
        path = (base or Path(tempfile.gettempdir())) / f"{prefix}{secrets.token_hex(4)}"
        self._register(f"folder {path}")
        try:
            path.mkdir(mode=0o700)
        except OSError as error:
            raise EnvironmentFailure(
                f"make {path}", str(error), "set TMPDIR to a folder that can be written"
            ) from error
        return path

    def group(self, number: int) -> None:
        """Register a process group to kill, instead of the one before; 0 for none."""
        self._register(f"group {number}")

    def instance(self, path: Path) -> None:
        """Register a folder of tracefs to remove; it may be created later."""
        self._register(f"instance {path}")


@contextlib.contextmanager
def temporary_folder(prefix: str = "cprlib-") -> Iterator[Path]:
    """A temporary folder that is removed when the body ends, and when this process is killed.

    :raises EnvironmentFailure: it cannot be created.
    """
    with CleanupProcess() as cleanup:
        yield cleanup.folder(prefix)


def temporary_environment(cleanup: CleanupProcess) -> dict[str, str]:
    """Environment that gives a child a registered folder for temporary files, and the user's own choice in addition."""
    base = Path(tempfile.gettempdir())
    folder = cleanup.folder(base=base if len(str(base)) <= LONGEST_BASE else Path("/tmp"))  # noqa: S108
    return {"TMPDIR": str(folder), USERS_TMPDIR: os.environ.get("TMPDIR", "")}


def users_tmpdir() -> str:
    """The user's own choice of the folder for temporary files; empty for none."""
    return os.environ.get(USERS_TMPDIR, os.environ.get("TMPDIR", ""))
