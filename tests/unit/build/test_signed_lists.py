"""Package lists: only what Debian has signed is used. A key, an archive and a server made here stand in."""

from __future__ import annotations

import errno
import functools
import hashlib
import http.server
import lzma
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cprlib.build import signed_lists
from cprlib.build.control import Remote
from cprlib.build.debian import Archive
from cprlib.build.progress import Progress
from cprlib.build.signed_lists import APT_HELPER, MIRROR_VARIABLE, SignedLists, binary_key, keys_folder, verified
from cprlib.deadline import SCALE_VARIABLE
from cprlib.errors import DeadlineExceeded, DownloadFailed, EnvironmentFailure, NotSupported

CONTENT = b"a package"
PACKAGES = f"""\
Package: tool-extra
Version: 1.0-1
Filename: pool/tool-extra_1.0-1_all.deb
Size: 9
SHA256: 00

Package: tool
Version: 1.0-1
Filename: pool/tool_1.0-1_all.deb
Size: 9
SHA256: 00

Package: tool
Version: 1.1-1
Depends: libc6
Filename: pool/tool_1.1-1_all.deb
Size: {len(CONTENT)}
SHA256: {hashlib.sha256(CONTENT).hexdigest()}
"""


@dataclass(frozen=True, slots=True)
class Mirror:
    """A signed archive, served by HTTP."""

    top: Path
    gnupg: Path

    def write(self, packages: str = PACKAGES, more: str = "") -> None:
        """Sign lists and write them."""
        lists = self.top / "dists/trixie/main/binary-amd64"
        lists.mkdir(parents=True, exist_ok=True)
        packed = lzma.compress(packages.encode())
        (lists / "Packages.xz").write_bytes(packed)
        digest = hashlib.sha256(packed).hexdigest()
        release = f"Suite: stable\n{more}MD5Sum:\n 00 1 main/binary-amd64/Packages.xz\n"
        release += f"SHA256:\n {digest} {len(packed)} main/binary-amd64/Packages.xz\nSHA512:\n 00 1 x\n"
        (self.top / "Release").write_text(release)
        out = self.top / "dists/trixie/InRelease"
        gpg(self.gnupg, "--yes", "--clearsign", "--output", str(out), str(self.top / "Release"))
        (self.top / "pool").mkdir(exist_ok=True)
        (self.top / "pool/tool_1.1-1_all.deb").write_bytes(CONTENT)


def gpg(home: Path, *arguments: str) -> str:
    command = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=True).stdout


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    if not shutil.which("gpg") or not shutil.which("gpgv"):
        pytest.skip("no gpg and gpgv: install gnupg")
    gnupg, keys, top = (tmp_path / name for name in ("gnupg", "keys", "mirror"))
    for folder in (gnupg, keys, top):
        folder.mkdir(mode=0o700)
    gpg(gnupg, "--quick-generate-key", "Test <test@example.org>", "ed25519", "sign", "never")
    (keys / "test.asc").write_text(gpg(gnupg, "--armor", "--export"))
    monkeypatch.setattr(signed_lists, "keys_folder", lambda: keys)
    monkeypatch.setattr(signed_lists, "has_apt", lambda: False)
    made = Mirror(top, gnupg)
    made.write()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(top)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv(MIRROR_VARIABLE, f"http://127.0.0.1:{server.server_port}")
    yield made
    server.shutdown()
    server.server_close()
    subprocess.run(["gpgconf", "--homedir", str(gnupg), "--kill", "all"], check=False)


@pytest.fixture(params=[False, True], ids=["https", "apt"])
def downloader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, mirror: Mirror) -> None:
    """Download without apt, and with it."""
    del mirror
    if request.param and not Path(APT_HELPER[0]).exists():
        pytest.skip("no apt")
    monkeypatch.setattr(signed_lists, "has_apt", lambda: request.param)


@pytest.mark.usefixtures("downloader")
def test_package_is_looked_up_and_fetched() -> None:
    archive = Archive("trixie")
    assert archive.package("tool").version == "1.1-1"
    assert archive.package("tool").depends == ("libc6",)
    assert archive.download("tool").read_bytes() == CONTENT
    assert archive.names("tool") == ("tool", "tool-extra")
    with pytest.raises(NotSupported):
        archive.package("too")


def test_list_that_was_changed_is_refused(mirror: Mirror) -> None:
    changed = lzma.compress(PACKAGES.replace("1.1-1", "9.9-1").encode())
    (mirror.top / "dists/trixie/main/binary-amd64/Packages.xz").write_bytes(changed)
    with pytest.raises(DownloadFailed, match="differs from the sha256"):
        Archive("trixie").package("tool")


def test_release_that_was_changed_is_refused(mirror: Mirror) -> None:
    path = mirror.top / "dists/trixie/InRelease"
    path.write_text(path.read_text().replace("Suite: stable", "Suite: other!"))
    with pytest.raises(DownloadFailed, match="not signed by a key of images/debian"):
        Archive("trixie").package("tool")


def test_release_that_is_not_signed_is_refused(mirror: Mirror) -> None:
    (mirror.top / "dists/trixie/InRelease").write_text((mirror.top / "Release").read_text())
    with pytest.raises(DownloadFailed, match="not signed"):
        Archive("trixie").package("tool")


def test_text_outside_of_the_signature_is_not_used(mirror: Mirror) -> None:
    path = mirror.top / "dists/trixie/InRelease"
    path.write_text(f"SHA256:\n 00 1 main/binary-amd64/Packages.xz\n\n{path.read_text()}")
    assert Archive("trixie").package("tool").version == "1.1-1"


def test_release_by_another_key_is_refused(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    del mirror
    monkeypatch.setattr(signed_lists, "keys_folder", keys_folder)  # Debian's, which did not sign this
    with pytest.raises(DownloadFailed, match="not signed"):
        Archive("trixie").package("tool")


def test_lists_are_fetched_by_their_hash(mirror: Mirror) -> None:
    mirror.write(more="Acquire-By-Hash: yes\n")
    packed = mirror.top / "dists/trixie/main/binary-amd64/Packages.xz"
    named = packed.parent / "by-hash/SHA256" / hashlib.sha256(packed.read_bytes()).hexdigest()
    named.parent.mkdir(parents=True)
    packed.rename(named)
    packed.write_bytes(b"of the next release")
    assert Archive("trixie").package("tool").version == "1.1-1"


def test_host_whose_apt_accepts_old_lists_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(MIRROR_VARIABLE, raising=False)
    monkeypatch.setattr(signed_lists, "has_apt", lambda: True)
    for shown, refused in (("checks='false'\n", False), ("checks='true'\n", True), ("", True)):
        monkeypatch.setattr(signed_lists, "run", lambda *_, shown=shown, **__: shown)
        assert signed_lists.refuses_old_lists() is refused


def test_old_lists_are_those_of_a_mirror_that_the_user_has_chosen(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror.write(more="Valid-Until: Sat, 01 Jan 2022 00:00:00 UTC\n")
    archive = Archive("trixie")
    assert archive.package("tool").version == "1.1-1"
    archive.forget()
    monkeypatch.delenv(MIRROR_VARIABLE)
    with pytest.raises(DownloadFailed, match="valid until Sat, 01 Jan 2022"):
        archive.names("tool")


@pytest.mark.usefixtures("downloader")
def test_file_that_differs_from_the_list_is_refused(mirror: Mirror) -> None:
    (mirror.top / "pool/tool_1.1-1_all.deb").write_bytes(b"another!!")
    with pytest.raises(DownloadFailed, match=r"differs from the sha256|Hash Sum mismatch"):
        Archive("trixie").download("tool")


@pytest.mark.usefixtures("downloader")
def test_missing_file_is_a_failed_download(mirror: Mirror) -> None:
    (mirror.top / "pool/tool_1.1-1_all.deb").unlink()
    with pytest.raises(DownloadFailed, match="404"):
        Archive("trixie").download("tool")


class Interrupted:
    """An answer whose connection breaks, or that never ends."""

    def __init__(self, error: Exception | None) -> None:
        self._error = error

    def __enter__(self) -> Interrupted:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read(self, _length: int) -> bytes:
        if self._error:
            raise self._error
        return b"x"

    read1 = read


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (OSError(errno.EHOSTUNREACH, "No route to host"), DownloadFailed),
        (ssl.SSLError(1, "[SSL: DECRYPTION_FAILED_OR_BAD_RECORD_MAC]"), DownloadFailed),
        (None, DeadlineExceeded),
    ],
)
def test_download_that_breaks_leaves_nothing(
    error: Exception | None, raised: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signed_lists, "has_apt", lambda: False)
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: Interrupted(error))
    monkeypatch.setenv(SCALE_VARIABLE, "0.0005")
    lists = SignedLists("https://mirror", "trixie", tmp_path, Progress())
    with pytest.raises(raised, match=r"https://mirror/pool/tool\.deb"):
        lists.fetch([Remote("pool/tool.deb", 1, "00")], tmp_path, "download tool")
    assert list(tmp_path.iterdir()) == []


def test_missing_gpgv_is_named(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    del mirror
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(EnvironmentFailure, match=r"no gpgv.*install gnupg"):
        Archive("trixie").package("tool")


def test_keys_of_debian_are_keys() -> None:
    keys = [binary_key(path) for path in sorted(keys_folder().glob("*.asc"))]
    assert len(keys) == 2
    assert all(key[0] & 0xC0 == 0xC0 or key[0] & 0x80 for key in keys)  # an OpenPGP packet (RFC 9580, section 4.2)


def test_verifier_that_hangs_is_an_error_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gpgv").write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    (tmp_path / "gpgv").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv(SCALE_VARIABLE, "0.001")
    with pytest.raises(DeadlineExceeded, match="gpgv to check Debian's signature"):
        verified(tmp_path / "InRelease", "fetch lists")
