"""Debian packages are unpacked without dpkg, whichever way they are compressed; damaged ones are refused."""

from __future__ import annotations

import io
import lzma
import sys
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

from cprlib.build.deb_file import unpack_deb, unpack_zstd
from cprlib.errors import BuildFailed

COMPRESS: Mapping[str, Callable[[bytes], bytes]] = {"xz": lzma.compress, "zst": zstd.compress, "tar": bytes}


FILES = (("./usr/bin/tool", b"#!/bin/sh\n", 0o755), ("./usr/share/doc/tool", b"text", 0o644))


def member(name: str, content: bytes) -> bytes:
    head = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n"
    return head.encode() + content + b"\n" * (len(content) % 2)


def package(path: Path, compression: str = "xz", *, outside: bool = False) -> Path:
    """A package with a program, a link to it and a document."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, content, mode in FILES:
            item = tarfile.TarInfo(f"../{name}" if outside else name)
            item.size, item.mode, item.uid = len(content), mode, 12345
            archive.addfile(item, io.BytesIO(content))
        link = tarfile.TarInfo("./usr/bin/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/usr/bin/tool"
        archive.addfile(link)
    name = "data.tar" if compression == "tar" else f"data.tar.{compression}"
    body = COMPRESS.get(compression, bytes)(data.getvalue())
    members = {"debian-binary": b"2.0\n", "control.tar": b"x", name: body}
    path.write_bytes(b"!<arch>\n" + b"".join(member(*item) for item in members.items()))
    return path


@pytest.mark.parametrize("compression", ["xz", "zst", "tar"])
def test_files_links_and_modes_are_unpacked(tmp_path: Path, compression: str) -> None:
    unpack_deb(package(tmp_path / "p.deb", compression), tmp_path / "out")
    assert (tmp_path / "out/usr/bin/tool").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "out/usr/share/doc/tool").read_text() == "text"
    assert (tmp_path / "out/usr/bin/link").readlink() == Path("/usr/bin/tool")


def test_only_matching_members_are_unpacked(tmp_path: Path) -> None:
    unpack_deb(package(tmp_path / "p.deb"), tmp_path / "out", ["./usr/bin/*ool"])
    assert [path.name for path in (tmp_path / "out").rglob("*") if not path.is_dir()] == ["tool"]
    with pytest.raises(BuildFailed, match=r"it has no \./boot/\*"):
        unpack_deb(package(tmp_path / "p.deb"), tmp_path / "out", ["./boot/*"])


def test_file_outside_of_the_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match="outside of the package"):
        unpack_deb(package(tmp_path / "p.deb", outside=True), tmp_path / "out")
    assert not (tmp_path / "usr").exists()


def test_damaged_package_is_refused(tmp_path: Path) -> None:
    whole = package(tmp_path / "p.deb").read_bytes()
    for content in (b"", b"text", whole[:100], whole[:-60], package(tmp_path / "q.deb", "lz9").read_bytes()):
        (tmp_path / "p.deb").write_bytes(content)
        with pytest.raises(BuildFailed, match=r"no Debian package: .*; run: rm /.*/p\.deb; then repeat"):
            unpack_deb(tmp_path / "p.deb", tmp_path / "out")


def test_zstd_is_unpacked() -> None:
    assert unpack_zstd(zstd.compress(b"content")) == b"content"
    with pytest.raises(ValueError, match=r"."):
        unpack_zstd(zstd.compress(b"content" * 100)[:-4])
    with pytest.raises(ValueError, match=r"."):
        unpack_zstd(b"\x28\xb5\x2f\xfd broken")
