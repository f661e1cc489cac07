"""Run apt programs with a configuration of our own, and parse the control records that they print."""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from cprlib.build import store
from cprlib.errors import DownloadFailed, ProcessFailed
from cprlib.files import write_text
from cprlib.process import run

MIRROR_VARIABLE = "CPRLIB_DEBIAN_MIRROR"
ARCHITECTURE = "amd64"
NETWORK_ADVICE = f"check the network and proxy, or set {MIRROR_VARIABLE} to a mirror that can be reached"


def run_apt(command: Sequence[str], root: Path, purpose: str, seconds: float) -> str:
    """Run an apt program without changing the apt state of the system.

    :param root: folder of lists, cache, configuration and ``sources.list``.
    :param seconds: deadline, scaled.
    :returns: its standard output.
    :raises DownloadFailed: the program failed; holds apt's messages.
    :raises EnvironmentFailure: the disk is full.
    """
    for folder in ("lists/partial", "cache/archives/partial", "etc"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    if not (root / "status").exists():  # a newer file would invalidate apt's cache: 3 s for each look-up
        write_text(root / "status", "")
    write_text(root / "apt.conf", _configuration(root))
    environment = {**os.environ, "APT_CONFIG": str(root / "apt.conf"), "LC_ALL": "C.UTF-8"}
    try:
        with store.disk_full_as_error(purpose):
            return run(command, purpose=purpose, seconds=seconds, env=environment)
    except ProcessFailed as error:
        raise DownloadFailed(purpose, apt_messages(error), NETWORK_ADVICE, details=error.details) from error


def _configuration(root: Path) -> str:
    """An apt configuration that reads nothing from the system but its network settings."""
    own = {
        "Dir::Etc::main": "/dev/null",
        "Dir::Etc::parts": f"{root}/etc",
        "Dir::Etc::sourcelist": f"{root}/sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "Dir::State": str(root),
        "Dir::State::lists": f"{root}/lists",
        "Dir::State::status": f"{root}/status",
        "Dir::Cache": f"{root}/cache",
        "Dir::Cache::srcpkgcache": "",
        "APT::Architecture": ARCHITECTURE,
        "APT::Architectures": ARCHITECTURE,
        "APT::Sandbox::User": "",  # the user _apt may not enter a home folder, and only root can change to it
        "APT::Update::Error-Mode": "any",  # else unreachable lists are only a warning
        "Acquire::Languages": "none",
        "Acquire::PDiffs": "false",
        "Acquire::GzipIndexes": "true",
        "Acquire::Retries": "2",
        "Acquire::http::Timeout": "30",
        "Acquire::https::Timeout": "30",
        "Debug::NoLocking": "true",  # the store and the lists have their own locks
    }
    return "".join(f'{name} "{value}";\n' for name, value in {**own, **_network_settings()}.items())


@functools.cache
def _network_settings() -> dict[str, str]:
    """Settings of the system for proxies, certificates and clock checks, which this host needs to reach an archive."""
    prefixes = ("Acquire::http", "Acquire::https", "Acquire::Check-", "Acquire::ForceIPv")
    found = {}
    for line in run(["apt-config", "dump"], purpose="read apt's settings").splitlines():
        name, _, value = line.partition(" ")
        if name.startswith(prefixes) and value.strip('";'):
            found[name] = value.strip('";')
    return found


def apt_messages(error: ProcessFailed) -> str:
    """The error and warning lines of apt, without prefixes, each once."""
    lines = [line[2:].strip() for line in error.details.splitlines() if line.startswith(("E:", "W:"))]
    return "; ".join(dict.fromkeys(lines[:3])) or error.happened


def stanzas(text: str) -> Iterator[dict[str, str]]:
    """The stanzas of a control file as dictionaries; continuation lines keep their line ends."""
    for stanza in text.split("\n\n"):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.splitlines():
            if line[:1].isspace():
                fields[name] = f"{fields[name]}\n{line.strip()}"
            elif ":" in line:
                name, _, value = line.partition(":")
                fields[name] = value.strip()
        if fields:
            yield fields


def newest(found: Iterable[dict[str, str]]) -> dict[str, str] | None:
    """The record with the highest version, in dpkg's order."""

    def compare(first: dict[str, str], second: dict[str, str]) -> int:
        return compare_versions(first["Version"], second["Version"])

    return max(found, key=functools.cmp_to_key(compare), default=None)


def compare_versions(first: str, second: str) -> int:
    """Negative, 0 or positive: the first Debian version is older than, equal to or newer than the second."""
    if first == second:
        return 0
    command = ["dpkg", "--compare-versions", first, "lt", second]
    return -1 if subprocess.run(command, check=False).returncode == 0 else 1


def is_version(version: str, prefix: str) -> bool:
    """True when the upstream part of a Debian version is ``prefix`` or begins with it at a boundary."""
    upstream = version.partition(":")[2] or version
    rest = upstream[len(prefix) :]
    return upstream.startswith(prefix) and (not prefix or not rest[:1].isdigit())


def comma_list(field: str) -> list[str]:
    """The parts of a comma-separated field."""
    return [part.strip() for part in field.split(",") if part.strip()]
