"""A QEMU binary and its features.

Features come from query-qmp-schema, never from a version number or help text: distributions backport features, and a
series under review has no version. Every query starts the binary, and raises UsageError for one that is no QEMU.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import socket
import subprocess
import tempfile
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cprlib.deadline import Deadline
from cprlib.errors import (
    Awaited,
    DeadlineExceeded,
    EnvironmentFailure,
    NotSupported,
    QemuFailed,
    QmpRefused,
    SkipWord,
    UsageError,
)
from cprlib.process import describe_status, spawn, tail
from cprlib.qemu.facts import LocalNames, QemuFacts
from cprlib.qemu.netdev import NIC_DRIVER
from cprlib.qemu.wrapper import is_script

if TYPE_CHECKING:
    from cprlib.qemu.qmp import QmpConnection

# of the hand-over of a tap in the device state, newest name first (QEMU qapi/migration.json, qapi/net.json)
LOCAL_PARAMETERS = ("local", "backend-transfer")
LOCAL_NETDEV = ("x-permit-local-migration", "x-local-migration-supported", "local-migration-supported")
LOCAL_TARGET = ("incoming-fds",)
LOCAL_NIC = ("local-migration", "backend-transfer")


@dataclass(frozen=True, slots=True)
class QemuBinary:
    """A QEMU to test.

    :param path: the executable.
    :param firmware: folder for ``-L``; None when the binary finds its own firmware.
    """

    path: Path
    firmware: Path | None = None

    def command(self) -> list[str]:
        return [str(self.path.absolute()), *(["-L", str(self.firmware.absolute())] if self.firmware else [])]

    def parameters(self, prefix: str = "") -> dict[str, str]:
        """The parameters ``qemu`` and ``firmware`` of the suite; :meth:`from_parameters` reads them.

        :param prefix: ``target_`` for the other QEMU of an update between two.
        """
        given = {"qemu": self.path, "firmware": self.firmware}
        return {f"{prefix}{name}": str(path) for name, path in given.items() if path}

    @classmethod
    def from_parameters(cls, values: Mapping[str, Any], prefix: str = "") -> QemuBinary | None:
        """The QEMU that :meth:`parameters` describes; None where ``qemu`` is absent or empty."""
        path, firmware = values.get(f"{prefix}qemu"), values.get(f"{prefix}firmware")
        return cls(Path(path), Path(firmware) if firmware else None) if path else None


class Schema:
    """The reply of query-qmp-schema (QEMU docs/devel/qapi-code-gen.rst).

    Its type names are masked, so an object type is found through a command that uses it.
    """

    def __init__(self, entries: Sequence[Mapping[str, Any]]) -> None:
        self._entries = {str(entry["name"]): entry for entry in entries}

    def members(self, type_name: str) -> dict[str, str]:
        """Members of an object type and their types; empty for any other type."""
        entry = self._entries.get(type_name, {})
        return {str(item["name"]): str(item["type"]) for item in entry.get("members", ())}

    def arguments(self, command: str) -> dict[str, str]:
        """Members of a command's arguments and their types."""
        entry = self._entries.get(command, {})
        return self.members(str(entry.get("arg-type", "")))

    def variant(self, command: str, case: str) -> dict[str, str]:
        """Members that a command's arguments have for one case of their union."""
        entry = self._entries.get(str(self._entries.get(command, {}).get("arg-type", "")), {})
        found = [item["type"] for item in entry.get("variants", ()) if item["case"] == case]
        return self.members(str(found[0])) if found else {}

    def enumeration(self, type_name: str) -> set[str]:
        """Values of an enumeration; empty for any other type."""
        entry = self._entries.get(type_name, {})
        return {str(value) for value in entry.get("values", ())} | {
            str(item["name"]) for item in entry.get("members", ()) if "type" not in item
        }


def facts_from_schema(path: Path, version: str, sha256: str, schema: Schema) -> QemuFacts:
    parameters, tap = schema.arguments("migrate-set-parameters"), schema.variant("netdev_add", "tap")
    modes = schema.enumeration(parameters.get("mode", ""))
    local = next((name for name in LOCAL_PARAMETERS if parameters.get(name) == "bool"), None)
    return QemuFacts(
        path=str(path),
        version=version,
        sha256=sha256,
        netdev_cpr="cpr" in tap,
        cpr_transfer="cpr-transfer" in modes,
        cpr_exec="cpr-exec" in modes and "cpr-exec-command" in parameters,
        migration_local=local is not None,
        local=LocalNames(local, _first(LOCAL_NETDEV, tap), _first(LOCAL_TARGET, tap)) if local else None,
    )


def _first(names: Sequence[str], known: Container[str]) -> str:
    return next((name for name in names if name in known), "")


def _try_local(connection: QmpConnection, local: LocalNames) -> LocalNames:
    """Complete the names by what no schema shows."""
    properties = connection.execute("device-list-properties", {"typename": NIC_DRIVER})
    local = replace(local, nic=_first(LOCAL_NIC, [str(item["name"]) for item in properties]))
    try:
        connection.execute("migrate-set-parameters", {"mode": "cpr-transfer", local.parameter: True})
    except QmpRefused:
        return replace(local, in_cpr=False)
    return local


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def probe(qemu: QemuBinary) -> QemuFacts:
    """Start the binary without a machine and query its version and features.

    :raises UsageError: the path is not an executable file, or the program does not behave like a QEMU.
    """
    with started_without_guest(qemu) as connection:
        version = connection.execute("query-version")
        schema = Schema(connection.execute("query-qmp-schema", seconds=30))
        numbers = version["qemu"]
        package = str(version.get("package") or "").strip(" ()")
        text = f"{numbers['major']}.{numbers['minor']}.{numbers['micro']}" + (f" ({package})" if package else "")
        facts = facts_from_schema(qemu.path, text, file_digest(qemu.path), schema)
        return replace(facts, local=_try_local(connection, facts.local)) if facts.local else facts


def require_accelerator(qemu: QemuBinary, accelerator: str) -> None:
    """Check that a binary has an accelerator; some distributions build QEMU without TCG, or ship it as a module.

    :param accelerator: ``tcg`` or ``kvm``.
    :raises UsageError: it has not, with QEMU's own words.
    """
    try:
        with started_without_guest(qemu, "-accel", accelerator):
            pass
    except UsageError as error:
        advice = {
            "tcg": "give a QEMU with TCG (configure --enable-tcg; of some distributions a package of its own with "
            "accel-tcg-x86_64.so), or run natively on a host with KVM",
        }.get(accelerator, "see cprlib doctor, which tries KVM")
        tried = f"use {qemu.path} with accelerator {accelerator}"
        raise UsageError(tried, error.happened, advice, details=error.details) from error


def machine_types(qemu: QemuBinary) -> frozenset[str]:
    """Names of the machine types of a binary, without aliases (query-machines)."""
    with started_without_guest(qemu) as connection:
        return frozenset(str(machine["name"]) for machine in connection.execute("query-machines"))


def device_types(qemu: QemuBinary) -> frozenset[str]:
    """Names of the devices that a binary has (qom-list-types)."""
    with started_without_guest(qemu) as connection:
        found = connection.execute("qom-list-types", {"implements": "device"})
    return frozenset(str(item["name"]) for item in found)


def nic_properties(qemu: QemuBinary) -> frozenset[str]:
    """Names of the properties of the NIC (device-list-properties)."""
    with started_without_guest(qemu) as connection:
        found = connection.execute("device-list-properties", {"typename": NIC_DRIVER})
    return frozenset(str(item["name"]) for item in found)


def require_nic(qemu: QemuBinary, machine: str, properties: Mapping[str, str], arguments: Sequence[str] = ()) -> None:
    """Check that the NIC takes the values of its properties.

    :param arguments: of QEMU. Where it does not start with them and no NIC either, on this machine, nothing is said.
    :raises UsageError: it does not, with QEMU's own words.
    """
    options = "".join(f",{name}={value.replace(',', ',,')}" for name, value in properties.items())
    refusal = _refusal(qemu, *arguments, "-device", f"{NIC_DRIVER},romfile={options}", machine=machine)
    if refusal and not _refusal(qemu, *arguments, machine=machine):
        given = " and ".join(f"nic.{name}={value}" for name, value in properties.items())
        raise UsageError(f"start {qemu.path} with {given}", refusal.happened, details=refusal.details) from refusal


def _refusal(qemu: QemuBinary, *arguments: str, machine: str) -> UsageError | None:
    try:
        with started_without_guest(qemu, *arguments, "-S", machine=machine):
            return None
    except UsageError as error:
        return error


def require_machine(qemu: QemuBinary, name: str) -> None:
    """Refuse a QEMU without a machine type; old ones are removed after six years.

    :raises NotSupported: with the names that it has.
    """
    known = machine_types(qemu)
    if name not in known:
        advice = f"give one of {', '.join(sorted(known))} with -p machine="
        raise NotSupported(
            f"start machine {name} of {qemu.path}", "it has no such machine", advice, word=SkipWord.NO_MACHINE
        )


def require_device(qemu: QemuBinary, name: str) -> None:
    """Refuse a QEMU without a type of device.

    :raises NotSupported: it was built without it.
    """
    if name not in device_types(qemu):
        happened = "it has no such device"
        raise NotSupported(f"give a guest {name} of {qemu.path}", happened, "build it in", word=SkipWord.NO_DEVICE)


def require_sandbox(qemu: QemuBinary) -> None:
    """Refuse a QEMU without ``-sandbox``.

    :raises NotSupported: it was built without libseccomp.
    """
    with started_without_guest(qemu) as connection:
        known = {str(item["option"]) for item in connection.execute("query-command-line-options")}
    if "sandbox" not in known:
        happened = "it has no option -sandbox: it was built without libseccomp"
        raise NotSupported(f"confine {qemu.path}", happened, "build it with --enable-seccomp", word=SkipWord.NO_SANDBOX)


def newest_common(kind: str, *types: frozenset[str]) -> str | None:
    """The newest versioned machine type that all QEMUs have, so that a guest can migrate between them.

    QEMU's own types come first, then those of a distribution: ``pc-q35-rhel9.6.0``, ``pc-q35-9.2+pve1``. Types without
    a number in their name (``pc-q35-noble``) have no order, and are taken where nothing else is common.

    :param kind: the machine's kind: ``pc-q35`` for ``pc-q35-10.0``.
    :returns: None when there is none.
    """

    def rank(name: str) -> tuple[int, tuple[int, ...], str]:
        own = name.removeprefix(f"{kind}-")
        numbers = tuple(int(number) for number in re.findall(r"\d+", own))
        group = 2 if re.fullmatch(r"\d+(\.\d+)*", own) else 1 if numbers else 0
        return group, numbers, own

    common = frozenset.intersection(*types)
    return max((name for name in common if name.startswith(f"{kind}-")), key=rank, default=None)


def common_machine(given: str, source: frozenset[str], target: frozenset[str]) -> str:
    """The machine type of a guest that moves from one QEMU to another.

    :param given: by the run: a version (``pc-q35-9.2``), or an alias (``q35``, ``pc``), whose newest common version is
        taken.
    :returns: the given one where the two have no version in common.
    """
    kind = {"q35": "pc-q35", "pc": "pc-i440fx"}.get(given)
    return (newest_common(kind, source, target) if kind else None) or given


@contextlib.contextmanager
def started_without_guest(qemu: QemuBinary, *more: str, machine: str = "none") -> Iterator[QmpConnection]:
    """The QMP connection of a binary that runs without a guest.

    :param more: further arguments.
    :param machine: type of the machine.
    """
    tried = f"use {qemu.path} as QEMU"
    advice = "give a qemu-system-x86_64 with --qemu PATH, or leave it out to use the project's own"
    if not qemu.path.is_file():
        raise UsageError(tried, "no such file", advice)
    if not os.access(qemu.path, os.X_OK):
        raise UsageError(tried, "the file is not executable", advice)
    command = [*qemu.command(), "-machine", machine, "-nodefaults", "-no-user-config", "-display", "none"]
    command += more
    try:
        with tempfile.TemporaryFile("w+", errors="replace") as output, _connected(command, output) as connection:
            yield connection
    except EnvironmentFailure as error:  # exec(2) refused: a text file, another architecture
        raise UsageError(tried, error.happened, advice) from error


@contextlib.contextmanager
def _connected(command: Sequence[str], output: Any) -> Iterator[QmpConnection]:
    from cprlib.qemu.qmp import QmpConnection  # noqa: PLC0415 - needs a package that is not there when a first build begins

    ours, theirs = socket.socketpair()
    number = theirs.fileno()
    whole = [*command, "-chardev", f"socket,id=qmp,fd={number}", "-mon", "chardev=qmp,mode=control"]
    with theirs, spawn(whole, purpose=f"start {command[0]}", stdout=output, stderr=output, pass_fds=[number]) as child:
        theirs.close()
        with QmpConnection("QEMU", ours, Path(os.devnull)) as connection:
            try:
                connection.wait_ready(Deadline(20, "a QMP greeting", Awaited.QEMU))
            except (QemuFailed, DeadlineExceeded) as error:
                raise _not_a_qemu(whole, child, output) from error
            yield connection


def _not_a_qemu(command: Sequence[str], child: subprocess.Popen[str], output: Any) -> UsageError:
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(timeout=2)
    ended = child.returncode is not None
    output.seek(0)
    messages = output.read().strip()
    last = messages.splitlines()[-1] if messages else "no message"
    status = describe_status(child.returncode) if ended else "still running, no QMP greeting"
    hint = "give a qemu-system-x86_64 with --qemu PATH"
    if "shared librar" in messages:
        hint = "install the missing library on this machine"
    elif is_script(Path(command[0])):
        hint = (
            "it is a script: QEMU's features are queried with -machine none, which does not take every option; give "
            "options with --qemu-arg or -p nic.PROPERTY=VALUE instead (docs/own-qemu.md)"
        )
    return UsageError(
        f"use {command[0]} as QEMU",
        f"{last} ({status})",
        hint,
        details=f"command: {shlex.join(command)}\n{tail(messages)}",
    )
