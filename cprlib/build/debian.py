"""Packages and sources from Debian's archive, with an apt configuration of our own.

The package lists of a suite are fetched only to look up a name. Results of look-ups (version, file, sha256) are
recorded and files are stored under their sha256, so a second build needs no network. apt checks the lists with
Debian's keyring, and the sha256 of every file comes from these lists.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cprlib import codec
from cprlib.build import store
from cprlib.build.apt import MIRROR_VARIABLE, comma_list, is_version, newest, run_apt, stanzas
from cprlib.build.progress import Progress
from cprlib.errors import CprlibError, DownloadFailed, EnvironmentFailure, NotSupported, ProcessFailed
from cprlib.files import cache_folder, locked, write_text
from cprlib.process import run

DEFAULT_MIRROR = "http://deb.debian.org/debian"
KEYRINGS = tuple(Path("/usr/share/keyrings") / f"debian-archive-keyring.{suffix}" for suffix in ("pgp", "gpg"))
LISTS_FRESH = 24 * 3600.0  # seconds; age up to which lists serve a new look-up
UPDATE_SECONDS = 300.0
DOWNLOAD_SECONDS = 900.0
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Remote:
    """A file of the archive: its path below the mirror, bytes, sha256."""

    path: str
    size: int
    sha256: str

    @property
    def name(self) -> str:
        """The file's own name."""
        return self.path.rpartition("/")[2]


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


class Archive:
    """Look-ups and downloads from one suite.

    :param suite: ``"trixie"``, ``"trixie-backports"``, ``"sid"``; its lists are fetched when needed.
    """

    def __init__(self, suite: str, progress: Progress | None = None) -> None:
        self.suite = suite
        self.mirror = os.environ.get(MIRROR_VARIABLE, DEFAULT_MIRROR).rstrip("/")
        self._progress = progress or Progress()
        self._folder = cache_folder() / "debian" / store.key_of(mirror=self.mirror)[:12]

    def names(self, prefix: str) -> tuple[str, ...]:
        """Names of the binary packages that begin with ``prefix``, sorted."""

        def look_up() -> tuple[str, ...]:
            return tuple(sorted(self._apt_cache("deb", "pkgnames", prefix).split()))

        return self._recorded(f"names-{prefix}", tuple[str, ...], look_up)

    def package(self, name: str) -> Package:
        """The newest version of a binary package.

        :raises NotSupported: the suite has no such package.
        :raises DownloadFailed: the lists could not be fetched.
        """

        def look_up() -> Package:
            shown = self._apt_cache("deb", "show", "--all-versions", name, absent_is_empty=True)
            found = newest(record for record in stanzas(shown) if record.get("Package") == name)
            if found is None:
                raise NotSupported(f"find package {name}", f"Debian {self.suite} at {self.mirror} has none")
            depends = [*comma_list(found.get("Pre-Depends", "")), *comma_list(found.get("Depends", ""))]
            file = Remote(found["Filename"], int(found["Size"]), found["SHA256"])
            return Package(name, found["Version"], self.suite, tuple(depends), file)

        return self._recorded(f"deb-{name}", Package, look_up)

    def source(self, name: str, version: str = "") -> Source:
        """The newest source package whose upstream version is ``version`` or begins with it and a dot or plus.

        :raises NotSupported: the suite has no such source.
        :raises DownloadFailed: the lists could not be fetched.
        """

        def look_up() -> Source:
            shown = self._apt_cache("deb-src", "showsrc", "--only-source", name, absent_is_empty=True)
            records = [record for record in stanzas(shown) if record.get("Package") == name]
            found = newest(record for record in records if is_version(record["Version"], version))
            if found is None:
                known = ", ".join(record["Version"] for record in records) or "none"
                raise NotSupported(
                    f"find source package {name} {version}", f"Debian {self.suite} at {self.mirror} has {known}"
                )
            files = []
            for line in found["Checksums-Sha256"].split("\n"):
                if line.strip():
                    digest, size, file = line.split()
                    files.append(Remote(f"{found['Directory']}/{file}", int(size), digest))
            return Source(name, found["Version"], self.suite, tuple(files))

        return self._recorded(f"src-{name}-{version}", Source, look_up)

    def download(self, name: str) -> Path:
        """The ``.deb`` of the newest version of a package; fetched once.

        :raises DownloadFailed: it could not be fetched; holds apt's messages.
        """

        def fetch() -> Path:
            remote = self.package(name).file
            key = store.key_of(sha256=remote.sha256, name=remote.name)
            return store.entry("deb", key, lambda folder: self._fetch([remote], folder)) / remote.name

        return self._fetch_twice(fetch, f"deb-{name}", "deb")

    def download_source(self, name: str, version: str = "") -> tuple[Source, Path]:
        """A source package and its ``.dsc``; the other files of the package are in the same folder.

        :raises DownloadFailed: it could not be fetched; holds apt's messages.
        """

        def fetch() -> tuple[Source, Path]:
            source = self.source(name, version)
            key = store.key_of(files="\n".join(file.sha256 for file in source.files))
            folder = store.entry("debian-source", key, lambda folder: self._fetch(source.files, folder))
            return source, next(folder.glob("*.dsc"))

        return self._fetch_twice(fetch, f"src-{name}-{version}", "deb-src")

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

        :raises ProcessFailed: the file is no package, or there is no space.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if not members:
            run(["dpkg-deb", "--extract", str(deb), str(folder)], purpose=f"unpack {deb.name}", seconds=300)
            return
        contents = folder / f".{deb.name}.tar"
        try:
            with contents.open("wb") as stream:
                subprocess.run(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=stream, check=True)
            command = ["tar", "-xf", str(contents), "-C", str(folder), "--no-same-owner", "--wildcards", *members]
            run(command, purpose=f"unpack {deb.name}", seconds=300)
        except subprocess.CalledProcessError as error:
            raise ProcessFailed(f"unpack {deb.name}", str(error)) from error
        finally:
            contents.unlink(missing_ok=True)

    def _fetch_twice(self, fetch: Callable[[], Found], name: str, kind: str) -> Found:
        """Fetch; when a recorded version is no longer available, look it up in new lists and try again."""
        record = self._record(name)
        recorded = record.exists()
        try:
            return fetch()
        except DownloadFailed:
            if not recorded:
                raise
            before = record.read_text(encoding="utf-8")
            record.unlink(missing_ok=True)
            (self._root(kind) / "fetched").unlink(missing_ok=True)
            try:
                return fetch()
            except CprlibError:
                write_text(record, before)  # not reachable now: keep what was recorded
                raise

    def _fetch(self, remotes: Sequence[Remote], folder: Path) -> None:
        """Download files of the archive into a folder; apt checks their sha256."""
        command = ["/usr/lib/apt/apt-helper", "download-file"]
        for remote in remotes:
            command += [f"{self.mirror}/{remote.path}", str(folder / remote.name), f"SHA256:{remote.sha256}"]
        purpose, megabytes = f"download {remotes[0].name}", sum(remote.size for remote in remotes) / 1e6
        with self._progress.step(f"{purpose} ({megabytes:.1f} MB)"):
            run_apt(command, self._root("deb"), purpose, DOWNLOAD_SECONDS)
        for remote in remotes:
            if (folder / remote.name).stat().st_size != remote.size:
                raise DownloadFailed(f"download {remote.name}", "its size differs from Debian's lists")

    def _recorded(self, name: str, kind: type[Found], look_up: Callable[[], Found]) -> Found:
        """The recorded result of an earlier look-up, else of a new one."""
        record = self._record(name)
        with contextlib.suppress(OSError, codec.BadValue):  # not recorded, or incomplete
            return codec.load_json(kind, record.read_bytes())
        value = look_up()
        write_text(record, codec.dump_json(value))
        return value

    def _record(self, name: str) -> Path:
        return self._folder / "known" / f"{self.suite}-{name}.json"

    def _root(self, kind: str) -> Path:
        return self._folder / f"{self.suite}-{kind}"

    def _apt_cache(self, kind: str, *arguments: str, absent_is_empty: bool = False) -> str:
        self._update(kind)
        purpose = f"look up {arguments[-1]} in Debian {self.suite}"
        try:
            return run_apt(["apt-cache", *arguments], self._root(kind), purpose, 60.0)
        except DownloadFailed:
            if absent_is_empty:
                return ""
            raise

    def _update(self, kind: str) -> None:
        """Fetch the lists of the suite unless they are recent."""
        root = self._root(kind)
        root.mkdir(parents=True, exist_ok=True)
        stamp = root / "fetched"
        with locked(root / "lock"):
            if stamp.exists() and stamp.stat().st_mtime >= time.time() - LISTS_FRESH:
                return
            stamp.unlink(missing_ok=True)
            signed = next((path for path in KEYRINGS if path.exists()), None)
            if signed is None:
                advice = "sudo apt-get install debian-archive-keyring"
                raise EnvironmentFailure(f"check Debian {self.suite}'s lists", f"no {KEYRINGS[-1]}", advice)
            write_text(root / "sources.list", f"{kind} [signed-by={signed}] {self.mirror} {self.suite} main\n")
            purpose = f"fetch Debian {self.suite}'s list of {'packages' if kind == 'deb' else 'sources'}"
            with self._progress.step(purpose):
                run_apt(["apt-get", "update"], root, purpose, UPDATE_SECONDS)
            write_text(stamp, "")
