"""QEMU's own packet filters on the netdev: they work in the target as in the source."""

from __future__ import annotations

from pathlib import Path

from scapy.error import Scapy_Exception
from scapy.utils import PcapReader

from cprlib.evidence.records import Role
from cprlib.qemu.command_line import option_value
from cprlib.qemu.netdev import TapNetdev
from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.live_update_test import LiveUpdateTest
from cprlib.testing.measured_case import MeasuredCase
from cprlib.testing.nic_frames import exchange_packets
from cprlib.update.faults import faults_named

FAULT = "target-killed-with-fds"  # it dies before it opens the file of filter-dump, which would empty it
INTERVAL_US = 2000  # for which filter-buffer holds packets
LEAST = 100  # packets; each exchange has several hundred


class Filters(LiveUpdateTest):
    """Mechanism ``cpr``; without vhost, whose packets QEMU's filters do not see."""

    def test_netdev_filters_work_after_update(self) -> None:
        """Packets pass filter-buffer and arrive in the file of filter-dump, before and after updates.

        Both keep working in the source when an update fails, and begin again in the target: filter-buffer with its
        timer, filter-dump with an empty file. Patch 6.

        :avocado: tags=patch:tap-cpr,patch:6,mechanism:cpr,vhost:off,queues:1
        """
        path = Path(self.outputdir) / "packets.pcap"
        arguments = (
            *("-object", f"filter-buffer,id=buffer0,netdev=net0,interval={INTERVAL_US}"),
            *("-object", f"filter-dump,id=dump0,netdev=net0,file={option_value(path)}"),
        )
        with self.given_guest(GuestSpec(netdevs=(TapNetdev(),), role=Role.CHECKS, arguments=arguments)) as case:
            earlier = expect_dumped(case, path, "before-update")
            result = case.inject_fault(*faults_named(FAULT))
            expect_dumped(case, path, "after-failed-update", 0 if result.completed_without_fault else earlier)
            case.live_update()
            expect_dumped(case, path, "after-update")


def expect_dumped(case: MeasuredCase, path: Path, when: str, earlier: int = 0) -> int:
    """Exchange packets, and check that filter-dump has them.

    :param earlier: packets that were in the capture before.
    :returns: packets in the capture now.
    """
    exchange_packets(case, 1, when)
    count, problem = read_capture(path)
    expected, seen = f"a capture with at least {LEAST} more packets", problem or f"{count - earlier} more packets"
    case.expect("dump-has-packets", not problem and count - earlier >= LEAST, expected, seen, when=when)
    return count


def read_capture(path: Path) -> tuple[int, str]:
    """The packets of a capture, and why it cannot be read to its end; empty when it can."""
    count = 0
    try:
        with PcapReader(str(path)) as packets:
            for packet in packets:
                if not len(packet):
                    return count, f"packet {count} is empty"
                count += 1
    except (OSError, Scapy_Exception, EOFError) as error:
        return count, f"after {count} packets: {error}"
    return count, ""
