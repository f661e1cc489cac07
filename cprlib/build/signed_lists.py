"""Package lists and files of Debian's archive: by apt's downloader, else by HTTPS (Fedora, openSUSE, Arch).

``InRelease`` of a suite is signed. gpgv(1), which each distribution has, checks that with the keys of
``images/debian/``. It has the sha256 of the lists, and these have that of each file (DebianRepository/Format in
Debian's wiki). apt's downloader has the proxy and certificates of the host; apt's own lists are neither read nor
changed.
"""

from __future__ import annotations

import base64
import email.utils
import hashlib
import lzma
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from cprlib.build import store
from cprlib.build.control import Remote, stanzas
from cprlib.build.host_packages import apt_messages, find_program, has_apt
from cprlib.build.progress import Progress
from cprlib.deadline import Deadline
from cprlib.errors import DownloadFailed, EnvironmentFailure, ProcessFailed
from cprlib.files import locked, project_folder
from cprlib.process import run

MIRROR_VARIABLE = "CPRLIB_DEBIAN_MIRROR"
NETWORK_ADVICE = f"check the network and proxy, or set {MIRROR_VARIABLE} to a mirror that can be reached"
LISTS = {"deb": "main/binary-amd64/Packages.xz", "deb-src": "main/source/Sources.xz"}
LISTS_FRESH = 24 * 3600.0  # seconds; age up to which lists serve a new look-up
DOWNLOAD_SECONDS = 900.0
TIMEOUT_S = 30.0  # without a byte
APT_HELPER = (
    "/usr/lib/apt/apt-helper",
    "--option=APT::Sandbox::User=",  # the user _apt may not enter a home folder, and only root can change to it
    "--option=Acquire::Retries=2",
    f"--option=Acquire::http::Timeout={TIMEOUT_S:.0f}",
    f"--option=Acquire::https::Timeout={TIMEOUT_S:.0f}",
    "download-file",
)
VERIFY_S = 60.0
CHUNK = 1 << 20
VALID_SIGNATURE, BAD_SIGNATURE = "VALIDSIG", "BADSIG"  # status lines of gpgv (doc/DETAILS of GnuPG)


class SignedLists:
    """The lists of one suite, which gpgv has checked, and the files that they name.

    :param mirror: address without a slash at its end.
    :param folder: folder of all lists of that mirror.
    """

    def __init__(self, mirror: str, suite: str, folder: Path, progress: Progress) -> None:
        self._mirror = mirror
        self._suite = suite
        self._root = folder / suite
        self._progress = progress

    def names(self, prefix: str) -> tuple[str, ...]:
        """Names of the binary packages that begin with ``prefix``, sorted."""
        start = re.escape(prefix).encode()
        found = re.findall(rb"^Package: (" + start + rb"\S*)$", self._list("deb"), re.MULTILINE)
        return tuple(sorted({name.decode() for name in found}))

    def records(self, kind: str, name: str) -> list[dict[str, str]]:
        """All versions of a package; none where the suite has no such package.

        :param kind: ``deb`` or ``deb-src``.
        :raises DownloadFailed: the lists could not be fetched, or their signature is wrong.
        """
        data, line = self._list(kind), f"Package: {name}\n".encode()
        found: list[dict[str, str]] = []
        at = data.find(line)
        while at >= 0:
            if at == 0 or data[at - 1 : at] == b"\n":
                end = data.find(b"\n\n", at)
                found += stanzas(data[at : end if end >= 0 else None].decode(errors="replace"))
            at = data.find(line, at + 1)
        return found

    def fetch(self, remotes: Sequence[Remote], folder: Path, purpose: str) -> None:
        """Download files of the archive into a folder, and check their sha256."""
        for remote in remotes:
            self._download(remote, folder / remote.name, purpose)

    def forget(self, kind: str) -> None:
        """Fetch the lists again for the next look-up."""
        (self._root / f"{kind}.list").unlink(missing_ok=True)

    def _list(self, kind: str) -> bytes:
        """The text of a list, fetched unless it is recent."""
        path = self._root / f"{kind}.list"
        with locked(self._root / "lock", waiting=self._progress.raise_if_stopped):
            if not path.exists() or path.stat().st_mtime < time.time() - LISTS_FRESH:
                purpose = f"fetch Debian {self._suite}'s list of {'packages' if kind == 'deb' else 'sources'}"
                with self._progress.step(purpose):
                    self._update(kind, path, purpose)
        return path.read_bytes()

    def _update(self, kind: str, path: Path, purpose: str) -> None:
        name = LISTS[kind]
        top = f"dists/{self._suite}"
        signed = self._root / "InRelease"
        self._download(Remote(f"{top}/InRelease", 0, ""), signed, purpose)
        release = verified(signed, purpose)
        if refuses_old_lists():
            check_age(release, purpose)
        size, digest = list_entry(release, name, purpose)
        if "\nAcquire-By-Hash: yes\n" in release:  # those of this release also while a mirror gets the next one
            name = f"{name.rpartition('/')[0]}/by-hash/SHA256/{digest}"
        packed = self._root / f"{kind}.xz"
        self._download(Remote(f"{top}/{name}", size, digest), packed, purpose)
        temporary = path.with_suffix(".new")
        with store.disk_full_as_error(purpose):
            with lzma.open(packed) as source, temporary.open("wb") as target:
                shutil.copyfileobj(source, target, CHUNK)
            temporary.rename(path)
            packed.unlink()

    def _download(self, remote: Remote, path: Path, purpose: str) -> None:
        """Download a file.

        :param remote: without a sha256 for a file that is checked later.
        :raises DownloadFailed: it could not be fetched, or has another sha256.
        :raises DeadlineExceeded: it took too long.
        """
        if has_apt():
            self._download_by_apt(remote, path, purpose)
            return
        import http.client  # noqa: PLC0415 - takes 0.1 s, also in labs, which download nothing
        import urllib.request  # noqa: PLC0415

        address, total = f"{self._mirror}/{remote.path}", hashlib.sha256()
        deadline = Deadline(DOWNLOAD_SECONDS, f"the download of {address}")
        temporary = path.with_name(f".{path.name}.new")
        try:
            with (
                store.disk_full_as_error(purpose),
                urllib.request.urlopen(address, timeout=TIMEOUT_S) as answer,  # noqa: S310 - the mirror is the user's
                temporary.open("wb") as target,
            ):
                while data := answer.read1(CHUNK):  # what has arrived
                    self._progress.raise_if_stopped()
                    if deadline.expired:
                        raise deadline.exceeded(f"{target.tell()} bytes", NETWORK_ADVICE)
                    total.update(data)
                    target.write(data)
            if remote.sha256 and total.hexdigest() != remote.sha256:
                raise DownloadFailed(purpose, f"{address} differs from the sha256 in Debian's lists", NETWORK_ADVICE)
            temporary.rename(path)
        except (OSError, http.client.HTTPException, ValueError) as error:  # URLError and SSLError are OSErrors
            raise DownloadFailed(purpose, f"{address}: {error}", NETWORK_ADVICE) from error
        finally:
            temporary.unlink(missing_ok=True)

    def _download_by_apt(self, remote: Remote, path: Path, purpose: str) -> None:
        path.unlink(missing_ok=True)  # apt would complete an older one
        command = [*APT_HELPER, f"{self._mirror}/{remote.path}", str(path)]
        if remote.sha256:
            command.append(f"SHA256:{remote.sha256}")
        try:
            with store.disk_full_as_error(purpose):
                environment = {**os.environ, "LC_ALL": "C.UTF-8"}
                run(command, purpose=purpose, seconds=DOWNLOAD_SECONDS, env=environment)
        except ProcessFailed as error:
            raise DownloadFailed(purpose, apt_messages(error), NETWORK_ADVICE, details=error.details) from error


def verified(signed: Path, purpose: str) -> str:
    """The text of an InRelease file that Debian has signed.

    :raises DownloadFailed: it is not signed by one of Debian's keys.
    :raises EnvironmentFailure: there is no gpgv.
    :raises DeadlineExceeded: gpgv did not end.
    """
    program = find_program("gpgv")
    if program is None:
        raise EnvironmentFailure(purpose, "no gpgv, which checks Debian's signatures", "install gnupg (Fedora: gnupg2)")
    keys, text = signed.with_name("keys.gpg"), signed.with_name("Release")
    keys.write_bytes(b"".join(binary_key(path) for path in sorted(keys_folder().glob("*.asc"))))
    text.unlink(missing_ok=True)
    command = [program, "--homedir", str(signed.parent), "--keyring", str(keys), "--status-fd", "1"]
    command += ["--output", str(text), str(signed)]
    # Its exit status is not 0 when one of several signatures is by a key that is not here.
    deadline = Deadline(VERIFY_S, f"{program} to check Debian's signature")
    try:
        status = subprocess.run(command, capture_output=True, text=True, check=False, timeout=deadline.remaining).stdout
    except subprocess.TimeoutExpired as error:
        raise deadline.exceeded(details=f"command: {shlex.join(command)}") from error
    words = {words[1] for line in status.splitlines() if len(words := line.split()) > 1 and words[0] == "[GNUPG:]"}
    if VALID_SIGNATURE not in words or BAD_SIGNATURE in words or not text.exists():
        happened = "InRelease is not signed by a key of images/debian"
        raise DownloadFailed(purpose, happened, "set CPRLIB_DEBIAN_MIRROR to another mirror", details=status)
    return text.read_text(encoding="utf-8", errors="replace")


def keys_folder() -> Path:
    """Folder of Debian's public keys, ASCII-armoured."""
    return project_folder() / "images" / "debian"


def binary_key(path: Path) -> bytes:
    """A key as gpgv reads it, from its armour (RFC 9580, section 6.2)."""
    body = path.read_text(encoding="ascii").partition("\n\n")[2].partition("-----END")[0]
    return base64.b64decode("".join(line for line in body.splitlines() if not line.startswith("=")))


def refuses_old_lists() -> bool:
    """Whether lists must still be valid: not those of a mirror that the user has chosen, or if apt accepts old ones.

    A snapshot of Debian has old lists for good.
    """
    if os.environ.get(MIRROR_VARIABLE):
        return False
    command = ["apt-config", "shell", "checks", "Acquire::Check-Valid-Until/b"]  # prints nothing when it is not set
    return not has_apt() or "false" not in run(command, purpose="read apt's settings")


def check_age(release: str, purpose: str) -> None:
    """Refuse lists that are no longer valid.

    :raises DownloadFailed: their date has passed.
    """
    fields = dict(line.split(": ", 1) for line in release.splitlines() if ": " in line)
    until = fields.get("Valid-Until", "")
    if until and email.utils.parsedate_to_datetime(until).timestamp() < time.time():
        raise DownloadFailed(purpose, f"the lists were valid until {until}", "check the clock, or use another mirror")


def list_entry(release: str, name: str, purpose: str) -> tuple[int, str]:
    """Size and sha256 of a list.

    :raises DownloadFailed: the release has no such list.
    """
    section = release.partition("\nSHA256:")[2].partition("\n")[2]
    for line in section.splitlines():
        if not line.startswith(" "):
            break
        digest, size, listed = line.split()
        if listed == name:
            return int(size), digest
    raise DownloadFailed(purpose, f"InRelease has no sha256 of {name}")
