"""vhost settings in the kernel whose loss costs no packet: busy polling, features, error events."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from cprlib.deadline import Deadline
from cprlib.errors import DeadlineExceeded
from cprlib.evidence.records import Role
from cprlib.linux import ioctls
from cprlib.linux.descriptors import read_table
from cprlib.linux.namespace import NetworkNamespace
from cprlib.linux.supervised_calls import IOCTL, MadeCall, SupervisedCalls, SystemCall
from cprlib.qemu.netdev import TapNetdev
from cprlib.qemu.nic_state import differences
from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.hand_over import failing_migration, probing
from cprlib.testing.live_update_test import LiveUpdateTest
from cprlib.testing.measured_case import MeasuredCase
from cprlib.testing.nic_frames import use_queue_pairs
from cprlib.traffic.probes import TRAFFIC_ANSWER_S
from cprlib.update.faults import faults_named

QUEUES = 2
VIRTQUEUES = 2 * QUEUES  # to receive and to send
POLL_US, POLLING = 20_000, "poll-us"
FAULTS = ("target-killed-with-devices", "target-killed-loading")  # before and after dirty logging begins
TAKEN_S = 5.0
LOG_ALL = 1 << 26  # VHOST_F_LOG_ALL, linux/vhost_types.h
# linux/vhost_types.h: vhost_vring_state, vhost_vring_file, vhost_vring_addr (addresses differ between processes)
VRING_STATE, VRING_FILE, VRING_ADDR = struct.Struct("II"), struct.Struct("Ii"), struct.Struct("II4Q")
OWNER = (ioctls.VHOST_SET_OWNER, ioctls.VHOST_RESET_OWNER)  # the kernel forgets all settings then
OF_DEVICE = {ioctls.VHOST_SET_FEATURES: "features", ioctls.VHOST_SET_BACKEND_FEATURES: "backend features"}
OF_QUEUE = {
    ioctls.VHOST_SET_VRING_NUM: "size",
    ioctls.VHOST_SET_VRING_ENDIAN: "byte order",
    ioctls.VHOST_SET_VRING_BUSYLOOP_TIMEOUT: POLLING,
}
FILES_OF_QUEUE = {
    ioctls.VHOST_SET_VRING_KICK: "kick",
    ioctls.VHOST_SET_VRING_CALL: "call",
    ioctls.VHOST_SET_VRING_ERR: "error event",
    ioctls.VHOST_NET_SET_BACKEND: "tap",
}
REQUESTS = (
    *OWNER,
    ioctls.VHOST_SET_FEATURES_ARRAY,
    *OF_DEVICE,
    *OF_QUEUE,
    *FILES_OF_QUEUE,
    ioctls.VHOST_SET_VRING_ADDR,
)


def vhost_settings(calls: Iterable[MadeCall], pid: int) -> dict[str, str]:
    """What a process has set in its vhost devices since it became their owner: ``device 0, queue 1, poll-us``.

    Devices are in the order of their descriptors. Of a queue's files it says whether there is one, and of its error
    event whether that is the file which vhost signals for an interrupt.
    """
    interrupts: dict[tuple[int, int], int] = {}  # file to signal, by descriptor of the device and queue
    made: dict[int, dict[str, str]] = {row.number: {} for row in read_table(pid).of_kind("vhost")}
    for call in calls:
        descriptor, request, *_ = call.arguments
        if call.pid != pid or descriptor not in made:
            continue
        if request in OWNER:
            made[descriptor] = {}
        elif not call.data:  # at no address, so that the kernel has refused it
            continue
        elif request == ioctls.VHOST_SET_FEATURES_ARRAY:  # newer QEMUs, before or instead of VHOST_SET_FEATURES
            made[descriptor][OF_DEVICE[ioctls.VHOST_SET_FEATURES]] = call.data[:7:-1].hex()
        elif request in OF_DEVICE:
            made[descriptor][OF_DEVICE[request]] = call.data[::-1].hex()
        elif request in OF_QUEUE:
            queue, number = VRING_STATE.unpack(call.data)
            made[descriptor][f"queue {queue}, {OF_QUEUE[request]}"] = str(number)
        elif request in FILES_OF_QUEUE:
            queue, file = VRING_FILE.unpack(call.data)
            value = "set" if file >= 0 else "none"
            if request == ioctls.VHOST_SET_VRING_CALL:
                interrupts[descriptor, queue] = file
            elif request == ioctls.VHOST_SET_VRING_ERR and file >= 0 and file == interrupts.get((descriptor, queue)):
                value = "set to the one for interrupts"
            made[descriptor][f"queue {queue}, {FILES_OF_QUEUE[request]}"] = value
        elif request == ioctls.VHOST_SET_VRING_ADDR:
            queue, flags, *_ = VRING_ADDR.unpack(call.data)
            made[descriptor][f"queue {queue}, flags"] = str(flags)
    return {
        f"device {number}, {name}": value
        for number, (_, settings) in enumerate(sorted(made.items()))
        for name, value in sorted(settings.items())
    }


class VhostSettings(LiveUpdateTest):
    """Mechanisms ``cpr`` and ``local``; a guest whose QEMU runs under a filter that records its calls of vhost."""

    def test_vhost_settings_are_kept(self) -> None:
        """What QEMU sets in vhost is the same in the target, and in the source after a failed update.

        The kernel forgets it all when a vhost device is released, and shows it to no other process. Features, and for
        each virtqueue the size, events, and the polling time of ``poll-us``; logging of writes while an ordinary
        migration runs. Patches 3 (vhost: reset vhost devices for cpr) and 6. What vhost has signalled to a source that
        has stopped its guest reaches the guest as well.

        :avocado: tags=patch:vhost-reset,patch:3,patch:tap-cpr,patch:6,mechanism:cpr,mechanism:local,vhost:on,queues:2
        """
        netdev = TapNetdev(queues=QUEUES, vhost=True, poll_us=POLL_US)
        with (
            SupervisedCalls([SystemCall(IOCTL, request) for request in REQUESTS], record=True) as calls,
            self.given_guest(GuestSpec(netdevs=(netdev,), role=Role.CHECKS)) as case,
        ):
            use_queue_pairs(case, QUEUES, "before-update")
            case.live_update(label="under-filter", target=replace(case.guest.machine.settings, prefix=calls.prefix))
            before = vhost_settings(calls.made, case.guest.machine.pid)
            polling = [value for name, value in before.items() if name.endswith(POLLING)]
            case.note("settings of vhost devices", len(before))
            case.expect_equal("poll-us", polling, [str(POLL_US)] * VIRTQUEUES, "poll-us of each virtqueue")
            expect_writes_logged(case, calls)
            expect_settings(case, "after-ordinary-migration", calls, before)
            self._update_with_packets_at_stop(case, calls)
            expect_settings(case, "in-the-target", calls, before)
            for fault in FAULTS:
                case.inject_fault(*faults_named(fault))
                expect_settings(case, f"after-{fault}", calls, before)
            case.expect_no_nic_error()

    def _update_with_packets_at_stop(self, case: MeasuredCase, calls: SupervisedCalls) -> None:
        """Send packets when the guest has stopped and vhost still works; no other packet makes the guest look later."""
        switch, tap = case.guest.topology.switch, case.guest.tap
        sent = taken = 0

        def send() -> None:
            nonlocal sent, taken
            before = packets_to_guest(switch, tap)
            sent = probes.send()

            def all_taken() -> bool:
                nonlocal taken
                taken = packets_to_guest(switch, tap) - before
                return taken >= sent

            with contextlib.suppress(DeadlineExceeded):
                Deadline(TAKEN_S, "vhost to take the packets").poll(all_taken)

        with probing(case) as (_, probes):
            calls.before_next(SystemCall(IOCTL, ioctls.VHOST_NET_SET_BACKEND), send)
            case.live_update(label="next-update")
            missing = probes.count_missing(Deadline(TRAFFIC_ANSWER_S, "the answers"))
        seen = f"{taken} of {sent} taken"
        case.require("packets-taken-at-stop", 0 < sent <= taken, "vhost takes packets of a stopped guest", seen)
        meaning = f"interrupts are lost: packets without an answer, of {sent} that vhost took from the tap at the stop"
        case.expect_equal("packets-at-stop-arrive", missing, 0, meaning)


def expect_writes_logged(case: MeasuredCase, calls: SupervisedCalls) -> None:
    """Check that vhost logs the pages that it writes while an ordinary migration of a target runs."""
    with case.qemu_step(), failing_migration(case):
        made = vhost_settings(calls.made, case.guest.machine.pid)
        logging = [bool(int(value, 16) & LOG_ALL) for name, value in made.items() if name.endswith(", features")]
        missing = "the destination of an ordinary migration lacks what vhost writes"
        case.expect_equal(
            "writes-are-logged", logging, [True] * QUEUES, f"{missing}: whether each device logs its writes"
        )


def packets_to_guest(namespace: NetworkNamespace, tap: str) -> int:
    """Packets that were taken from a tap; by proc_net(5), as a netlink socket is of one thread."""
    with namespace.entered():
        lines = Path("/proc/thread-self/net/dev").read_text(encoding="ascii").splitlines()
    (counters,) = (line.split(":")[1].split() for line in lines if line.split(":")[0].strip() == tap)
    return int(counters[9])  # tx packets


def expect_settings(case: MeasuredCase, when: str, calls: SupervisedCalls, before: Mapping[str, str]) -> None:
    """Check that the QEMU that runs the guest has set all that was set before."""
    changed = differences(before, vhost_settings(calls.made, case.guest.machine.pid))
    case.expect_empty(f"settings-{when}", changed, "what is set in vhost is as before", "vhost has other settings")
