"""Descriptors of a process, the pairs of two processes that are one open file, and descriptor exhaustion.

Only kcmp(2) proves that two descriptors are one open file: every open of /dev/net/tun or /dev/vhost-net has the inode
of the device node, and ``iff`` only proves the interface.
"""

from __future__ import annotations

import itertools
import os
import re
import resource
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cprlib.errors import InstrumentError
from cprlib.linux.libc import same_open_file

ANONYMOUS = re.compile(r"^anon_inode:\[?(?P<kind>[^\]]+)\]?$")
MACVTAP_FOLDER = "macvtap-"  # begin of the name of the folder in /dev where open_tap() makes a node
MACVTAP = re.compile(rf"^/dev/(?:{MACVTAP_FOLDER}[^/]+/)?tap\d+(?: \(deleted\))?$")
OWN_MEMORY = re.compile(r"^/memfd:(?:displaysurface|vhost-log|tcg-jit|QEMU_CPR_EXEC_STATE)\b")
"""Memory that QEMU makes for itself: ui/console.c, hw/virtio/vhost.c, tcg/region.c, migration/cpr-exec.c."""
DEVICE_KINDS = ("tap", "vhost")


@dataclass(frozen=True, slots=True)
class Descriptor:
    """One row of a descriptor table.

    :param number: the descriptor's number in its process.
    :param link: target of /proc/PID/fd/N, e.g. ``/dev/net/tun`` or ``anon_inode:[eventfd]``.
    :param device, inode: the opened file's; every open of /dev/net/tun has those of the device node.
    :param flags: open file status flags (fdinfo ``flags``, octal there).
    :param interface: name of the interface behind a tap (fdinfo ``iff``, drivers/net/tun.c), else None, also for a
        macvtap.
    """

    number: int
    link: str
    device: int
    inode: int
    flags: int
    interface: str | None = None

    @property
    def kind(self) -> str:
        """``tap``, ``vhost``, ``kvm``, ``memfd``, ``socket``, ``pipe``, the anonymous inode's kind, or ``file``."""
        exact = {"/dev/net/tun": "tap", "/dev/vhost-net": "vhost", "/dev/kvm": "kvm"}.get(self.link)
        if exact:
            return exact
        if MACVTAP.match(self.link):
            return "tap"
        anonymous = ANONYMOUS.match(self.link)
        if anonymous:
            return anonymous["kind"]
        for prefix in ("socket:", "pipe:"):
            if self.link.startswith(prefix):
                return prefix[:-1]
        return "memfd" if self.link.startswith("/memfd:") else "file"

    @property
    def nonblocking(self) -> bool:
        return bool(self.flags & os.O_NONBLOCK)


@dataclass(frozen=True, slots=True)
class DescriptorTable:
    """All descriptors of one process at one moment."""

    pid: int
    rows: tuple[Descriptor, ...]

    def of_kind(self, kind: str) -> tuple[Descriptor, ...]:
        """The rows of one kind, in order of their numbers."""
        return tuple(row for row in self.rows if row.kind == kind)

    @property
    def guest_memory(self) -> tuple[Descriptor, ...]:
        """Memory of the guest, of firmware and of ROMs: each memfd that is not QEMU's own."""
        return tuple(row for row in self.of_kind("memfd") if not OWN_MEMORY.match(row.link))

    @property
    def device_counts(self) -> dict[str, int]:
        """Number of tap and vhost descriptors."""
        return {kind: self.count(kind) for kind in DEVICE_KINDS}

    def count(self, *kinds: str) -> int:
        """Number of the descriptors of these kinds."""
        return sum(row.kind in kinds for row in self.rows)

    def count_by_kind(self) -> dict[str, int]:
        return dict(sorted(Counter(row.kind for row in self.rows).items()))


@dataclass(frozen=True, slots=True)
class Pairing:
    """A descriptor of the source and the target's descriptor for the same open file.

    Exactly one side is None for a descriptor without a partner.
    """

    source: Descriptor | None
    target: Descriptor | None

    @property
    def paired(self) -> bool:
        """True when the same open file is in both processes."""
        return self.source is not None and self.target is not None

    @property
    def kind(self) -> str:
        """Kind of the descriptor, from the side that has it."""
        row = self.source or self.target
        return row.kind if row else "none"


def changed_counts(before: Mapping[str, int], after: Mapping[str, int]) -> list[str]:
    """Kinds of which a table has more or fewer descriptors than before: ``3, then 4 eventfd``."""
    changed = {kind for kind in {*before, *after} if before.get(kind, 0) != after.get(kind, 0)}
    return [f"{before.get(kind, 0)}, then {after.get(kind, 0)} {kind}" for kind in sorted(changed)]


def read_table(pid: int) -> DescriptorTable:
    """Read the descriptor table of a process; descriptors that are closed meanwhile are left out.

    :raises InstrumentError: the process is gone, or the caller may not trace it.
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
        interface=interface or None,
    )


def pair_tables(
    source: DescriptorTable, target: DescriptorTable, kinds: tuple[str, ...] = DEVICE_KINDS
) -> tuple[Pairing, ...]:
    """Pair the descriptors of the given kinds by open file; both processes must still be alive.

    Order: the source's numbers, then the target's descriptors without a partner.

    :raises InstrumentError: the kernel refused to compare.
    """
    pairings = []
    partners: set[int] = set()
    for kind in kinds:
        candidates = target.of_kind(kind)
        for row in source.of_kind(kind):
            ordered = sorted(candidates, key=lambda other: other.number in partners)  # duplicates one by one
            match = next(
                (other for other in ordered if same_open_file(source.pid, row.number, target.pid, other.number)), None
            )
            if match:
                partners.add(match.number)
            pairings.append(Pairing(row, match))
        pairings.extend(Pairing(None, other) for other in candidates if other.number not in partners)
    return tuple(pairings)


def exhaust_descriptors(pid: int, left: int = 0, earlier: DescriptorTable | None = None) -> None:
    """Lower a process's RLIMIT_NOFILE so that it can open nothing more (EMFILE).

    The soft limit becomes the lowest free number. A lower one would also break poll(2), which refuses more entries
    than the limit.

    :param left: descriptors that the process may still open.
    :param earlier: an earlier table of the process. The limit is above all descriptors opened since then, which procfs
        names by their inodes, so the process can close and reopen them. Lower numbers that are free can be used, too.
    :raises InstrumentError: the process is gone, or the caller may not trace it.
    """
    rows = read_table(pid).rows
    used = {row.number for row in rows}
    limit = next(itertools.islice((number for number in itertools.count() if number not in used), left, None))
    if earlier is not None:
        known = {row.link for row in earlier.rows}
        since = (row.number for row in rows if row.link not in known)
        limit = max(limit, max(since, default=-1) + 1)
    try:
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, hard))
    except OSError as error:
        raise InstrumentError(f"limit the descriptors of process {pid}", str(error)) from error
