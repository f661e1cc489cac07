"""The heap of a QEMU, to the byte, as glibc's libmemusage.so counts it (memusage(1))."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from cprlib.deadline import Deadline
from cprlib.errors import Awaited, NotSupported, SkipWord
from cprlib.lab.host_files import MEMUSAGE
from cprlib.qemu.machine import Machine

ENTRY = struct.Struct("=QQII")  # struct entry, glibc malloc/memusage.c: bytes of heap and stack, a time
HEAD = 2 * ENTRY.size
BUFFER = 256  # entries that the library writes at once
RECORD_S = 20.0


@dataclass(frozen=True, slots=True)
class HeapRecord:
    """What the library writes while a program runs: an entry for each call of malloc(3) and the like.

    The program has to be killed: when it ends by itself, the library may free what it did not allocate.

    :param program: name of the program. What it starts is not recorded.
    """

    path: Path
    program: str

    @property
    def prefix(self) -> tuple[str, ...]:
        """Words before the program's command line."""
        # Not its timer, which interrupts system calls by SIGPROF: VHOST_SET_OWNER was seen to fail with ENOMEM.
        variables = {"OUTPUT": self.path, "PROG_NAME": self.program, "BUFFER_SIZE": BUFFER, "NO_TIMER": 1}
        return ("env", f"LD_PRELOAD={MEMUSAGE}", *(f"MEMUSAGE_{name}={value}" for name, value in variables.items()))

    def bytes_at_rest(self, machine: Machine) -> int:
        """Bytes that a QEMU that serves QMP has allocated and not freed.

        Its monitor allocates and frees for each command: the least after some of them counts.

        :raises NotSupported: the library records nothing.
        """
        before = self.path.stat().st_size if self.path.exists() else 0
        if before < HEAD:
            lines = [line for line in machine.output.splitlines() if MEMUSAGE in line]
            happened = lines[0] if lines else f"{MEMUSAGE} has recorded nothing of a program {self.program}"
            advice = f"install {MEMUSAGE} (Debian: libc6, Fedora: glibc-utils); it cannot be used with a wrapper"
            raise NotSupported("count what QEMU allocates", happened, advice, word=SkipWord.NO_MEMUSAGE)

        def recorded() -> bool:
            machine.status()
            return self.path.stat().st_size >= before + 2 * BUFFER * ENTRY.size

        Deadline(RECORD_S, f"what the {machine.name} allocates", Awaited.HARNESS).poll(recorded, 0)
        last = self.path.read_bytes()[HEAD:][-BUFFER * ENTRY.size :]
        heaps: list[int] = [heap for heap, *_ in ENTRY.iter_unpack(last)]
        return min(heaps)
