"""The target announces the guest as its own migration parameters say."""

from __future__ import annotations

from dataclasses import replace

from cprlib.deadline import Deadline
from cprlib.errors import Awaited
from cprlib.evidence.records import Role
from cprlib.linux.topology import GUEST
from cprlib.qemu.netdev import TapNetdev
from cprlib.qemu.nic_state import ANNOUNCE_FEATURES
from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.live_update_test import LiveUpdateTest
from cprlib.traffic.frames import FrameClass
from cprlib.update.events import Step

FEW = {"rounds": 3, "initial": 20, "step": 9000, "max": 40}
FEW_MS = (0, 20, 60)  # max limits the second delay
NONE = {"rounds": 0}
ANNOUNCED_S = 5.0
MOST_BY_GUEST, QUIET_S = 2 * 3, 2.0  # requests that do not end come every 40 ms


class Announcements(LiveUpdateTest):
    """Mechanism ``cpr``; the target's parameters ``announce-*`` are given on its command line."""

    def test_guest_is_announced_as_often_as_configured(self) -> None:
        """After an update the target announces the guest in as many rounds as its migration parameters say, or never.

        The NIC can be reset then, also where the guest is not announced: patch 16 (virtio-net: keep the announcement
        timer). QEMU's RARP and the guest's own announcements have these rounds (migrate_announce_params(),
        migration/options.c). All updates of the suite are checked so, most of them with the default of five rounds.

        :avocado: tags=patch:tap-cpr,patch:6,patch:announcement-timer,patch:16
        :avocado: tags=mechanism:cpr,mechanism:local,vhost:off,queues:1
        """
        with self.given_guest(GuestSpec(netdevs=(TapNetdev(),), role=Role.CHECKS)) as case:
            own, agent = case.guest.machine.settings, case.guest.agent
            for label, parameters in (("never", NONE), ("three-rounds", FEW)):
                words = [
                    word
                    for name, value in parameters.items()
                    for word in ("-global", f"migration.announce-{name}={value}")
                ]
                case.live_update(label=label, target=replace(own, extra=(*own.extra, *words)))
                if parameters == NONE:
                    agent.bind_driver(agent.unbind_driver())
                    agent.configure()
                case.expect_answers(label)
            due = [update.announcements_ms for update in case.guest.updates]
            meaning = "the targets' parameters are not those of their command lines; announcements in ms after RESUME"
            case.expect_equal("announcements-as-configured", due, [(), FEW_MS], meaning)
            resumed = case.guest.updates[-1].times_ns[Step.RESUME]
            deadline, rounds = Deadline(ANNOUNCED_S, "the last announcement"), FEW["rounds"]
            last = case.frames.wait_announced(FrameClass.RARP, GUEST.mac, resumed, deadline, rounds)
            seen = "none" if last is None else f"{(last - resumed) / 1e6:.0f} ms after RESUME"
            expected = f"announcement {rounds} within {ANNOUNCED_S:.0f} s: its delay has the limit announce-max"
            case.expect("last-announcement", last is not None, expected, seen)
            if not case.guest.agent.network().nic().agreed_on(*ANNOUNCE_FEATURES):
                case.note("announcements of the guest", "not tested: its NIC has guest_announce=off")
                return
            asked = Deadline(ANNOUNCED_S, "the guest to announce itself in each round", Awaited.GUEST)
            sent = case.frames.wait_announced(FrameClass.ARP, GUEST.mac, resumed, asked, rounds)
            expected = f"{rounds} or more gratuitous ARP of the guest within {ANNOUNCED_S:.0f} s"
            observed = "fewer" if sent is None else f"{rounds} or more"
            case.expect("guest-announces-in-each-round", sent is not None, expected, observed)
            quiet = Deadline(QUIET_S, "an announcement too many")
            more = case.frames.wait_announced(FrameClass.ARP, GUEST.mac, resumed, quiet, MOST_BY_GUEST + 1)
            expected = f"at most {MOST_BY_GUEST} gratuitous ARP of the guest in {QUIET_S:.0f} s"
            case.expect("guest-stops-announcing", more is None, expected, "fewer" if more is None else "more")
