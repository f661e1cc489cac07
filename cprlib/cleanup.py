"""What has to go with this process even when it is killed by SIGKILL: temporary folders, a process group, a trace.

Sockets without a name, anonymous namespaces and PR_SET_PDEATHSIG leave nothing to be swept up. Some things need more:
Avocado keeps its status socket and several folders below TMPDIR, its own spawner binds no runner to its life, and a
trace instance of the kernel stays until somebody removes it. A small process of its own waits for the end of this one.
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
from types import TracebackType

from cprlib.errors import EnvironmentFailure

GIVEN_TMPDIR = "CPRLIB_GIVEN_TMPDIR"
LONGEST_BASE = 48  # characters: Avocado's socket is made two folders further down, and sockaddr_un takes 107
SWEEP_S = 15.0


class CleanupProcess:
    """Removes what it was told of when it is closed, and when this process ends without closing it.

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
            raise EnvironmentFailure("start the process that sweeps up", str(error)) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        process, self._process = self._process, None
        if process is None or process.stdin is None:
            return
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(timeout=SWEEP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _tell(self, line: str) -> None:
        if self._process is None or self._process.stdin is None:
            raise EnvironmentFailure("have something swept up", "the cleanup is not open")
        with contextlib.suppress(BrokenPipeError):  # it was killed: then only an orderly end cleans up
            self._process.stdin.write(os.fsencode(line) + b"\n")
            self._process.stdin.flush()

    def folder(self, prefix: str = "cprlib-", base: Path | None = None) -> Path:
        """A new private folder (0700).

        :param base: where it is made; the folder for temporary files when None.
        :raises EnvironmentFailure: it cannot be made.
        """
        path = (base or Path(tempfile.gettempdir())) / f"{prefix}{secrets.token_hex(4)}"
        self._tell(f"folder {path}")
        try:
            path.mkdir(mode=0o700)
        except OSError as error:
            raise EnvironmentFailure(
                f"make {path}", str(error), "set TMPDIR to a folder that can be written"
            ) from error
        return path

    def group(self, number: int) -> None:
        """Have this process group killed; 0 when it has ended."""
        self._tell(f"group {number}")

    def instance(self, path: Path) -> None:
        """Have a folder of tracefs removed; it need not be there yet."""
        self._tell(f"instance {path}")


@contextlib.contextmanager
def swept_folder(prefix: str = "cprlib-") -> Iterator[Path]:
    """A temporary folder that is gone when the body ends, and when this process is killed.

    :raises EnvironmentFailure: it cannot be made.
    """
    with CleanupProcess() as cleanup:
        yield cleanup.folder(prefix)


def temporary_environment(cleanup: CleanupProcess) -> dict[str, str]:
    """Variables that send a child's temporary files into a folder which is swept up, and name the user's own choice."""
    base = Path(tempfile.gettempdir())
    folder = cleanup.folder(base=base if len(str(base)) <= LONGEST_BASE else Path("/tmp"))  # noqa: S108
    return {"TMPDIR": str(folder), GIVEN_TMPDIR: os.environ.get("TMPDIR", "")}


def given_tmpdir() -> str:
    """The folder for temporary files that the user has chosen; empty for none."""
    return os.environ.get(GIVEN_TMPDIR, os.environ.get("TMPDIR", ""))
