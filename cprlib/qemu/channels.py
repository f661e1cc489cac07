"""Migration channels of one update: abstract unix sockets, which have no file to clean up."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from pathlib import Path

LISTENING = 0x10000  # __SO_ACCEPTCON, the flags column of /proc/net/unix


@dataclass(frozen=True, slots=True)
class MigrationChannels:
    """Names of the two channels, in the network namespace of the QEMUs.

    :param deferred: the target's main channel is set later by QMP's migrate-incoming.
    """

    cpr: str
    main: str
    deferred: bool = False

    @classmethod
    def fresh(cls) -> MigrationChannels:
        """Unique names."""
        token = secrets.token_hex(8)
        return cls(f"cprlib-{token}-cpr", f"cprlib-{token}-main")

    def descriptions(self) -> list[dict[str, object]]:
        """The value of ``channels`` for ``migrate`` (QAPI MigrationChannel)."""
        return [self._describe("main", self.main), self._describe("cpr", self.cpr)]

    def incoming_arguments(self, *, deferred: bool = False) -> list[str]:
        """The two ``-incoming`` of a target's command line.

        :param deferred: as in the class; either may be true.
        """
        if deferred or self.deferred:
            return ["-incoming", json.dumps(self._describe("cpr", self.cpr)), "-incoming", "defer"]
        return [
            argument
            for description in reversed(self.descriptions())
            for argument in ("-incoming", json.dumps(description))
        ]

    @staticmethod
    def _describe(kind: str, name: str) -> dict[str, object]:
        address = {"transport": "socket", "type": "unix", "path": name, "abstract": True}
        return {"channel-type": kind, "addr": address}


def is_listening(pid: int, name: str) -> bool:
    """True when a process in the network namespace of ``pid`` listens on an abstract unix socket.

    A socket that exists is not enough: between bind(2) and listen(2) it refuses connections.
    """
    try:
        lines = Path(f"/proc/{pid}/net/unix").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    for line in lines[1:]:
        fields = line.split()  # Num RefCount Protocol Flags Type St Inode Path (net/unix/af_unix.c)
        if len(fields) >= 8 and fields[7].rstrip("@") == f"@{name}":
            return bool(int(fields[3], 16) & LISTENING)
    return False
