"""Options of netdev and NIC that lose no packet when they are lost: busy polling, receive-side scaling."""

from __future__ import annotations

import os
import time
from pathlib import Path

from cprlib.deadline import Deadline
from cprlib.errors import InstrumentError
from cprlib.evidence.records import Role
from cprlib.linux.procfs import vhost_workers
from cprlib.qemu.netdev import TapNetdev
from cprlib.qemu.nic_state import device_facts
from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.live_update_test import LiveUpdateTest
from cprlib.testing.measured_case import MeasuredCase
from cprlib.testing.nic_frames import queues_of_flows, use_queue_pairs
from cprlib.traffic.flow import StreamSettings, flows_between
from cprlib.traffic.session import TrafficSession
from cprlib.update.fault_injection import inject_fault
from cprlib.update.faults import faults_named

QUEUES = 4
RSS = ("-global", "virtio-net-pci.rss=on")
RSS_FEATURE = "VIRTIO_NET_F_RSS"
POLL_US = 20_000
RATE, SECONDS = 25.0, 1.2  # each packet comes when the polling for the one before it has ended
LEAST = 0.02  # of a core; workers that do not poll take less than a thousandth for these few packets


def share_of_workers(case: MeasuredCase) -> float | None:
    """Share of a core that the vhost workers of a case's QEMU use at a few packets a second; None when it has none.

    :raises InstrumentError: they changed meanwhile.
    """
    pid, station = case.guest.machine.pid, case.guest.topology.station
    before, begun = _seconds_of_workers(pid), time.monotonic()
    settings = StreamSettings(rate=RATE, duration_s=SECONDS)
    with TrafficSession(station, flows_between(count=1, first_port=case.ports.take()), settings) as session:
        session.wait_sent(Deadline(SECONDS + 20, "the packets to be sent"))
        session.finish(linger_s=0.0)
    after, ended = _seconds_of_workers(pid), time.monotonic()
    if not before and not after:
        return None
    if before.keys() != after.keys():
        raise InstrumentError(
            "measure the processor time of vhost workers", f"workers were {sorted(before)}, are {sorted(after)}"
        )
    return sum(after[task] - before[task] for task in before) / (ended - begun)


def _seconds_of_workers(pid: int) -> dict[int, float]:
    return {item.task: _seconds(item.task) for item in vhost_workers(pid)}


def _seconds(task: int) -> float:
    """utime and stime (proc(5), fields 14 and 15; the name in field 2 may have blanks).

    Of the task alone: /proc/TASK/stat has those of its whole process.
    """
    fields = (
        Path(f"/proc/{task}/task/{task}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    )
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def expect_polling(case: MeasuredCase, when: str, before: float | None, now: float | None) -> None:
    """Check that the workers still poll.

    :param before, now: from :func:`share_of_workers`.
    """
    if before is None:
        case.inconclusive(f"busy-polling-{when}", "vhost workers before the update", "there were none")
        return
    expected = f"about as much of a core as before the update ({before:.0%}) while few packets come"
    if now is None:
        meaning = "the QEMU that runs the guest has no vhost worker: userspace virtio carries its packets"
        case.expect(f"busy-polling-{when}", False, expected, "no vhost worker", meaning)
        return
    if before < LEAST:
        case.inconclusive(
            f"busy-polling-{when}", expected, f"vhost took {before:.1%} of a core before: it did not poll"
        )
        return
    case.expect(
        f"busy-polling-{when}",
        now >= before / 4,
        expected,
        f"{now:.0%}",
        f"with poll-us={POLL_US} vhost took {before:.0%} of a core, and takes {now:.1%}: the polling time was lost",
    )


class NicOptions(LiveUpdateTest):
    """Mechanism ``cpr``; a NIC with an option that is seldom set."""

    def test_busy_polling_is_kept(self) -> None:
        """With ``poll-us`` vhost still polls in the target, and in the source after a failed update.

        The kernel resets the polling time when a vhost device is released, and has no call to read it: the test
        measures how much of a core the workers use at a few packets a second. Patches 3 (vhost: reset vhost devices
        for cpr) and 6.

        :avocado: tags=patch:vhost-reset,patch:3,patch:tap-cpr,patch:6,mechanism:cpr,vhost:on,queues:1
        """
        netdev = TapNetdev(vhost=True, poll_us=POLL_US)
        with self.given_guest(GuestSpec(netdevs=(netdev,), role=Role.CHECKS)) as case:
            before = share_of_workers(case)
            case.live_update()
            expect_polling(case, "in-the-target", before, share_of_workers(case))
            inject_fault(case.guest, *faults_named("target-killed-with-devices"))
            expect_polling(case, "after-a-failed-update", before, share_of_workers(case))
            case.expect_no_complaint()

    def test_receive_side_scaling_is_kept(self) -> None:
        """A guest's receive-side scaling, key and table, puts each flow into the same queue after an update.

        Without vhost QEMU itself hashes the packets. Patch 8 (tap: cpr fixes): the NIC is as before.

        :avocado: tags=patch:cpr-fixes,patch:8,mechanism:cpr,vhost:off,queues:4
        """
        with self.given_guest(GuestSpec(queues=QUEUES, arguments=RSS, role=Role.CHECKS, boots=True)) as case:
            use_queue_pairs(case, QUEUES, "before-update")
            before = queues_of_flows(case.guest)
            expected = "each of 8 flows in the queue that the guest's table has for it"
            case.live_update()
            after, features = queues_of_flows(case.guest), device_facts(case.guest.machine.qmp)["guest-features"]
            if before is None or RSS_FEATURE not in features:
                case.inconclusive("flows-by-hash", expected, f"flows by queue {before}; the guest uses {features}")
                return
            case.expect_equal("flows-by-hash", after, before, "the guest's hash or table has no effect: flows by queue")
            case.expect_no_complaint()
