"""Packages and sources from Debian's archive.

The package lists of a suite are fetched only to look up a name. Results of look-ups (version, file, sha256) are
recorded and files are stored under their sha256, so a second build needs no network. The lists are checked with
Debian's keys, and the sha256 of every file comes from these lists.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from cprlib.build import store
from cprlib.build.control import Remote, comma_list, is_version, newest
from cprlib.build.deb_file import unpack_deb
from cprlib.build.host_packages import has_apt
from cprlib.build.progress import Progress
from cprlib.build.signed_lists import MIRROR_VARIABLE, SignedLists
from cprlib.errors import DownloadFailed, NotSupported
from cprlib.files import cache_folder, write_json, write_text
from cprlib.process import run

DEFAULT_MIRROR = "http://deb.debian.org/debian"  # what is fetched is signed; without apt it is HTTPS as well
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Package:
    """A binary package of one suite.

    :param depends: Pre-Depends and Depends as written: ``("libc6 (>= 2.36)", "a | b")``.
    """

    name: str
    version: str
    suite: str
    depends: tuple[str, ...]
    file: Remote


@dataclass(frozen=True, slots=True)
class Source:
    """A source package of one suite: the ``.dsc`` and the archives it names."""

    name: str
    version: str
    suite: str
    files: tuple[Remote, ...]


def _package(value: dict[str, Any]) -> Package:
    return Package(**{**value, "depends": tuple(value["depends"]), "file": Remote(**value["file"])})


def _source(value: dict[str, Any]) -> Source:
    return Source(**{**value, "files": tuple(Remote(**file) for file in value["files"])})


class Archive:
    """Look-ups and downloads from one suite.

    :param suite: ``"trixie"``, ``"trixie-backports"``, ``"sid"``; its lists are fetched when needed.
    """

    def __init__(self, suite: str, progress: Progress | None = None) -> None:
        self.suite = suite
        default = DEFAULT_MIRROR if has_apt() else DEFAULT_MIRROR.replace("http:", "https:")
        self.mirror = (os.environ.get(MIRROR_VARIABLE) or default).rstrip("/")
        self._progress = progress or Progress()
        self._folder = cache_folder() / "debian" / store.key_of(mirror=self.mirror)[:12]
        self._lists = SignedLists(self.mirror, suite, self._folder, self._progress)
        self._answered: dict[Path, str] = {}  # records of earlier look-ups that this object has used, and their texts

    def names(self, prefix: str) -> tuple[str, ...]:
        """Names of the binary packages that begin with ``prefix``, sorted."""
        return self._recorded(f"names-{prefix}", tuple, lambda: self._lists.names(prefix))

    def package(self, name: str) -> Package:
        """The newest version of a binary package.

        :raises NotSupported: the suite has no such package.
        :raises DownloadFailed: the lists could not be fetched.
        """

        found = self._recorded(f"deb-{name}", _package, lambda: self._look_up(name))  # not from a recorded "none"
        if found is None:
            raise NotSupported(f"find package {name}", f"Debian {self.suite} at {self.mirror} has none")
        return found

    def find_package(self, name: str) -> Package | None:
        """The newest version of a binary package; None where the suite has none, which is recorded too.

        :raises DownloadFailed: the lists could not be fetched.
        """

        def read(value: Any) -> Package | None:
            return None if value is None else _package(value)

        return self._recorded(f"deb-{name}", read, lambda: self._look_up(name))

    def _look_up(self, name: str) -> Package | None:
        found = newest(self._lists.records("deb", name))
        if found is None:
            return None
        depends = [*comma_list(found.get("Pre-Depends", "")), *comma_list(found.get("Depends", ""))]
        file = Remote(found["Filename"], int(found["Size"]), found["SHA256"])
        return Package(name, found["Version"], self.suite, tuple(depends), file)

    def source(self, name: str, version: str = "") -> Source:
        """The newest source package whose upstream version is ``version`` or begins with it and a dot or plus.

        :raises NotSupported: the suite has no such source.
        :raises DownloadFailed: the lists could not be fetched.
        """

        def look_up() -> Source:
            records = self._lists.records("deb-src", name)
            found = newest(record for record in records if is_version(record["Version"], version))
            if found is None:
                known = ", ".join(record["Version"] for record in records) or "none"
                raise NotSupported(
                    f"find source package {name} {version}",
                    f"Debian {self.suite} at {self.mirror} has {known}",
                    f"choose another base (--base), or set {MIRROR_VARIABLE} to a snapshot that has it",
                )
            files = []
            for line in found["Checksums-Sha256"].split("\n"):
                if line.strip():
                    digest, size, file = line.split()
                    files.append(Remote(f"{found['Directory']}/{file}", int(size), digest))
            return Source(name, found["Version"], self.suite, tuple(files))

        return self._recorded(f"src-{name}-{version}", _source, look_up)

    def download(self, name: str) -> Path:
        """The ``.deb`` of the newest version of a package; fetched once.

        :raises DownloadFailed: it could not be fetched; holds apt's messages.
        """
        remote = self.package(name).file
        key = store.key_of(sha256=remote.sha256, name=remote.name)
        return self._entry("deb", key, [remote]) / remote.name

    def download_source(self, name: str, version: str = "") -> tuple[Source, Path]:
        """A source package and its ``.dsc``; the other files of the package are in the same folder.

        :raises DownloadFailed: it could not be fetched; holds apt's messages.
        """
        source = self.source(name, version)
        key = store.key_of(files="\n".join(file.sha256 for file in source.files))
        folder = self._entry("debian-source", key, source.files)
        return source, next(folder.glob("*.dsc"))

    def unpack_source(self, dsc: Path, folder: Path) -> None:
        """Unpack a source package with Debian's patches applied, into a folder that must not exist."""
        run(
            ["dpkg-source", "--no-check", "--extract", str(dsc), str(folder)],
            purpose=f"unpack {dsc.name}",
            seconds=300,
            advice="install dpkg-dev and xz-utils",
        )

    def extract(self, deb: Path, folder: Path, *members: str) -> None:
        """Unpack a ``.deb``, or the members that match ``"./boot/*"``, into a folder; runs no scripts.

        :raises BuildFailed: the file is no package. :raises EnvironmentFailure: there is no space.
        """
        with store.disk_full_as_error(f"unpack {deb.name}"):
            unpack_deb(deb, folder, members)

    def forget(self) -> dict[Path, str]:
        """Remove the records that this object has used, and the lists; returns the texts of the records."""
        for kind in ("deb", "deb-src"):
            self._lists.forget(kind)
        texts, self._answered = self._answered, {}
        for record in texts:
            record.unlink(missing_ok=True)  # another run may be looking it up again
        return texts

    def _entry(self, kind: str, key: str, remotes: Sequence[Remote]) -> Path:
        """The folder of the store with these files."""
        return store.entry(kind, key, lambda folder: self._fetch(remotes, folder), progress=self._progress)

    def _fetch(self, remotes: Sequence[Remote], folder: Path) -> None:
        """Download files of the archive into a folder; their sha256 is checked."""
        purpose, megabytes = f"download {remotes[0].name}", sum(remote.size for remote in remotes) / 1e6
        with self._progress.step(f"{purpose} ({megabytes:.1f} MB)"):
            self._lists.fetch(remotes, folder, purpose)

    def _recorded(self, name: str, read: Callable[[Any], Found], look_up: Callable[[], Found]) -> Found:
        """The recorded result of an earlier look-up, else of a new one.

        :param read: makes the result from its JSON; msgspec is not there when the first builds begin.
        """
        record = self._record(name)
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # not recorded, or incomplete
            text = record.read_text(encoding="utf-8")
            known = read(json.loads(text))
            self._answered[record] = text
            return known
        value = look_up()
        write_json(record, asdict(value) if is_dataclass(value) and not isinstance(value, type) else value)
        return value

    def _record(self, name: str) -> Path:
        return self._folder / "known" / f"{self.suite}-{name}.json"


def with_new_look_ups(archives: Collection[Archive], build: Callable[[], Found]) -> Found:
    """Build; when a package is no longer there, look up again all that these archives have recorded for it, and repeat.

    The new lists may have another name instead: a point release of Debian replaces the kernel that the recorded meta
    package depends on. The whole build is repeated, because the keys of its results depend on the records.

    :param build: uses only these archives.
    """
    try:
        return build()
    except (DownloadFailed, NotSupported):
        before = {record: text for archive in archives for record, text in archive.forget().items()}
        if not before:
            raise
        try:
            return build()
        except (DownloadFailed, NotSupported):
            for record, text in before.items():  # not reachable now: keep what was recorded
                write_text(record, text)
            raise
