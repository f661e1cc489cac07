"""Programs that QEMU runs for a tap: up and down scripts, and a bridge helper."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

HELPER = Path(__file__).with_name("bridge_helper.py")


@dataclass(frozen=True, slots=True)
class Programs:
    """Programs that QEMU runs for a tap; each adds a line to a file when it runs.

    :param folder: writable, and not mounted noexec.
    """

    folder: Path

    @classmethod
    def made_in(cls, folder: str | Path) -> Programs:
        """Programs in a new folder below a folder of the test's."""
        programs = Path(folder) / "programs"
        programs.mkdir(exist_ok=True)
        return cls(programs)

    @property
    def record(self) -> Path:
        """The file, with one line for each run: ``up tap3``, ``down tap3``, ``helper tap4``."""
        return self.folder / "programs-run.txt"

    def runs(self) -> tuple[str, ...]:
        """The runs so far."""
        return tuple(self.record.read_text(encoding="utf-8").splitlines()) if self.record.exists() else ()

    @property
    def inherited(self) -> Path:
        """A file with one line for each run of a script: as in the record, then the devices that QEMU has left open."""
        return self.folder / "devices-inherited.txt"

    def with_foreign_devices(self) -> list[str]:
        """Runs of scripts that had more open than the tap that they are for (launch_script(), net/tap.c)."""
        lines = self.inherited.read_text(encoding="utf-8").splitlines() if self.inherited.exists() else []
        return [line for line in lines if len(line.split()[2:]) > 1]  # after the word and the interface

    def script(self, word: str) -> str:
        """Path of an up or down script, which QEMU runs with the interface's name."""
        path = self.folder / f"{word}-script"
        record, inherited = shlex.quote(str(self.record)), shlex.quote(str(self.inherited))
        lines = (
            "#!/bin/sh",
            f'echo {word} "$1" >>{record}',
            f'echo {word} "$1" $(readlink /proc/$$/fd/* | grep -e /dev/net/tun -e /dev/vhost-net) >>{inherited}',
        )
        path.write_text("\n".join((*lines, "")), encoding="utf-8")
        path.chmod(0o755)
        return str(path)

    def forbid_script(self, word: str) -> None:
        """Take the right to execute a script away."""
        (self.folder / f"{word}-script").chmod(0o600)

    def helper(self, interface: str, *options: str) -> str:
        """Command of a bridge helper, to which QEMU adds ``--use-vnet --fd=N --br=NAME``.

        :param options: of the helper: see tests/functional/bridge_helper.py.
        """
        command = [sys.executable, "-I", "-S", str(HELPER), f"--interface={interface}", f"--record={self.record}"]
        return shlex.join([*command, *options])
