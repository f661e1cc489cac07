"""Is a descriptor of one process the same open file as a descriptor of another?

Only kcmp(2) with KCMP_FILE tells: equal inodes prove nothing for /dev/net/tun and /dev/vhost-net, whose every
open has the inode of the device node, and ``iff`` only proves the interface.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from dataclasses import dataclass

from cprlib.errors import InstrumentError
from cprlib.linux.descriptors import Descriptor, DescriptorTable

KCMP_FILE = 0  # linux/kcmp.h
KCMP_NUMBERS = {"x86_64": 312, "aarch64": 272, "riscv64": 272}  # asm/unistd.h
DEVICE_KINDS = ("tap", "vhost")


def same_file(pid: int, number: int, other_pid: int, other_number: int) -> bool:
    """Ask kcmp(2) whether two descriptors refer to the same open file description.

    Both processes have to be alive and the caller must be allowed to trace both.

    :raises InstrumentError: the kernel would not answer; this is never to be read as "different".
    """
    tried = f"compare descriptor {number} of process {pid} with {other_number} of {other_pid}"
    machine = platform.machine()
    if machine not in KCMP_NUMBERS:
        raise InstrumentError(tried, f"the number of kcmp(2) on {machine} is not known here")
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = (pid, other_pid, KCMP_FILE, number, other_number)
    result = libc.syscall(KCMP_NUMBERS[machine], *(ctypes.c_long(value) for value in arguments))
    if result < 0:
        code = ctypes.get_errno()
        advice = {
            errno.ENOSYS: "this kernel lacks CONFIG_KCMP: use the lab",
            errno.EPERM: "run as root or in the lab: kcmp needs the right to trace both processes",
        }.get(code, "")
        raise InstrumentError(tried, f"kcmp: {os.strerror(code)}", advice)
    return bool(result == 0)


@dataclass(frozen=True, slots=True)
class Pairing:
    """Which descriptor of the target is the same open file as one of the source.

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
        """Kind of the descriptor, from whichever side has it."""
        row = self.source or self.target
        return row.kind if row else "none"


def pair_tables(
    source: DescriptorTable, target: DescriptorTable, kinds: tuple[str, ...] = DEVICE_KINDS
) -> tuple[Pairing, ...]:
    """Pair the descriptors of the given kinds by identity; both processes must still be alive.

    Order: the source's numbers, then the target's descriptors that are nobody's partner.

    :raises InstrumentError: when the kernel would not compare.
    """
    pairings = []
    partners: set[int] = set()
    for kind in kinds:
        candidates = target.of_kind(kind)
        for row in source.of_kind(kind):
            match = next(
                (other for other in candidates if same_file(source.pid, row.number, target.pid, other.number)), None
            )
            if match:
                partners.add(match.number)
            pairings.append(Pairing(row, match))
        pairings.extend(Pairing(None, other) for other in candidates if other.number not in partners)
    return tuple(pairings)
