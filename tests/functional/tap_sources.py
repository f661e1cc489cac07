"""Every way to make a tap, as data, and the programs that some of them need."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cprlib.linux.descriptors import read_table
from cprlib.linux.topology import Topology, disable_ipv6
from cprlib.qemu.machine import Machine
from cprlib.qemu.netdev import TapNetdev, TapSource

HELPER = Path(__file__).with_name("bridge_helper.py")


@dataclass(frozen=True, slots=True)
class Programs:
    """Programs that QEMU runs for a tap; each leaves a line in a file of the case when it runs.

    :param folder: writable, and programs in it can be run.
    """

    folder: Path

    @classmethod
    def made_in(cls, folder: str | Path) -> Programs:
        """Programs in a new folder below one of a test's."""
        programs = Path(folder) / "programs"
        programs.mkdir(exist_ok=True)
        return cls(programs)

    @property
    def record(self) -> Path:
        """The file, with one line for each run: ``up tap3``, ``down tap3``, ``helper tap4``."""
        return self.folder / "programs-run.txt"

    def runs(self) -> tuple[str, ...]:
        """What ran so far."""
        return tuple(self.record.read_text(encoding="utf-8").splitlines()) if self.record.exists() else ()

    def script(self, word: str) -> str:
        """Path of an up or down script, which QEMU runs with the interface's name."""
        path = self.folder / f"{word}-script"
        path.write_text(f'#!/bin/sh\necho {word} "$1" >>{shlex.quote(str(self.record))}\n', encoding="utf-8")
        path.chmod(0o755)
        return str(path)

    def helper(self, interface: str, *options: str) -> str:
        """Command of a bridge helper, to which QEMU adds ``--use-vnet --fd=N --br=NAME``.

        :param options: further ones, see tests/functional/bridge_helper.py.
        """
        command = [sys.executable, "-I", "-S", str(HELPER), f"--interface={interface}", f"--record={self.record}"]
        return shlex.join([*command, *options])


def tap_forms(programs: Programs, *, vhost: bool = True) -> tuple[TapNetdev, ...]:
    """A netdev for each way to make a tap; the first is the guest's first NIC.

    Ids begin with other ids, those of netdevs before and after them: only equal names are one name.

    :param vhost: whether those that can have vhost have it.
    """
    up, down = programs.script("up"), programs.script("down")
    return (
        TapNetdev(queues=4, vhost=vhost),
        TapNetdev("many", "tap1", queues=9, vhost=vhost),
        TapNetdev("scripts", "tap2", script=up, down_script=down),
        TapNetdev("onefd-vhostfd", "tap3", vhost=vhost, vhost_passed=vhost, tap_source=TapSource.FD),
        TapNetdev("onefd", "tap4", tap_source=TapSource.FD),
        TapNetdev("fds", "tap5", queues=2, vhost=vhost, tap_source=TapSource.FDS),
        TapNetdev("fds-vhostfds", "tap6", queues=2, vhost=vhost, vhost_passed=vhost, tap_source=TapSource.FDS),
        TapNetdev("helper", "tap7", vhost=vhost, tap_source=TapSource.HELPER, helper=programs.helper("tap7")),
        TapNetdev("ifname-vhostfd", "tap8", vhost=vhost, vhost_passed=vhost),
        TapNetdev("unnamed", "tap9", tap_source=TapSource.UNNAMED, script=up, down_script=down),
    )


def attach_unnamed(topology: Topology, machine: Machine, netdevs: Sequence[TapNetdev]) -> tuple[str, ...]:
    """Make the taps that the kernel named ports of the bridge.

    :returns: their names.
    """
    named = {item.interface for item in netdevs if item.tap_source is not TapSource.UNNAMED}
    found = {row.interface for row in read_table(machine.pid).of_kind("tap") if row.interface} - named
    for interface in found:
        disable_ipv6(topology.switch, interface)
        topology.attach(interface)
    return tuple(sorted(found))
