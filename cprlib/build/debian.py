"""Debian's archive through an apt configuration of our own: packages and sources, without touching the system's apt.

The lists of one suite and sort (binary or source) are fetched only when a name has to be looked up in them. What a
lookup found (version, file, sha256) is remembered, and files are kept by their sha256: a second time needs no network.
Trust: apt checks the lists against Debian's keyring; the sha256 of every file comes from these lists.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from cprlib.build import store
from cprlib.build.apt import MIRROR_VARIABLE, run_apt
from cprlib.build.debian_control import comma_list, is_version, newest, stanzas
from cprlib.build.progress import Progress, SilentProgress
from cprlib.errors import CprlibError, DownloadFailed, EnvironmentFailure, NotSupported, ProcessFailed
from cprlib.files import cache_folder, locked, write_json, write_text
from cprlib.process import run

DEFAULT_MIRROR = "http://deb.debian.org/debian"
KEYRINGS = tuple(Path("/usr/share/keyrings") / f"debian-archive-keyring.{suffix}" for suffix in ("pgp", "gpg"))
LISTS_FRESH = 24 * 3600.0  # seconds for which fetched lists are good enough for a new lookup
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
    """Lookups and downloads from some suites, in order of preference.

    :param suites: ``"trixie"``, ``"trixie-backports"``, ``"sid"``; only those asked for are fetched.
    :param refresh: forget what earlier lookups found and fetch the lists again.
    """

    def __init__(self, *suites: str, progress: Progress | None = None, refresh: bool = False) -> None:
        self.suites = suites or ("trixie",)
        self.mirror = os.environ.get(MIRROR_VARIABLE, DEFAULT_MIRROR).rstrip("/")
        self._progress = progress or SilentProgress()
        self._refresh = refresh
        self._since = time.time()
        self._folder = cache_folder() / "debian" / store.key_of(mirror=self.mirror)[:12]

    def names(self, prefix: str, suite: str | None = None) -> tuple[str, ...]:
        """Names of the binary packages of a suite that begin with ``prefix``, sorted."""
        chosen = suite or self.suites[0]

        def ask() -> list[str]:
            return sorted(self._apt_cache(chosen, "deb", "pkgnames", prefix).split())

        return tuple(str(name) for name in self._remembered(f"{chosen}-names-{prefix}", ask))

    def package(self, name: str, suite: str | None = None) -> Package:
        """The newest version of a binary package in a suite (the first one by default).

        :raises NotSupported: the suite has no such package.
        :raises DownloadFailed: the lists could not be fetched.
        """
        chosen = suite or self.suites[0]

        def ask() -> dict[str, object]:
            shown = self._apt_cache(chosen, "deb", "show", "--all-versions", name, absent_is_empty=True)
            found = newest(record for record in stanzas(shown) if record.get("Package") == name)
            if found is None:
                raise NotSupported(f"find package {name}", f"Debian {chosen} at {self.mirror} has none")
            depends = [*comma_list(found.get("Pre-Depends", "")), *comma_list(found.get("Depends", ""))]
            file = Remote(found["Filename"], int(found["Size"]), found["SHA256"])
            return asdict(Package(name, found["Version"], chosen, tuple(depends), file))

        known = self._remembered(f"{chosen}-deb-{name}", ask)
        return Package(name, known["version"], chosen, tuple(known["depends"]), Remote(**known["file"]))

    def source(self, name: str, version: str = "", suite: str | None = None) -> Source:
        """The newest source package whose upstream version is ``version`` or begins with it and a dot or plus.

        :raises NotSupported: the suite has no such source.
        :raises DownloadFailed: the lists could not be fetched.
        """
        chosen = suite or self.suites[0]

        def ask() -> dict[str, object]:
            shown = self._apt_cache(chosen, "deb-src", "showsrc", "--only-source", name, absent_is_empty=True)
            records = [record for record in stanzas(shown) if record.get("Package") == name]
            found = newest(record for record in records if is_version(record["Version"], version))
            if found is None:
                there = ", ".join(record["Version"] for record in records) or "none"
                raise NotSupported(
                    f"find source package {name} {version}", f"Debian {chosen} at {self.mirror} has {there}"
                )
            files = []
            for line in found["Checksums-Sha256"].split("\n"):
                if line.strip():
                    digest, size, file = line.split()
                    files.append(Remote(f"{found['Directory']}/{file}", int(size), digest))
            return asdict(Source(name, found["Version"], chosen, tuple(files)))

        known = self._remembered(f"{chosen}-src-{name}-{version}", ask)
        return Source(name, known["version"], chosen, tuple(Remote(**file) for file in known["files"]))

    def download(self, name: str, suite: str | None = None) -> Path:
        """The ``.deb`` of a package's newest version in a suite; kept, so fetched once.

        :raises DownloadFailed: out of reach, in apt's own words.
        """
        chosen = suite or self.suites[0]

        def fetch() -> Path:
            remote = self.package(name, chosen).file
            key = store.key_of(sha256=remote.sha256, name=remote.name)
            return store.entry("deb", key, lambda aside: self._fetch([remote], aside)) / remote.name

        return self._again_when_gone(fetch, f"{chosen}-deb-{name}", self._root(chosen, "deb"))

    def download_source(self, name: str, version: str = "", suite: str | None = None) -> tuple[Source, Path]:
        """A source package and its ``.dsc``, which has the other files of the package beside it.

        :raises DownloadFailed: out of reach, in apt's own words.
        """
        chosen = suite or self.suites[0]

        def fetch() -> tuple[Source, Path]:
            source = self.source(name, version, suite)
            key = store.key_of(files="\n".join(file.sha256 for file in source.files))
            folder = store.entry("debian-source", key, lambda aside: self._fetch(source.files, aside))
            return source, next(folder.glob("*.dsc"))

        return self._again_when_gone(fetch, f"{chosen}-src-{name}-{version}", self._root(chosen, "deb-src"))

    def unpack_source(self, dsc: Path, folder: Path) -> None:
        """Unpack a source package, Debian's own patches applied, into a folder that does not exist yet."""
        run(
            ["dpkg-source", "--no-check", "--extract", str(dsc), str(folder)],
            purpose=f"unpack {dsc.name}",
            seconds=300,
            advice="install dpkg-dev and xz-utils",
        )

    def extract(self, deb: Path, folder: Path, *members: str) -> None:
        """Unpack a ``.deb`` (or only the members that match, e.g. ``"./boot/*"``) into a folder; no scripts run.

        :raises ProcessFailed: not a package, or no space.
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

    def _again_when_gone(self, fetch: Callable[[], Found], memory: str, root: Path) -> Found:
        """Fetch; when a remembered version cannot be had any more, look it up in new lists and try once again."""
        remembered = self._memory(memory).exists()
        try:
            return fetch()
        except DownloadFailed:
            if not remembered or self._refresh:
                raise
            before = self._memory(memory).read_text(encoding="utf-8")
            self._memory(memory).unlink(missing_ok=True)
            (root / "fetched").unlink(missing_ok=True)
            try:
                return fetch()
            except CprlibError:
                write_text(self._memory(memory), before)  # out of reach for now: what is known stays known
                raise

    def _fetch(self, remotes: Sequence[Remote], folder: Path) -> None:
        """Download files of the archive into a folder; apt checks their sha256."""
        byte_count = sum(remote.size for remote in remotes)
        command = ["/usr/lib/apt/apt-helper", "download-file"]
        for remote in remotes:
            command += [f"{self.mirror}/{remote.path}", str(folder / remote.name), f"SHA256:{remote.sha256}"]
        title = f"download {remotes[0].name} ({byte_count / 1e6:.1f} MB)"
        with self._progress.step(title):
            run_apt(command, self._root(self.suites[0], "deb"), f"download {remotes[0].name}", DOWNLOAD_SECONDS)
        for remote in remotes:
            if (folder / remote.name).stat().st_size != remote.size:
                raise DownloadFailed(f"download {remote.name}", "it has not the size that Debian's lists say")

    def _remembered(self, name: str, ask: Callable[[], Any]) -> Any:
        """What an earlier lookup found; else ask, and remember."""
        memory = self._memory(name)
        if not self._refresh or (memory.exists() and memory.stat().st_mtime >= self._since):
            try:
                return json.loads(memory.read_bytes())
            except (OSError, ValueError):
                pass  # never looked up, or cut off: ask
        value = ask()
        write_json(memory, value)
        return value

    def _memory(self, name: str) -> Path:
        return self._folder / "known" / f"{name}.json"

    def _root(self, suite: str, sort: str) -> Path:
        return self._folder / f"{suite}-{sort}"

    def _apt_cache(self, suite: str, sort: str, *arguments: str, absent_is_empty: bool = False) -> str:
        root = self._root(suite, sort)
        self._update(suite, sort)
        try:
            return run_apt(["apt-cache", *arguments], root, f"look up {arguments[-1]} in Debian {suite}", 60.0)
        except DownloadFailed:
            if absent_is_empty:
                return ""
            raise

    def _update(self, suite: str, sort: str) -> None:
        """Fetch the lists of a suite unless there are fresh ones."""
        root = self._root(suite, sort)
        root.mkdir(parents=True, exist_ok=True)
        stamp = root / "fetched"
        with locked(root / "lock"):
            oldest = max(self._since if self._refresh else 0.0, time.time() - LISTS_FRESH)
            if stamp.exists() and stamp.stat().st_mtime >= oldest:
                return
            stamp.unlink(missing_ok=True)
            signed = next((path for path in KEYRINGS if path.exists()), None)
            if signed is None:
                raise EnvironmentFailure(
                    f"check Debian {suite}'s lists", f"no {KEYRINGS[-1]}", "sudo apt-get install debian-archive-keyring"
                )
            write_text(root / "sources.list", f"{sort} [signed-by={signed}] {self.mirror} {suite} main\n")
            kind = "packages" if sort == "deb" else "sources"
            with self._progress.step(f"fetch Debian {suite}'s list of {kind}"):
                run_apt(["apt-get", "update"], root, f"fetch Debian {suite}'s list of {kind}", UPDATE_SECONDS)
            write_text(stamp, "")
