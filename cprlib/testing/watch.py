"""Observations beside the measured stream: other frames, error counters, notifications, an idle NIC, clocks."""

from __future__ import annotations

import contextlib
import itertools
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from cprlib.deadline import Deadline, timeout_scale
from cprlib.errors import DeadlineExceeded
from cprlib.evidence.case import CaseEvidence
from cprlib.evidence.clock_checks import (
    NS,
    ClockRates,
    ClockReading,
    DeviceClock,
    device_clock_check,
    rate_check,
    read_clocks,
    read_hpet,
    read_rtc,
    step_check,
)
from cprlib.evidence.counter_checks import (
    Errors,
    Notifications,
    error_check,
    notification_checks,
    notifications,
    per_packet,
    read_errors,
)
from cprlib.evidence.frame_checks import GUEST_ANNOUNCES_MS, LATE_MS, Watched, frame_checks
from cprlib.evidence.records import Check
from cprlib.evidence.repeated_updates import numbered_check
from cprlib.guest.replies import NetInfo
from cprlib.qemu.nic_state import ANNOUNCE_FEATURES, leaves_out_interrupts
from cprlib.testing.idle_nic import (
    Delays,
    IdleLoad,
    idle_checks,
    measure_idle_load,
    single_packets_check,
    time_single_packets,
)
from cprlib.traffic.flow import Flow, flows_between
from cprlib.traffic.frames import FrameClass
from cprlib.traffic.other_frames import OtherFrame, OtherFrames
from cprlib.update.events import Step
from cprlib.update.faults import Survivor
from cprlib.update.results import ANNOUNCEMENTS_MS, UpdateResult
from cprlib.update.running_guest import RunningGuest

# in a transcript of QMP; what comes after a cut is not known
MAY_HAVE_ANNOUNCED = re.compile(rb'"announce-self"|"cut": "too long"')
APART_S, POLL_S = 0.3, 0.05  # the longest wait for clock readings that are far enough apart


@dataclass(frozen=True, slots=True)
class GuestSample:
    """The guest at one moment."""

    notifications: Notifications
    clocks: ClockReading
    rtc: DeviceClock
    hpet: DeviceClock
    leaves_out_interrupts: bool | None


def sample_guest(guest: RunningGuest, network: NetInfo) -> GuestSample:
    """Look at a guest.

    :param network: its NICs, which it has just reported.
    """
    agent, qmp = guest.agent, guest.machine.qmp
    counts = notifications(network.nic())
    return GuestSample(counts, read_clocks(agent), read_rtc(agent), read_hpet(qmp), leaves_out_interrupts(qmp))


@dataclass(slots=True)
class TrafficWatch:
    """Watches a guest while it is measured.

    :param flows, ports: for single packets to the guest, and from it.
    :param first: before traffic, :param before: before each update.
    :param idle: load of an idle QEMU before the traffic; None when it was not measured.
    :param errors, errors_at_update: error counters before the traffic, and before the first update, which may fail.
    :param planned: the guest's updates before the traffic, successful or not. Others than ``updates`` pause it, too.
    """

    guest: RunningGuest
    flows: tuple[Flow, ...]
    ports: tuple[int, ...]
    single_packets: Delays
    errors: Errors
    first: GuestSample
    idle: IdleLoad | None
    planned: int
    errors_at_update: Errors = field(default_factory=dict)
    before: list[GuestSample] = field(default_factory=list)
    updates: list[UpdateResult] = field(default_factory=list)

    @classmethod
    def begin(cls, guest: RunningGuest, flows: Sequence[Flow], first_port: int, *, idle: bool) -> TrafficWatch:
        """Look at the guest before traffic starts.

        :param flows: those of the measured stream; single packets use each, and one of the other IP version.
        :param first_port: the first of ``len(flows) + 1`` ports that no other flow has.
        :param idle: measure the load of an idle QEMU too.
        """
        quiet = measure_idle_load(guest.machine.pid, guest.agent) if idle else None
        other = flows_between(versions=(4 if flows[0].version == 6 else 6,), first_port=first_port)
        ways = (*flows, *other), tuple(range(first_port + 1, first_port + 1 + len(flows)))
        single_packets = time_single_packets(guest.topology.station, guest.agent, *ways)
        network = guest.agent.network()
        first = sample_guest(guest, network)
        return cls(guest, *ways, single_packets, read_errors(guest, network), first, quiet, guest.planned)

    def before_update(self) -> None:
        """Look at the guest before an update. Right after one it is busy with the packets that waited."""
        network = self.guest.agent.network()
        self.note_errors(network)
        self.before.append(sample_guest(self.guest, network))

    def note_errors(self, network: NetInfo | None = None) -> None:
        """Read the error counters before the first update, also one that is to fail; later calls do nothing.

        :param network: the guest's; asked for when None.
        """
        if not self.errors_at_update:
            self.errors_at_update = read_errors(self.guest, network or self.guest.agent.network())

    def sample_end(self) -> GuestSample:
        """Look at the guest right after the traffic."""
        return sample_guest(self.guest, self.guest.agent.network())

    def end(self, after: GuestSample) -> Iterator[Check]:
        """Look at the guest, whose NIC is quiet now; yields each check as soon as it can be made.

        :param after: by :meth:`sample_end`.
        """
        guest, agent = self.guest, self.guest.agent
        earlier = self.single_packets
        single_packets = time_single_packets(guest.topology.station, agent, self.flows, self.ports, earlier)
        if self.updates:
            yield single_packets_check(earlier, single_packets)
            before = per_packet(self.first.notifications, self.before[0].notifications)
            yield from notification_checks(before, per_packet(self.before[-1].notifications, after.notifications))
            if self.before[-1].leaves_out_interrupts and after.leaves_out_interrupts is not None:
                yield Check.of(
                    "interrupts-left-out",
                    after.leaves_out_interrupts,
                    "QEMU leaves out interrupts that the guest does not need, as before (VIRTIO_F_EVENT_IDX)",
                    "it does" if after.leaves_out_interrupts else "it interrupts the guest for each packet",
                )
            if self.idle:
                yield from idle_checks(self.idle, measure_idle_load(guest.machine.pid, agent))
        yield error_check(self.errors_at_update or self.errors, read_errors(guest, agent.network()), self.errors)
        if self.updates and guest.planned - self.planned == len(self.updates):  # no other pause of the guest
            yield from self._clock_checks(after)

    def _clock_checks(self, after: GuestSample) -> Iterator[Check]:
        rate = ClockRates(self.first.clocks, self.before[0].clocks)
        around = pairwise([*self.before, after])
        for number, (update, (earlier, later)) in enumerate(zip(self.updates, around, strict=False), 1):
            pause = update.clock_pause
            yield numbered_check(step_check(earlier.clocks, later.clocks, rate, pause), number)
            for check in (
                *device_clock_check("guest-rtc-step", earlier.rtc, later.rtc, pause, resolution_ns=NS),
                *device_clock_check("hpet-step", earlier.hpet, later.hpet, pause, stops=True),
            ):
                yield numbered_check(check, number)
        last, deadline = read_clocks(self.guest.agent), Deadline(APART_S, "clock readings that are far enough apart")
        while rate.exact and not ClockRates(after.clocks, last).exact and not deadline.expired:
            time.sleep(POLL_S)
            last = read_clocks(self.guest.agent)
        yield rate_check(rate, ClockRates(after.clocks, last))


class FrameWatch:
    """Watches a guest's frames other than test packets, from its start to the end of the case.

    :param frames: closed by the caller.

    ``answered`` says that the guest answered on all NICs before and after each update: each has to be announced.
    """

    def __init__(self, guest: RunningGuest, frames: OtherFrames) -> None:
        self._guest = guest
        self._frames = frames
        self._first_ns = time.time_ns()
        self._macs: dict[str, None] = {}
        self.answered = False
        self.note_nics()

    def note_nics(self) -> None:
        self._macs |= dict.fromkeys(nic.mac for nic in self._guest.machine.settings.nics)

    def read(self) -> tuple[OtherFrame, ...]:
        return self._frames.read()

    def wait_announced(
        self, kind: FrameClass, sender: str, since_ns: int, deadline: Deadline, number: int = 1
    ) -> int | None:
        """Wait for an announcement; returns its time in ns, None when it did not come.

        :param number: 1 for the first since ``since_ns``.
        """

        def found() -> int | None:
            times = (
                item.time_ns
                for item in self.read()
                if item.announces and item.kind is kind and item.sender == sender and item.time_ns >= since_ns
            )
            return next(itertools.islice(times, number - 1, None), None)

        with contextlib.suppress(DeadlineExceeded):
            return deadline.poll(found, 0.05)
        return None

    def wait_guest_announced(self) -> None:
        """Wait until a guest that announces itself has done so after its latest update, in all rounds."""
        self._wait_rounds(FrameClass.ARP, GUEST_ANNOUNCES_MS)

    def wait_qemu_announced(self) -> None:
        """Wait until QEMU has announced the guest after its latest update, in all rounds."""
        self._wait_rounds(FrameClass.RARP, ANNOUNCEMENTS_MS[-1] + LATE_MS)

    def _wait_rounds(self, kind: FrameClass, within_ms: float) -> None:
        update = self._guest.updates[-1] if self._guest.updates else None
        if update and update.announcements_ms and (resumed := update.times_ns.get(Step.RESUME)):
            left = within_ms / 1e3 - (time.time_ns() - resumed) / 1e9 / timeout_scale()  # Deadline scales it
            deadline, rounds = Deadline(max(left, 0.001), "announcements"), len(update.announcements_ms)
            self.wait_announced(kind, next(iter(self._macs)), resumed, deadline, rounds)

    def checks(self, evidence: CaseEvidence) -> Iterator[Check]:
        """The checks of all frames, at the end of the case.

        :param evidence: of the case. What the guest's NIC had negotiated is known only after traffic with its link up.
        """
        self.note_nics()
        features = next((fact.after for fact in evidence.guest_view if fact.name == "virtio features"), None)
        announces = set(map(str, ANNOUNCE_FEATURES)) <= set((features or "").split())
        if announces:
            self.wait_guest_announced()
        moves = [item for item in evidence.faults if item.may_have_moved]
        # a paused or suspended guest was updated too: it is announced when it runs
        later = any(item.state != "running" for item in moves if item.fault.survivor is not Survivor.NEITHER)
        watched = Watched(
            frames=self.read(),
            first_ns=self._first_ns,
            last_ns=time.time_ns(),
            dropped=self._frames.read_dropped(),
            macs=tuple(self._macs),
            answered=self.answered or features is not None,
            guest_announces=announces,
            on_request=later
            or any(MAY_HAVE_ANNOUNCED.search(path.read_bytes()) for path in self._guest.folder.glob("qmp-*.log")),
            other_moves=len(moves),
            control_run_ms=evidence.instrument.control_run_interruption_ms or 0.0,
        )
        yield from frame_checks(watched, self._guest.updates, first=not evidence.faults)
