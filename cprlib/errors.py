"""The exception tree: every error says what was tried, what happened and what to do next.

The command line prints :meth:`CprlibError.one_line`; with ``-v`` also :attr:`CprlibError.details`.
"""

from __future__ import annotations

import enum
import errno
import sys
import traceback

from cprlib.words import printable

# A file operation that fails with one of these says that the machine lacks something, wherever it was called.
OF_MACHINE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE})


class ExitStatus(enum.IntEnum):
    """Exit statuses of every ``cprlib`` command."""

    PASS = 0
    FAIL = 1
    USAGE = 2
    INCONCLUSIVE = 3
    ENVIRONMENT = 4
    INTERRUPTED = 130
    CLOSED_PIPE = 141


class CprlibError(Exception):
    """Base of all errors that cprlib raises.

    :param tried: the action, without a full stop: ``"start QEMU /usr/bin/qemu"``.
    :param happened: the result, where possible with the message of the tool that failed.
    :param advice: what the user can do next; may be empty.
    :param details: output of a tool, a command line to paste; shown only with ``-v``.
    """

    exit_status = ExitStatus.ENVIRONMENT  # a command returns a verdict; no error is one

    def __init__(self, tried: str, happened: str, advice: str = "", *, details: str = "") -> None:
        super().__init__(tried, happened, advice)
        self.tried = tried
        self.happened = happened
        self.advice = advice
        self.details = details

    def one_line(self) -> str:
        """The error as one line of text, without control characters: a part of it may be the words of a QEMU."""
        parts = [f"cannot {self.tried}: {self.happened}"]
        if self.advice:
            parts.append(self.advice)
        return printable(" ".join("; ".join(parts).split()))

    def __str__(self) -> str:
        return self.one_line()


class UsageError(CprlibError):
    """An invalid request: a bad parameter, a path that is no QEMU."""

    exit_status = ExitStatus.USAGE


class EnvironmentFailure(CprlibError):
    """Something is missing on this machine: packages, rights, disk space, a kernel feature."""


class MissingPackages(EnvironmentFailure):
    """Debian packages are missing and the caller may not install them."""


class DownloadFailed(EnvironmentFailure):
    """A package or source could not be fetched."""


class BuildFailed(EnvironmentFailure):
    """A compiler, patch or image tool ended with an error."""


class PatchFailed(BuildFailed):
    """A patch does not apply to the source."""


class LabFailure(EnvironmentFailure):
    """A lab could not be started."""


class LabLost(LabFailure):
    """A lab's kernel died during its command, whose result is unknown."""


class SkipWord(enum.StrEnum):
    """The kind of a skipped case, which policies allow or refuse (docs/reading-a-report.md)."""

    NO_CPR = "no-cpr"
    NO_CPR_EXEC = "no-cpr-exec"
    NO_DEVICE = "no-device"
    NO_LOCAL = "no-local"
    NO_MACHINE = "no-machine"
    NO_MEMUSAGE = "no-memusage"
    NO_SANDBOX = "no-sandbox"
    NO_SUSPEND = "no-suspend"
    NO_TARGET = "no-target"
    NOT_IN_THIS_LAB = "not-in-this-lab"


class NotSupported(CprlibError):
    """This QEMU or kernel lacks a feature that a test needs; found by probing, never by version.

    :param word: why a case is skipped for that; a policy can allow it.
    """

    def __init__(
        self, tried: str, happened: str, advice: str = "", *, details: str = "", word: SkipWord = SkipWord.NO_CPR
    ) -> None:
        super().__init__(tried, happened, advice, details=details)
        self.word = word


class CaseEnded(CprlibError):
    """A case ends at a failed check, because its run asked for that (parameter ``stop_at``)."""


class InstrumentError(CprlibError):
    """The instrument failed, so that nothing can be concluded."""

    exit_status = ExitStatus.INCONCLUSIVE


class Awaited(enum.Enum):
    """The side that a deadline waits for: a QEMU or a guest that hangs is a finding, a harness that does is not."""

    QEMU = "QEMU"
    GUEST = "guest"
    HARNESS = "harness"


class DeadlineExceeded(CprlibError):
    """Something did not happen in the time allowed for it."""

    def __init__(
        self, tried: str, happened: str, advice: str = "", *, details: str = "", awaited: Awaited = Awaited.HARNESS
    ) -> None:
        super().__init__(tried, happened, advice, details=details)
        self.awaited = awaited


class ProcessFailed(CprlibError):
    """A child process ended with an error; ``details`` holds the command line and its output."""

    def __init__(
        self, tried: str, happened: str, advice: str = "", *, details: str = "", returncode: int | None = None
    ) -> None:
        super().__init__(tried, happened, advice, details=details)
        self.returncode = returncode


class QemuFailed(CprlibError):
    """A QEMU process did not start, died, or refused a command that must succeed."""


class QmpRefused(QemuFailed):
    """QMP answered a command with an error.

    :param error_class: the ``class`` member of the QMP error, e.g. ``GenericError``.
    """

    def __init__(self, tried: str, happened: str, *, error_class: str, details: str = "") -> None:
        super().__init__(tried, happened, details=details)
        self.error_class = error_class


class GuestFailed(CprlibError):
    """The guest did not boot, panicked, or its control channel broke."""


class UpdateFailed(CprlibError):
    """A live update did not complete; ``details`` holds the messages of both QEMUs.

    :param source_said, target_said: last message of each QEMU; empty without one.
    """

    def __init__(
        self,
        tried: str,
        happened: str,
        advice: str = "",
        *,
        details: str = "",
        source_said: str = "",
        target_said: str = "",
    ) -> None:
        super().__init__(tried, happened, advice, details=details)
        self.source_said = source_said
        self.target_said = target_said


def report_error(error: Exception, *, verbose: bool = False) -> ExitStatus:
    """Print the error that ended a command to standard error.

    :param verbose: with the output of a failed tool and the traceback, which an error of cprlib itself always has.
    :returns: exit status of the command, which is never that of a verdict.
    """
    status = ExitStatus.ENVIRONMENT
    if isinstance(error, CprlibError):
        status, line = error.exit_status, error.one_line()
        if verbose and error.details:
            line += f"\n{error.details}"
    elif isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in OF_MACHINE):
        line = str(error) or "out of memory"
    else:
        verbose, status = True, ExitStatus.INCONCLUSIVE
        line = f"internal error, please report it: {type(error).__name__}: {error}"
    if verbose:
        print(printable("".join(traceback.format_exception(error))), end="", file=sys.stderr)
    print(f"cprlib: {printable(line)}", file=sys.stderr)
    return status
