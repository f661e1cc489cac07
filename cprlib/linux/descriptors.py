"""The descriptors of a process as procfs shows them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from cprlib.errors import InstrumentError

ANONYMOUS = re.compile(r"^anon_inode:\[?(?P<kind>[^\]]+)\]?$")


@dataclass(frozen=True, slots=True)
class Descriptor:
    """One row of a descriptor table.

    :param number: the descriptor's number in its process.
    :param link: target of /proc/PID/fd/N, e.g. ``/dev/net/tun`` or ``anon_inode:[eventfd]``.
    :param device, inode: of the file that was opened; every open of /dev/net/tun has those of the device node.
    :param flags: open file status flags (fdinfo ``flags``, octal there).
    :param mount: fdinfo ``mnt_id``.
    :param interface: name of the interface behind a tap (fdinfo ``iff``, drivers/net/tun.c), else None.
    """

    number: int
    link: str
    device: int
    inode: int
    flags: int
    mount: int
    interface: str | None = None

    @property
    def kind(self) -> str:
        """``tap``, ``vhost``, ``kvm``, ``memfd``, ``socket``, ``pipe``, the anonymous inode's kind, or ``file``."""
        exact = {"/dev/net/tun": "tap", "/dev/vhost-net": "vhost", "/dev/kvm": "kvm"}.get(self.link)
        if exact:
            return exact
        anonymous = ANONYMOUS.match(self.link)
        if anonymous:
            return anonymous["kind"]
        for prefix in ("socket:", "pipe:"):
            if self.link.startswith(prefix):
                return prefix[:-1]
        return "memfd" if self.link.startswith("/memfd:") else "file"

    @property
    def nonblocking(self) -> bool:
        """Whether O_NONBLOCK is set on the open file."""
        return bool(self.flags & os.O_NONBLOCK)


@dataclass(frozen=True, slots=True)
class DescriptorTable:
    """All descriptors of one process at one moment."""

    pid: int
    rows: tuple[Descriptor, ...]

    def of_kind(self, kind: str) -> tuple[Descriptor, ...]:
        """The rows of one kind, in order of their numbers."""
        return tuple(row for row in self.rows if row.kind == kind)

    def count_by_kind(self) -> dict[str, int]:
        """How many descriptors there are of each kind, sorted by kind."""
        kinds = sorted(row.kind for row in self.rows)
        return {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}


def read_table(pid: int) -> DescriptorTable:
    """Read the descriptor table of a process; descriptors that vanish meanwhile are left out.

    :raises InstrumentError: the process is gone or may not be looked at.
    """
    folder = Path(f"/proc/{pid}/fd")
    try:
        numbers = sorted(int(name) for name in os.listdir(folder))
    except OSError as error:
        raise InstrumentError(f"read the descriptors of process {pid}", str(error)) from error
    rows = []
    for number in numbers:
        try:
            link = os.readlink(folder / str(number))
            status = os.stat(folder / str(number))
            information = Path(f"/proc/{pid}/fdinfo/{number}").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        rows.append(parse_descriptor(number, link, status.st_dev, status.st_ino, information))
    return DescriptorTable(pid, tuple(rows))


def parse_descriptor(number: int, link: str, device: int, inode: int, information: str) -> Descriptor:
    """Make a row from the link, the inode and the text of fdinfo (Documentation/filesystems/proc.rst)."""
    fields = dict(line.split(":", 1) for line in information.splitlines() if ":" in line)
    interface = fields.get("iff", "").strip()
    return Descriptor(
        number=number,
        link=link,
        device=device,
        inode=inode,
        flags=int(fields.get("flags", "0").strip(), 8),
        mount=int(fields.get("mnt_id", "-1").strip()),
        interface=interface or None,
    )
