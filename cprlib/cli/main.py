"""Entry point: one line per error, details with ``-v``, documented exit statuses."""

from __future__ import annotations

import copy
import importlib
import io
import itertools
import platform
import select
import sys
from collections.abc import Sequence

import click

from cprlib import __version__
from cprlib.cli.examples import STATUS, epilog_of
from cprlib.errors import ExitStatus, report_error
from cprlib.files import project_folder
from cprlib.process import terminate_on_signals

GROUPS = {  # what each command does, by what it is for
    "Test a QEMU": {
        "doctor": "Report whether tests can run here, and how.",
        "run": "Run the tests and judge the QEMU.",
        "report": "Judge the results of a run again.",
        "compare": "Compare two QEMUs: is one worse than the other?",
        "baseline": "Save the figures of a good QEMU; compare runs with them.",
    },
    "Test the tests": {
        "prove": "Do the tests kill mutants, QEMUs with a known defect?",
        "coverage": "Which lines of the series does a test run?",
        "soak": "Repeat random cases for hours.",
        "scoreboard": "Measure stock QEMUs and the series in one table.",
    },
    "Tools": {
        "build": "Build QEMU, guest image and lab kernel; print the paths.",
        "lab": "Run a command or a shell in a disposable kernel.",
        "completion": "Print the completion script of a shell.",
    },
}
COMMANDS = tuple(name for members in GROUPS.values() for name in members)
VERBOSE = ("-v", "--verbose")


def _completed(command: click.Command, name: str) -> click.Command:
    """A copy of a command with examples in its help, and with the option ``-v`` of ``cprlib`` behind its name too.

    The words of a command in a lab may have a ``-v`` of their own.
    """
    made = copy.copy(command)
    made.epilog = command.epilog or epilog_of(name)
    if name.partition(" ")[0] != "lab":
        made.params = [*command.params, click.Option(VERBOSE, is_flag=True, expose_value=False, hidden=True)]
    if isinstance(made, click.Group) and isinstance(command, click.Group):
        made.commands = {key: _completed(member, f"{name} {key}") for key, member in command.commands.items()}
    return made


class LazyGroup(click.Group):
    """Imports the module of a command when the command is used, which keeps start-up short."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return sorted(COMMANDS)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands by what they are for."""
        del ctx
        for heading, members in GROUPS.items():
            with formatter.section(heading):
                formatter.write_dl(list(members.items()))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, in the module that is named after it."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(f"cprlib.cli.{cmd_name}"), cmd_name)
        return _completed(command, cmd_name) if isinstance(command, click.Command) else None


EPILOG = f"""`cprlib COMMAND --help` shows examples. {STATUS}"""


def _version(context: click.Context, parameter: click.Parameter, requested: bool) -> None:
    """Print what a bug report needs: version and commit, version of Python, folder of the project."""
    del parameter
    if not requested:
        return
    from cprlib.report.environment import project_commit

    commit = project_commit()
    named = f"cprlib {__version__}" + (f" ({commit})" if commit else "")
    click.echo(f"{named}, Python {platform.python_version()}, from {project_folder()}")
    context.exit()


@click.group(cls=LazyGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version,
    help="Print version, commit and folder, and exit.",
)
@click.option(*VERBOSE, is_flag=True, expose_value=False, help="Show output of failed tools and tracebacks.")
def cprlib() -> None:
    """Test whether a live update of QEMU is safe for guest networking, with real guests and packets.

    Start with `cprlib doctor`, then `cprlib run`.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    :returns: one of :class:`cprlib.errors.ExitStatus`, or the exit status of a command in a lab.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        # a locale may lack the marks of a report
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")
    try:
        return _run(given)
    except BrokenPipeError:
        sys.stdout = sys.stderr = io.StringIO()  # Python flushes them when it ends
        return ExitStatus.CLOSED_PIPE


def _run(given: list[str]) -> int:
    """Run the command line and print its error.

    :raises BrokenPipeError: the reader of standard output or standard error has ended.
    """
    try:
        with terminate_on_signals():
            result = cprlib.main(args=given, prog_name="cprlib", standalone_mode=False)
        return int(result or 0)
    except click.ClickException as error:
        error.show()
        return ExitStatus.USAGE
    except (KeyboardInterrupt, click.Abort) as error:
        if isinstance(error.__cause__, EOFError):  # for click an interrupt, like Ctrl-D at a prompt; cprlib has none
            return report_error(error.__cause__)
        print(f"cprlib: interrupted {error.__cause__ or error}".rstrip(), file=sys.stderr)
        return ExitStatus.INTERRUPTED
    except SystemExit as error:  # click ends so when something raised BrokenPipeError
        cause = error.__context__
        if not isinstance(cause, Exception) or any(map(_is_closed, (1, 2))):
            raise BrokenPipeError from error
        return report_error(cause)
    except Exception as error:
        leading = list(itertools.takewhile(lambda word: word in VERBOSE, given))
        in_lab = given[len(leading) : len(leading) + 1] == ["lab"]  # behind it are words of other programs
        return report_error(error, verbose=any(word in VERBOSE for word in (leading if in_lab else given)))


def _is_closed(descriptor: int) -> bool:
    """Whether the other end of a pipe or socket is closed."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return bool(poll.poll(0))


if __name__ == "__main__":
    sys.exit(main())
