"""Programs of apt with a configuration of our own, in a folder of our own."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path

from cprlib.build import store
from cprlib.errors import DownloadFailed, ProcessFailed
from cprlib.files import write_text
from cprlib.process import run

MIRROR_VARIABLE = "CPRLIB_DEBIAN_MIRROR"
ARCHITECTURE = "amd64"
NETWORK_ADVICE = f"check the network and proxy, or set {MIRROR_VARIABLE} to a mirror that can be reached"


def run_apt(command: Sequence[str], root: Path, purpose: str, seconds: float) -> str:
    """Run a program of apt's, without touching the system's apt.

    :param root: lists, cache and configuration are here; ``sources.list`` in it says where from.
    :param seconds: the longest that it may take.
    :returns: its standard output.
    :raises DownloadFailed: it failed; in apt's own words.
    :raises EnvironmentFailure: the disk is full.
    """
    for folder in ("lists/partial", "cache/archives/partial", "etc"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    write_text(root / "status", "")
    write_text(root / "apt.conf", _configuration(root))
    environment = {**os.environ, "APT_CONFIG": str(root / "apt.conf"), "LC_ALL": "C.UTF-8"}
    try:
        with store.no_space_in_one_line(purpose):
            return run(command, purpose=purpose, seconds=seconds, env=environment)
    except ProcessFailed as error:
        raise DownloadFailed(purpose, _apt_words(error), NETWORK_ADVICE, details=error.details) from error


def _configuration(root: Path) -> str:
    """An apt configuration in which nothing of the system's is read or written, save how to get through the network."""
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
        "APT::Sandbox::User": "",  # apt's own user may not enter a home folder; and only root could change to it
        "APT::Update::Error-Mode": "any",  # else unreachable lists are a mere warning
        "Acquire::Languages": "none",
        "Acquire::PDiffs": "false",
        "Acquire::GzipIndexes": "true",
        "Acquire::Retries": "2",
        "Acquire::http::Timeout": "30",
        "Acquire::https::Timeout": "30",
        "Debug::NoLocking": "true",  # the store and the lists have locks of their own
    }
    return "".join(f'{name} "{value}";\n' for name, value in {**own, **_network_settings()}.items())


@functools.cache
def _network_settings() -> dict[str, str]:
    """The system's settings of proxies, certificates and clock checks, which this host needs to reach an archive."""
    wanted = ("Acquire::http", "Acquire::https", "Acquire::Check-", "Acquire::ForceIPv")
    found = {}
    for line in run(["apt-config", "dump"], purpose="read apt's settings").splitlines():
        name, _, value = line.partition(" ")
        if name.startswith(wanted) and value.strip('";'):
            found[name] = value.strip('";')
    return found


def _apt_words(error: ProcessFailed) -> str:
    """The lines in which apt says what went wrong, without its own prefixes, each once."""
    words = [line[2:].strip() for line in error.details.splitlines() if line.startswith(("E:", "W:"))]
    return "; ".join(dict.fromkeys(words[:3])) or error.happened
