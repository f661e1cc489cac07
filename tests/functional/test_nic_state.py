"""State of a NIC that its guest has set: filters, address, modes, link, offloads, header, receive-side scaling."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace

from big_packets import BigPackets
from cprlib.deadline import Deadline
from cprlib.evidence.counter_checks import error_check, read_errors
from cprlib.evidence.records import Role
from cprlib.guest.replies import NicInfo
from cprlib.linux.ioctls import TUNSETOFFLOAD
from cprlib.linux.namespace import NetworkNamespace
from cprlib.linux.supervised_calls import ALWAYS, IOCTL, FailingCall, SupervisedCalls, SystemCall
from cprlib.linux.tap import open_tap
from cprlib.linux.topology import GUEST
from cprlib.qemu.netdev import TapNetdev, TapSource
from cprlib.qemu.nic_state import ANNOUNCE_FEATURES, CTRL_MAC_ADDR, CTRL_RX, CTRL_VLAN, RING_PACKED, RSS, VERSION_1
from cprlib.testing.equivalence import wait_groups_joined
from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.live_update_test import LiveUpdateTest
from cprlib.testing.measured_case import MeasuredCase
from cprlib.testing.nic_frames import (
    WrongCount,
    expect_same_queues_of_flows,
    frame,
    queues_of_flows,
    received_kinds,
    use_queue_pairs,
)
from cprlib.testing.nic_view import (
    expect_same_nic,
    expect_same_tap,
    handed_over_queues,
    read_nic_view,
    set_link,
)
from cprlib.traffic.frames import FrameClass
from cprlib.update.events import Step
from cprlib.update.hooks import RecordMainChannel
from cprlib.update.live_update import UpdateHook
from cprlib.update.results import UpdateResult
from host_operations import plug_again
from moment_updater import MomentUpdater
from nic_operations import OFFLOAD, can_switch_offloads, rebind_driver
from operated_guest import operated_guest

CHANGED = "52:54:00:75:01:77"  # the guest's address once it has changed it
UNICAST, MULTICAST, VLAN = "52:54:00:75:0a:01", "01:00:5e:75:75:75", 5
MANY = tuple(f"01:00:5e:75:76:{number:02x}" for number in range(64))  # MAC_TABLE_ENTRIES, hw/net/virtio-net.c
SEND_BUFFER = 262144  # not the default, and room for the largest packet
QUEUES = 4
RSS_ON = ("-global", "virtio-net-pci.rss=on")
# UFO and USO: features (virtio 1.3 section 5.1.3) and properties of QEMU's NIC, by what QEMU sets to find out whether a
# tap has them: TUN_F_CSUM with TUN_F_UFO, or with TUN_F_USO4 and TUN_F_USO6.
DATAGRAM_OFFLOADS = {
    0x11: {10: "guest_ufo", 14: "host_ufo"},
    0x61: {54: "guest_uso4", 55: "guest_uso6", 56: "host_uso"},
}
OFFLOAD_PROBES = tuple(SystemCall(IOCTL, offloads, 2) for offloads in DATAGRAM_OFFLOADS)
ACCEPTED = ("own address", "added unicast address", "added multicast address", f"VLAN {VLAN}")


class NicState(LiveUpdateTest):
    """Mechanism ``cpr``; the guest has changed everything since it booted."""

    def test_filters_and_address_are_kept(self) -> None:
        """Address, receive filters, VLANs, modes and link of a NIC are kept by an update, and have effect.

        Checked, with vhost off, where QEMU itself filters: query-rx-filter, features, the tap's header and offloads,
        and the guest's view are equal; frames to the changed address, to an added unicast and multicast address and
        of an added VLAN reach the guest, and others do not; QEMU announces the guest, and the guest itself. Then the
        same with promiscuous mode on, more addresses than the device's table holds, and the link down, which is set up
        again in the target.
        TCP and large datagrams arrive unchanged, also TCP that flows while an update runs. The link stays up with a
        packed ring, which QEMU's virtqueue_packed_drop_all() breaks without any update (docs/findings.md).
        Origin: patch 8 of the series, and the reviewers' "features and offloads before == after".

        :avocado: tags=patch:cpr-fixes,patch:8,mechanism:cpr,mode:cpr-exec,mechanism:local,vhost:off,queues:1
        """
        netdev = TapNetdev(send_buffer=SEND_BUFFER)
        with self.given_guest(GuestSpec(netdevs=(netdev,), role=Role.CHECKS)) as case:
            agent, big, nic = case.guest.agent, BigPackets(case), case.guest.agent.network().nic()
            wait_groups_joined(case.guest, GUEST.mac)
            errors = read_errors(case.guest, agent.network())
            big.transfer("before-update", segments_to_guest=True)
            with big.flowing("during-update"):
                self._update(case, "after-first-update")
            mac = CHANGED if nic.agreed_on(CTRL_MAC_ADDR) else GUEST.mac
            if mac == CHANGED:
                agent.set_interface(mac=CHANGED)
            else:
                case.note("changed address", "not tested: the NIC has no VIRTIO_NET_F_CTRL_MAC_ADDR")
            agent.add_filter(UNICAST)
            agent.add_filter(MULTICAST)
            agent.add_vlan(VLAN)
            wait_groups_joined(case.guest, GUEST.mac, mac)
            frames = frames_to(mac)
            accepted = accepted_frames(case, nic, frames)
            self._expect_frames(case, frames, accepted, "before-update")
            self._update(case, "after-update", announced=mac)
            self._expect_frames(case, frames, accepted, "after-update")
            agent.remove_filter(UNICAST)  # an overflow leaves the table empty then
            for address in MANY:
                agent.add_filter(address)
            agent.set_interface(promiscuous=True, all_multicast=True)
            if link_survives := not agent.network().nic().agreed_on(RING_PACKED):
                set_link(case.guest, up=False)
            self._update(case, "after-second-update")
            if link_survives:
                self._expect_frames(case, frames, (), "with-link-down")
                set_link(case.guest, up=True)
            else:
                case.note("link down", "not tested: QEMU's packed ring stops sending then, also without an update")
            self._expect_frames(case, frames, tuple(frames), "promiscuous")
            agent.set_interface(promiscuous=False, all_multicast=False, mac=GUEST.mac)
            big.transfer("after-updates", segments_to_guest=True)
            case.add_checks(error_check(errors, read_errors(case.guest, agent.network())))

    def test_offloads_and_header_are_kept(self) -> None:
        """Offloads and vnet header of a NIC with vhost are kept by an update, as set up and as changed.

        Checked: features (QEMU's and vhost's), the tap's header length and offloads, and the guest's view are equal;
        TCP segments larger than the MTU reach the guest in one piece; content of TCP and of large datagrams is
        unchanged. TCP flows while the update runs. Then once more with the receive offloads that the guest has
        switched off: they stay off.
        Origin: patch 8 of the series; a header length that is set again on a live tap corrupts what is read.

        :avocado: tags=patch:cpr-fixes,patch:8,mechanism:cpr,mechanism:local,vhost:on,queues:1
        """
        with self.given_guest(GuestSpec(vhost=True, role=Role.CHECKS)) as case:
            agent, big, nic = case.guest.agent, BigPackets(case), case.guest.agent.network().nic()
            wait_groups_joined(case.guest, GUEST.mac)
            errors = read_errors(case.guest, agent.network())
            big.transfer("before-update", segments_to_guest=True)
            with big.flowing("during-update"):
                self._update(case, "after-update", announced=GUEST.mac)
            big.transfer("after-update", segments_to_guest=True)
            if switched_off := can_switch_offloads(nic):
                agent.set_feature(OFFLOAD, False)
            else:
                case.note("offloads switched off", "not tested: the guest cannot switch receive offloads of its NIC")
            recorded = RecordMainChannel()
            self._update(case, "after-second-update", hooks=[recorded])
            big.transfer("after-second-update", segments_to_guest=not switched_off)
            case.add_checks(error_check(errors, read_errors(case.guest, agent.network())))
            case.expect_device_state_kept(recorded.stream)

    def test_missing_offloads_stay_missing(self) -> None:
        """A NIC on a tap without UFO and USO gets neither by an update; a driver that is bound later finds none either.

        A target must not find out which offloads the tap has by setting them, so the source sends it. Here these calls
        fail, in each QEMU; before, the NIC has what its tap has. Management opens the tap, so that a source that
        takes one flag of its CPR value for another is seen, too. Patch 8 (tap: cpr fixes).

        :avocado: tags=patch:cpr-fixes,patch:8,mechanism:cpr,mechanism:local,vhost:off,queues:1,plug:hot
        """
        passed = TapNetdev(tap_source=TapSource.FD)
        with (
            SupervisedCalls(OFFLOAD_PROBES) as calls,
            self.given_guest(GuestSpec(netdevs=(passed,), pluggable=True, role=Role.CHECKS)) as case,
        ):
            if not (possible := self._possible_offloads(case)):
                case.skip_check(
                    "has-offloads", "the guest uses UFO and USO", "the kernel's taps, or this NIC, have neither"
                )
                return
            meaning = "UFO and USO that the guest uses are not those that its NIC and a tap of this kernel have"
            with case.qemu_step():
                case.expect_equal("has-offloads", self._datagram_offloads(case), possible, meaning)
            case.live_update(label="under-filter", target=replace(case.guest.machine.settings, prefix=calls.prefix))
            updater = MomentUpdater(case)
            with operated_guest(case.guest, case.ports, 1, updater) as guest:
                calls.arm(*(FailingCall(probe, errno.EINVAL, times=ALWAYS) for probe in OFFLOAD_PROBES))
                plug_again(guest)
                offered = self._datagram_offloads(case)
                case.expect_empty(
                    "offloads-missing", offered, "none of UFO and USO", "the NIC has what the tap has not"
                )
                updater.live_update("without-offloads")
                changes = rebind_driver(guest)
                case.expect_empty("same-for-new-driver", changes, "the NIC as before", "a driver finds another NIC")

    @staticmethod
    def _datagram_offloads(case: MeasuredCase) -> list[int]:
        nic = case.guest.agent.network().nic()
        return [feature for features in DATAGRAM_OFFLOADS.values() for feature in features if nic.agreed_on(feature)]

    @staticmethod
    def _possible_offloads(case: MeasuredCase) -> list[int]:
        """UFO and USO that the NIC has by its options and its machine type, and that a tap can have."""
        machine, nic = case.guest.machine, case.guest.agent.network().nic()
        path = f"/machine/peripheral/{machine.settings.nics[0].identifier}"
        return [
            feature
            for offloads in offloads_of_tap(case.guest.topology.switch)
            for feature, name in DATAGRAM_OFFLOADS[offloads].items()
            if feature < VERSION_1 or nic.agreed_on(VERSION_1)
            if machine.qmp.execute("qom-get", {"path": path, "property": name})
        ]

    def test_receive_side_scaling_is_kept(self) -> None:
        """A guest's receive-side scaling, key and table, puts each flow into the same queue after an update.

        Without vhost QEMU itself hashes the packets; over IPv6 with more of the key. Patch 8 (tap: cpr fixes): the NIC
        is as before.

        :avocado: tags=patch:cpr-fixes,patch:8,mechanism:cpr,mode:cpr-exec,mechanism:local,vhost:off,queues:4
        """
        with self.given_guest(
            GuestSpec(netdevs=(TapNetdev(queues=QUEUES),), arguments=RSS_ON, role=Role.CHECKS)
        ) as case:
            use_queue_pairs(case, QUEUES, "before-update")
            nic = case.guest.agent.network().nic()
            before = {ipv6: queues_of_flows(case.guest, ipv6=ipv6) for ipv6 in (False, True)}
            case.live_update()
            if not nic.agreed_on(VERSION_1):
                case.note("receive-side scaling", "not tested: a legacy NIC has none")
                return
            if not nic.agreed_on(RSS):
                case.inconclusive("flows-by-hash", "receive-side scaling", f"the guest uses {nic.virtio_features}")
                return
            meaning = "the guest's hash or table has no effect"
            expect_same_queues_of_flows(case, before[False], "flows-by-hash", meaning)
            expect_same_queues_of_flows(case, before[True], "ipv6-flows-by-hash", meaning, ipv6=True)

    def _update(
        self, case: MeasuredCase, when: str, announced: str | None = None, hooks: Sequence[UpdateHook] = ()
    ) -> None:
        """Update the guest, and compare all state of the NIC before and after."""
        before = read_nic_view(case.guest)
        update = case.live_update(hooks=hooks)
        if announced is not None:
            self._expect_announced(case, update, announced, when)
        after = read_nic_view(case.guest)
        expect_same_tap(case, before.tap, after.tap, handed_over_queues(update.pairings), when)
        expect_same_nic(case, before, after, when)

    def _expect_announced(self, case: MeasuredCase, update: UpdateResult, mac: str, when: str) -> None:
        """QEMU announces the NIC's configured address, and the guest the one that it has now."""
        since_ns = update.times_ns[Step.RESUME]
        asked = case.guest.agent.network().nic().agreed_on(*ANNOUNCE_FEATURES)
        for kind, sender, who, meaning in (
            (FrameClass.RARP, GUEST.mac, "qemu", "QEMU does not announce the guest: switches do not learn its port"),
            (FrameClass.ARP, mac, "guest", "QEMU does not ask the guest to announce its own addresses"),
        ):
            if kind is FrameClass.ARP and not asked:
                continue  # nic.guest_announce=off, nic.status=off
            deadline = Deadline(10, f"{kind} from {sender}")
            time_ns = case.frames.wait_announced(kind, sender, since_ns, deadline)
            observed = "none" if time_ns is None else f"{(time_ns - since_ns) / 1e6:.0f} ms after RESUME"
            case.expect(f"announced-by-{who}-{when}", time_ns is not None, f"{kind} from {sender}", observed, meaning)

    def _expect_frames(
        self, case: MeasuredCase, frames: Mapping[str, bytes], accepted: Sequence[str], when: str
    ) -> None:
        came, expected = received_kinds(case.guest, frames, accepted), ", ".join(accepted) or "none"
        if isinstance(came, WrongCount):
            case.expect("frames", False, expected, came, f"frames are delivered more than once: {came}", when=when)
            return
        missing = [name for name in accepted if name not in came]
        unwanted = [name for name in frames if name in came and name not in accepted]
        case.expect(
            "frames",
            not missing and not unwanted,
            expected,
            ", ".join(name for name in frames if name in came) or "none",
            f"frames that the guest accepts do not arrive: {missing}; frames that it rejects arrive: {unwanted}",
            when=when,
        )


def frames_to(mac: str) -> dict[str, bytes]:
    """Frames of each kind, for a guest with this address."""
    frames = {
        "own address": frame(mac),
        "added unicast address": frame(UNICAST),
        "added multicast address": frame(MULTICAST),
        f"VLAN {VLAN}": frame(mac, vlan=VLAN),
        "foreign address": frame("52:54:00:75:ff:ff"),
        "foreign multicast address": frame("01:00:5e:7f:7f:7f"),
        "foreign VLAN": frame(mac, vlan=VLAN + 1),
    }
    return frames if mac == GUEST.mac else {**frames, "former address": frame(GUEST.mac)}


def accepted_frames(case: MeasuredCase, nic: NicInfo, frames: Mapping[str, bytes]) -> tuple[str, ...]:
    """The kinds of frames that reach a guest with added addresses and a VLAN; also those that its NIC cannot filter."""
    if not nic.agreed_on(CTRL_RX):
        case.note("receive filters", "not tested: the NIC has no VIRTIO_NET_F_CTRL_RX, and receives all frames")
        return tuple(frames)
    if not nic.agreed_on(CTRL_VLAN):
        case.note("filter of VLANs", "not tested: the NIC has no VIRTIO_NET_F_CTRL_VLAN")
        return (*ACCEPTED, "foreign VLAN")
    return ACCEPTED


def offloads_of_tap(namespace: NetworkNamespace) -> list[int]:
    """Those of :data:`DATAGRAM_OFFLOADS` that the kernel accepts for a tap."""
    accepted = list[int]()
    with namespace.entered():
        tap = open_tap("probed")
    try:
        for offloads in DATAGRAM_OFFLOADS:
            with contextlib.suppress(OSError):
                fcntl.ioctl(tap, TUNSETOFFLOAD, offloads)
                accepted.append(offloads)
    finally:
        os.close(tap)
    return accepted
