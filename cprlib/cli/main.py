"""Entry point: one line per error, details with ``-v``, documented exit statuses."""

from __future__ import annotations

import importlib
import io
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

COMMANDS = (
    *("baseline", "build", "compare", "completion", "coverage", "doctor", "lab", "prove", "report", "run"),
    *("scoreboard", "soak"),
)


def _add_examples(command: click.Command, name: str) -> click.Command:
    """Append examples to the help of a command and of its sub-commands."""
    command.epilog = command.epilog or epilog_of(name)
    for member in command.commands.values() if isinstance(command, click.Group) else ():
        _add_examples(member, f"{name} {member.name}")
    return command


class LazyGroup(click.Group):
    """Imports the module of a command when the command is used, which keeps start-up short."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, in the module that is named after it."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(f"cprlib.cli.{cmd_name}"), cmd_name)
        return _add_examples(command, cmd_name) if isinstance(command, click.Command) else None


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
@click.option("-v", "--verbose", is_flag=True, help="Show output of failed tools and tracebacks.")
@click.pass_context
def cprlib(context: click.Context, verbose: bool) -> None:
    """Test whether a live update of QEMU is safe for guest networking, with real guests and packets.

    Start with `cprlib doctor`, then `cprlib run`.
    """
    context.obj = verbose


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    :returns: one of :class:`cprlib.errors.ExitStatus`, or the exit status of a command in a lab.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
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
        return report_error(error, verbose="-v" in given or "--verbose" in given)


def _is_closed(descriptor: int) -> bool:
    """Whether the other end of a pipe or socket is closed."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return bool(poll.poll(0))


if __name__ == "__main__":
    sys.exit(main())
