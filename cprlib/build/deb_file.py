"""Unpack Debian's binary packages (deb(5)) without dpkg: an ar archive with a tar archive in it."""

from __future__ import annotations

import io
import lzma
import shlex
import sys
import tarfile
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO

from cprlib.errors import BuildFailed

AR_MAGIC = b"!<arch>\n"
HEADER = 60  # bytes of a member's header


def unpack_deb(deb: Path, folder: Path, members: Sequence[str] = ()) -> None:
    """Unpack a package into a folder; runs no scripts. Owners are not kept.

    :param members: patterns (``fnmatch``) of names as the package has them, ``./boot/*``; everything without patterns.
    :raises BuildFailed: the file is not a package, is cut off, or has nothing that matches a pattern.
    :raises OSError: the folder cannot be written.
    """
    tried = f"unpack {deb.name}"
    folder.mkdir(parents=True, exist_ok=True)
    missing = set(members)
    try:
        with deb.open("rb") as stream, _opened(stream) as data, tarfile.open(fileobj=data, mode="r|") as archive:
            for item in archive:
                name = f"./{item.name.removeprefix('./')}"
                matching = {pattern for pattern in members if fnmatchcase(name, pattern)}
                missing -= matching
                if matching or not members:
                    _extract(archive, item, folder)
    except (OSError, EOFError, ValueError, tarfile.TarError, lzma.LZMAError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        advice = f"run: rm {shlex.quote(str(deb))}; then repeat"
        raise BuildFailed(tried, f"it is no Debian package: {error}", advice) from error
    if missing:
        raise BuildFailed(tried, f"it has no {', '.join(sorted(missing))}")


def unpack_zstd(packed: bytes) -> bytes:
    """Unpack data that is compressed with zstd.

    :raises ValueError: it is not, or is cut off.
    """
    if sys.version_info >= (3, 14):  # imported here because the first builds begin without it
        from compression import zstd  # noqa: PLC0415
    else:
        from backports import zstd  # noqa: PLC0415
    try:
        return zstd.decompress(packed)
    except zstd.ZstdError as error:
        raise ValueError(str(error)) from error


def _extract(archive: tarfile.TarFile, item: tarfile.TarInfo, folder: Path) -> None:
    """Extract one member below the folder, for this user."""
    item.uid = item.gid = 0
    item.uname = item.gname = ""
    if not (folder / item.name).resolve().is_relative_to(folder.resolve()) or item.isdev():
        raise ValueError(f"{item.name} is outside of the package, or a device")
    item.mode |= 0o700 if item.isdir() else 0
    if hasattr(tarfile, "tar_filter"):  # Python 3.11.4 and newer warn without a filter
        archive.extract(item, folder, filter="tar")
    else:
        archive.extract(item, folder)


def _opened(stream: IO[bytes]) -> IO[bytes]:
    """The unpacked tar archive with the package's files.

    :raises ValueError: the file has another format, or is cut off.
    """
    for name, size in _ar_members(stream):
        if name.startswith("data.tar"):
            content = stream.read(size)
            if len(content) < size:
                raise ValueError("it is cut off")
            return _decompressed(name, content)
        stream.seek(size + size % 2, io.SEEK_CUR)
    raise ValueError("it has no data.tar")


def _ar_members(stream: IO[bytes]) -> Iterator[tuple[str, int]]:
    """Name and size of each member; the stream stands at its content then."""
    if stream.read(len(AR_MAGIC)) != AR_MAGIC:
        raise ValueError("it is no ar archive")
    while len(header := stream.read(HEADER)) == HEADER:
        yield header[:16].decode("ascii", "replace").strip().rstrip("/"), int(header[48:58])


def _decompressed(name: str, content: bytes) -> IO[bytes]:
    match name.rpartition(".")[2]:
        case "xz":
            return lzma.LZMAFile(io.BytesIO(content))
        case "zst":
            return io.BytesIO(unpack_zstd(content))
        case "tar":
            return io.BytesIO(content)
        case other:
            raise ValueError(f"data.tar.{other} is compressed in an unknown way")
