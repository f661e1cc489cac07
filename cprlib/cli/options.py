"""Options that several commands share, each declared once, and the checks that belong to them."""

from __future__ import annotations

import contextlib
import math
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from cprlib.build.series import DEFAULT_BASE
from cprlib.cli import completion
from cprlib.errors import CprlibError, EnvironmentFailure, UsageError
from cprlib.files import project_folder
from cprlib.lab.engine import ENGINES

if TYPE_CHECKING:
    from cprlib.campaign.store import Store
    from cprlib.qemu.binary import QemuBinary

Command = TypeVar("Command", bound=Callable[..., Any])
Request = TypeVar("Request")
PATH = click.Path(path_type=Path)
PARAMETER_NAME = re.compile(r"[A-Za-z_]\w*|nic\.[\w.-]+")
QEMU_ARGUMENTS = "qemu_args"  # parameter of the suite
PARAMETERS_OF_OPTIONS = ("qemu", "firmware", "target_qemu", "target_firmware", "policy")


class Number(click.FloatRange):
    """A number in a range; neither infinity nor NaN, which click's own range accepts."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


qemu_option = click.option("--qemu", type=PATH, help="QEMU to test; by default the project's own build.")
firmware_option = click.option("--firmware", type=PATH, help="Firmware folder of --qemu (its -L).")
base_option = click.option(
    "--base",
    default=DEFAULT_BASE,
    show_default=True,
    shell_complete=completion.bases,
    help="Release of the project's own QEMU (images/qemu/bases.toml).",
)
policy_option = click.option(
    "--policy",
    default="default",
    show_default=True,
    shell_complete=completion.policies,
    help="A policy of fixtures/policies, or a TOML file.",
)
native_option = click.option(
    "--native",
    is_flag=True,
    help="Run on this host's own kernel, as root, with KVM, tun and vhost-net; without asking cprlib doctor.",
)
lab_option = click.option(
    "--lab",
    is_flag=False,
    flag_value="uml",
    metavar="[ENGINE]",
    help=f"Run each test in a disposable kernel (a lab: {' or '.join(ENGINES)}); without asking cprlib doctor.",
)
uml_option = click.option(
    "--lab",
    flag_value="uml",
    help="Run each test in a disposable kernel (a lab); without asking cprlib doctor.",
)
parallel_option = click.option(
    "--parallel", type=click.IntRange(1), help="Tests at once; by default one per core in the lab, else one."
)
tag_option = click.option("-t", "--tag", multiple=True, help="Only tests with this Avocado tag, e.g. queues:4.")
parameter_option = click.option(
    "-p",
    "--parameter",
    multiple=True,
    metavar="NAME=VALUE",
    help="Parameter of the tests, e.g. rate=500 or nic.packed=on; for an unknown name, the error lists all.",
)
qemu_arg_option = click.option(
    "--qemu-arg",
    multiple=True,
    metavar="ARGUMENTS",
    help="For every QEMU of a case, e.g. '-sandbox on'; split as a shell does.",
)


def out_option(default: Path, what: str) -> Callable[[Command], Command]:
    """``--out``, the folder below which a command makes its results folders.

    :param what: the folder holds: ``"runs"``.
    """
    return click.option("--out", type=PATH, default=default, show_default=True, help=f"Folder of all {what}.")


def check_backend(tried: str, native: bool, lab: str | None) -> None:
    """Check ``--native`` and ``--lab`` together.

    :param tried: as it reads after "cannot": ``"run the suite"``.
    :raises UsageError: both are given, or there is no such engine.
    """
    if native and lab:
        raise UsageError(tried, "both --native and --lab are given", "give one of them")
    if lab is not None and lab not in ENGINES:
        raise UsageError(f"use lab engine {lab!r}", "no such engine", f"choose one of {', '.join(ENGINES)}")


def read_qemu(path: Path | None, firmware: Path | None) -> QemuBinary | None:
    """The QEMU of ``--qemu`` and ``--firmware``; None without.

    :raises UsageError: the file is no QEMU, or there is only a firmware folder; raised before anything is built.
    """
    from cprlib.qemu.binary import QemuBinary, probe

    if path is None:
        if firmware:
            raise UsageError(f"use firmware folder {firmware}", "no QEMU is given for it", "give its QEMU too")
        return None
    qemu = QemuBinary(path.absolute(), firmware.absolute() if firmware else None)
    probe(qemu)
    return qemu


def check_nic_properties(qemus: Iterable[QemuBinary], parameters: Mapping[str, str], more: Iterable[str] = ()) -> None:
    """Check that each QEMU knows the NIC's properties and takes their values, before a guest boots.

    :param parameters: of the run; those that begin with ``nic.`` are properties.
    :param more: names of parameters that only points of a matrix have.
    :raises UsageError: one does not.
    """
    from difflib import get_close_matches

    from cprlib.qemu.binary import nic_properties, require_nic
    from cprlib.testing import parameters as suite

    prefix = suite.NIC_PREFIX
    names = sorted(name.removeprefix(prefix) for name in {*parameters, *more} if name.startswith(prefix))
    for qemu in qemus if names else ():
        known = nic_properties(qemu)
        for name in names:
            if name not in known:
                near = ", ".join(get_close_matches(name, known))
                advice = f"did you mean {near}?" if near else "see -device virtio-net-pci,help"
                raise UsageError(f"run with {prefix}{name}", f"the NIC of {qemu.path} has no such property", advice)
        run = suite.read_parameters(parameters.get, parameters)
        require_nic(qemu, run.machine, run.nic_properties, run.arguments)


def file_of_test(test: str) -> Path | None:
    """The file or folder of a test reference, relative to the working folder or to the project."""
    name = Path(test.partition(":")[0])
    return next((path for path in (name, project_folder() / name) if path.exists()), None)


def avocado_reference(test: str) -> str:
    """A test as Avocado takes it, from one that is relative to the working folder or to the project.

    :raises UsageError: there is no such file.
    """
    name, separator, rest = test.partition(":")
    file = file_of_test(test)
    if file is None:
        raise UsageError(f"run {name}", "no such file", "name a test file or folder, e.g. tests/functional")
    return str(file.resolve()) + separator + rest


def read_parameters(given: Sequence[str], qemu_arguments: Sequence[str] = ()) -> dict[str, str]:
    """Avocado's parameters from ``NAME=VALUE``.

    :param qemu_arguments: of ``--qemu-arg``, for parameter ``qemu_args``.
    :raises UsageError: one has another form, or an option of the command is for it.
    """
    pairs = {}
    for item in given:
        name, separator, value = item.partition("=")
        if not separator or not PARAMETER_NAME.fullmatch(name):
            raise UsageError(f"read parameter {item!r}", "it is not NAME=VALUE", "see docs/parameters.md")
        pairs[name] = value
    if "base" in pairs:
        raise UsageError("choose a base with -p", "its QEMU must be built", f"give --base {pairs['base']}")
    for name in PARAMETERS_OF_OPTIONS:
        if name in pairs:
            advice = f"give --{name.replace('_', '-')}, where the command has it"
            raise UsageError(f"run with -p {name}", "an option sets it, which is checked and recorded", advice)
    if qemu_arguments:
        pairs[QEMU_ARGUMENTS] = " ".join([*filter(None, [pairs.get(QEMU_ARGUMENTS)]), *qemu_arguments])
    return pairs


def command_line() -> str:
    """The command line of this process, to paste into a shell."""
    return shlex.join(["cprlib", *sys.argv[1:]])


def report_progress(line: str) -> None:
    """Print a line to standard error; standard output belongs to the result."""
    click.echo(line, err=True)


def session_options(
    folder: str, sessions: str, session: str, lab: Callable[[Any], Any] = uml_option
) -> Callable[[Command], Command]:
    """``--native``, ``--lab``, ``--parallel``, ``--out``, and ``--resume`` for :func:`resume_session`.

    :param folder: of all sessions, below results/.
    :param sessions, session: as the help names them: ``"comparisons"``, ``"interrupted comparison"``.
    :param lab: the command's ``--lab``.
    """
    resume = click.option("--resume", is_flag=True, help=f"Continue the latest {session} in --out.")
    out = out_option(Path("results") / folder, sessions)
    return lambda command: native_option(lab(parallel_option(out(resume(command)))))


def given_options(context: click.Context) -> dict[str, str]:
    """The options and arguments on the command line, by name, each as a user writes it: ``--quick``."""
    given = {}
    for parameter in context.command.params:
        name = parameter.name or ""
        if context.get_parameter_source(name) == ParameterSource.COMMANDLINE:
            words = parameter.secondary_opts if context.params.get(name) is False else parameter.opts
            given[name] = max(words, key=len) if isinstance(parameter, click.Option) else parameter.human_readable_name
    return given


def refuse_options(context: click.Context, tried: str, happened: str, *, kept: Iterable[str]) -> None:
    """Refuse options that would have no effect.

    :param tried, happened: of the message, which names the option behind ``tried``.
    :param kept: names of those that have one.
    :raises UsageError: another one was given.
    """
    for name, word in given_options(context).items():
        if name not in (*kept, "verbose"):
            raise UsageError(f"{tried} with {word}", happened, f"leave {word} out")


def refuse_base(context: click.Context, qemu: str) -> None:
    """Refuse ``--base`` beside a QEMU of the user's, which needs no build.

    :param qemu: its option: ``--qemu``.
    :raises UsageError: both are given.
    """
    given = given_options(context)
    if qemu in given.values():
        refuse_options(context, f"test {qemu}", "--base is of the project's own QEMU", kept=given.keys() - {"base"})


def resume_session(context: click.Context, store: Store[Request], *also: str) -> tuple[Path, Request]:
    """The session of ``--resume``, and its request.

    :param also: parameters that may be given with it, beside ``--out`` and ``--parallel``.
    :raises UsageError: there is none, or another option was given, which the session has from its beginning.
    """
    happened = "a resumed session keeps the request that it began with"
    kept = ("out", "parallel", "resume", *also)
    refuse_options(context, f"resume cprlib {context.info_name}", happened, kept=kept)
    session = store.latest(context.params["out"].resolve())
    return session, store.read(session)


@contextlib.contextmanager
def hint_resume(context: click.Context, session: Path) -> Iterator[None]:
    """Say how to resume when the body is interrupted, or ends with an error that is not the user's.

    :param session: folder of the session.
    """
    usual = context.get_parameter_source("out") == ParameterSource.DEFAULT
    out = [] if usual else ["--out", str(context.params["out"])]
    with _hint(session, f"resume with: {shlex.join(['cprlib', str(context.info_name), '--resume', *out])}"):
        yield


@contextlib.contextmanager
def hint_results(results: Path, command: str) -> Iterator[None]:
    """Say where the results are, and what reads them, when the body is interrupted or ends with an error.

    :param command: ``cprlib report``; the folder comes behind it.
    """
    with _hint(results, f"report on them with: {command} {shlex.quote(str(results))}"):
        yield


@contextlib.contextmanager
def _hint(folder: Path, advice: str) -> Iterator[None]:
    try:
        yield
    except UsageError:
        raise
    except (KeyboardInterrupt, CprlibError, OSError):
        report_progress(f"results so far are in {folder}; {advice}")
        raise


def publish_results(folder: Path) -> Path:
    """Mark results as finished.

    :returns: the link ``latest``, or the folder where that cannot be made; this is only a warning.
    """
    from cprlib.report.results_folder import publish

    try:
        return publish(folder)
    except EnvironmentFailure as error:
        report_progress(f"cprlib: {error.one_line()}")
        return folder
