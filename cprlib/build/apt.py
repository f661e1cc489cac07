"""Package lists and files by apt programs, with a configuration of our own, beside the system's apt state."""

from __future__ import annotations

import abc
import functools
import os
import time
from collections.abc import Sequence
from pathlib import Path

from cprlib.build import store
from cprlib.build.control import Remote, stanzas
from cprlib.build.progress import Progress
from cprlib.errors import DownloadFailed, EnvironmentFailure, ProcessFailed
from cprlib.files import locked, write_text
from cprlib.process import run

MIRROR_VARIABLE = "CPRLIB_DEBIAN_MIRROR"
ARCHITECTURE = "amd64"
KEYRINGS = tuple(Path("/usr/share/keyrings") / f"debian-archive-keyring.{suffix}" for suffix in ("pgp", "gpg"))
LISTS_FRESH = 24 * 3600.0  # seconds; age up to which lists serve a new look-up
UPDATE_SECONDS = 300.0
DOWNLOAD_SECONDS = 900.0
NO_PACKAGE = "No packages found"  # printed by apt-cache for a name that the lists do not have
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
    values = {**own, **_network_settings()}
    if os.environ.get(MIRROR_VARIABLE):  # a snapshot has old lists for good
        values["Acquire::Check-Valid-Until"] = "false"
    return "".join(f'{name} "{value}";\n' for name, value in values.items())


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


class PackageLists(abc.ABC):
    """The lists of one suite.

    :param mirror: address without a slash at its end.
    :param folder: folder of all lists of that mirror.
    """

    def __init__(self, mirror: str, suite: str, folder: Path, progress: Progress) -> None:
        self._mirror = mirror
        self._suite = suite
        self._folder = folder
        self._progress = progress

    @abc.abstractmethod
    def names(self, prefix: str) -> tuple[str, ...]:
        """Names of the binary packages that begin with ``prefix``, sorted."""

    @abc.abstractmethod
    def records(self, kind: str, name: str) -> list[dict[str, str]]:
        """All versions of a package; none where the suite has no such package.

        :param kind: ``deb`` or ``deb-src``.
        :raises DownloadFailed: the lists could not be fetched, or their signature is wrong.
        """

    @abc.abstractmethod
    def fetch(self, remotes: Sequence[Remote], folder: Path, purpose: str) -> None:
        """Download files of the archive into a folder, and check their sha256."""

    @abc.abstractmethod
    def forget(self, kind: str) -> None:
        """Fetch the lists again for the next look-up."""

    def _purpose(self, kind: str) -> str:
        return f"fetch Debian {self._suite}'s list of {'packages' if kind == 'deb' else 'sources'}"


def is_recent(path: Path) -> bool:
    """Whether lists of the age of this file serve a new look-up."""
    return path.exists() and path.stat().st_mtime >= time.time() - LISTS_FRESH


class AptLists(PackageLists):
    """Look-ups by apt-cache, downloads by apt-helper; apt checks signatures and sha256."""

    def names(self, prefix: str) -> tuple[str, ...]:
        return tuple(sorted(self._apt_cache("deb", "pkgnames", prefix).split()))

    def records(self, kind: str, name: str) -> list[dict[str, str]]:
        command = ("show", "--all-versions") if kind == "deb" else ("showsrc", "--only-source")
        shown = self._apt_cache(kind, *command, name, absent_is_empty=True)
        return [record for record in stanzas(shown) if record.get("Package") == name]

    def fetch(self, remotes: Sequence[Remote], folder: Path, purpose: str) -> None:
        command = ["/usr/lib/apt/apt-helper", "download-file"]
        for remote in remotes:
            command += [f"{self._mirror}/{remote.path}", str(folder / remote.name), f"SHA256:{remote.sha256}"]
        run_apt(command, self._root("deb"), purpose, DOWNLOAD_SECONDS)

    def forget(self, kind: str) -> None:
        (self._root(kind) / "fetched").unlink(missing_ok=True)

    def _root(self, kind: str) -> Path:
        return self._folder / f"{self._suite}-{kind}"

    def _apt_cache(self, kind: str, *arguments: str, absent_is_empty: bool = False) -> str:
        self._update(kind)
        purpose = f"look up {arguments[-1]} in Debian {self._suite}"
        try:
            return run_apt(["apt-cache", *arguments], self._root(kind), purpose, 60.0)
        except DownloadFailed as error:
            if absent_is_empty and NO_PACKAGE in error.happened:
                return ""
            raise

    def _update(self, kind: str) -> None:
        """Fetch the lists of the suite unless they are recent."""
        root = self._root(kind)
        stamp = root / "fetched"
        with locked(root / "lock", waiting=self._progress.raise_if_stopped):
            if is_recent(stamp):
                return
            stamp.unlink(missing_ok=True)
            signed = next((path for path in KEYRINGS if path.exists()), None)
            if signed is None:
                advice = "sudo apt-get install debian-archive-keyring"
                raise EnvironmentFailure(f"check Debian {self._suite}'s lists", f"no {KEYRINGS[-1]}", advice)
            write_text(root / "sources.list", f"{kind} [signed-by={signed}] {self._mirror} {self._suite} main\n")
            purpose = self._purpose(kind)
            with self._progress.step(purpose):
                run_apt(["apt-get", "update"], root, purpose, UPDATE_SECONDS)
            write_text(stamp, "")
