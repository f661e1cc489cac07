"""One case: a guest, traffic through it, updates under that traffic, and the evidence of all that."""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cprlib.deadline import Deadline
from cprlib.errors import Awaited, DeadlineExceeded, InstrumentError, QemuFailed, UpdateFailed
from cprlib.evidence.case import CaseEvidence
from cprlib.evidence.equivalence import Snapshot
from cprlib.evidence.guest_checks import death_checks, guest_view, queue_shares, queue_use_check, view_guest
from cprlib.evidence.measured_traffic import moments_of, packets_of, with_ledger, with_traffic
from cprlib.evidence.records import Comparison
from cprlib.evidence.repeated_updates import figures_of, growth_checks, numbered_check, numbered_row, parts_of
from cprlib.evidence.update_checks import (
    delay_checks,
    descriptor_count,
    descriptor_rows,
    end_checks,
    events_of,
    hand_over_checks,
    order_checks,
    vhost_checks,
)
from cprlib.files import write_text
from cprlib.guest.agent import AgentConnection
from cprlib.guest.packet_log import reflections
from cprlib.qemu.binary import QemuBinary
from cprlib.qemu.netdev import TapNetdev
from cprlib.testing.checks import CaseChecks
from cprlib.testing.equivalence import compare_device_states, compare_state, read_compared
from cprlib.testing.parameters import SuiteParameters
from cprlib.testing.ports import PortAllocator
from cprlib.testing.watch import FrameWatch, TrafficWatch
from cprlib.traffic.control_run import LEAST_CONTROL_SHARE, ControlRun
from cprlib.traffic.flow import Flow, StreamSettings, flows_between
from cprlib.traffic.frames import sent_frames, write_pcap
from cprlib.traffic.hops import absent_counters, count_hops
from cprlib.traffic.kernel_drops import DropReport, DropTrace
from cprlib.traffic.ledger import make_ledger
from cprlib.traffic.other_frames import OtherFrames
from cprlib.traffic.packet_records import Reflection
from cprlib.traffic.session import TrafficSession
from cprlib.update.faults import Survivor
from cprlib.update.guest_traffic import (
    TRIED_PER_QUEUE,
    Counters,
    flows_on_every_queue,
    instrument_counters,
    read_hop_counters,
)
from cprlib.update.hooks import RecordMainChannel, UpdateHook
from cprlib.update.outcome import view
from cprlib.update.results import UpdateResult
from cprlib.update.running_guest import RunningGuest
from cprlib.update.saved_guest import save_device_state

LONGEST_CONTROL_RUN_S, SPARE_S = 40.0, 0.5
LONGEST_STREAM_S = 120.0
LINGER_S = 1.0
FEW_UNDER_WAY_S = 0.02  # the number of packets under way varies by those of this time while nothing is held up
STEADY_POLLS = 4
BETWEEN_S = 0.3  # traffic between two updates of a chain
CONTROL_RUN_S = 1.2  # of control run for each update of a chain, which takes about 1.5 s


@dataclass(frozen=True, slots=True)
class ChainStep:
    """One update of a chain.

    :param qemu: QEMU of the target; the source's when None.
    :param note: for the report.
    """

    qemu: QemuBinary | None = None
    note: str = ""


def reflector_log(agent: AgentConnection) -> tuple[list[Reflection], int]:
    """The log of the guest's session-reflector, and how many packets its socket dropped."""
    counters = agent.reflector()
    return list(reflections(agent.reflector_log(), counters.peers)), counters.socket_drops


class MeasuredCase(CaseChecks):
    """A guest, traffic through it, updates under that traffic, and what was seen.

    :param parameters: the run's, with what the test's own guest changes.
    :param packets: that the policy wants a measured run to have; at a low rate traffic flows for longer.
    """

    def __init__(self, parameters: SuiteParameters, folder: Path, evidence: CaseEvidence, *, packets: int = 0) -> None:
        super().__init__(folder, evidence)
        self.parameters = parameters
        self.ports = PortAllocator()
        self._packets = packets
        self._guest: RunningGuest | None = None
        self._frames: FrameWatch | None = None
        self._watch: TrafficWatch | None = None
        self._control_runs: list[TrafficSession] = []
        self._running: TrafficSession | None = None
        self._notes: list[str] = []
        self._between_qemus = False
        self.compares_states = True
        """Whether the state before and after each update is compared; False for a guest that changes it itself."""

    @property
    def guest(self) -> RunningGuest:
        """The running guest."""
        if self._guest is None:
            raise InstrumentError("use the guest", "it was not started")
        return self._guest

    @guest.setter
    def guest(self, guest: RunningGuest) -> None:
        self._guest = guest
        self._frames = FrameWatch(guest, guest.stack.enter_context(OtherFrames(guest.topology.station)))

    @property
    def frames(self) -> FrameWatch:
        """The frames of the guest that are no test packets."""
        if self._frames is None:
            raise InstrumentError("look at the frames of the guest", "it was not started")
        return self._frames

    def _warm_flows(self) -> tuple[Flow, ...]:
        """A flow for each queue pair in use, warmed up."""
        parameters = self.parameters
        queues = self.evidence.parameters.queues or 1
        candidates = flows_between(
            versions=(parameters.ip_version,),
            count=queues * TRIED_PER_QUEUE,
            first_port=self.ports.take(queues * TRIED_PER_QUEUE),
            size=parameters.size,
            dscp=parameters.dscp,
        )
        return flows_on_every_queue(self.guest, candidates, queues)

    def run_control(self, at_least_s: float = 0.0) -> None:
        """Measure without an update, at the same rate: a loss now is the instrument's or the machine's.

        :param at_least_s: seconds; a control run is valid for a measured run of up to twice its length.
        """
        duration_s = max(self.parameters.control_run, at_least_s)
        settings = StreamSettings(rate=self.parameters.rate, duration_s=duration_s)
        with self.without_update():
            station, flows = self.guest.topology.station, self._warm_flows()
            with TrafficSession(station, flows, settings) as session:
                session.wait_sent(Deadline(duration_s + 20, "the control run's packets to be sent"))
                session.finish(linger_s=LINGER_S)
        self._control_runs.append(session)

    @contextlib.contextmanager
    def under_traffic(self, *, rest: bool = False) -> Iterator[None]:
        """Send test packets before, during and after the body; then add all figures to the evidence.

        :param rest: watch QEMU at rest before and after, which takes 1.2 s.
        """
        parameters = self.parameters
        settings = StreamSettings(rate=parameters.rate, duration_s=LONGEST_STREAM_S)
        with self.without_update():
            station, flows = self.guest.topology.station, self._warm_flows()
            self._watch = watch = TrafficWatch.begin(self.guest, flows, self.ports, rest=rest)
            seen = view_guest(self.guest.agent)
            before = read_hop_counters(self.guest) | instrument_counters(None)
            state, updates = self._read_state(), len(self._notes)
        with DropTrace() as trace, TrafficSession(station, flows, settings) as session:
            with self.without_update():
                deadline = Deadline(parameters.before + 20, "traffic to flow before the update")
                session.wait_for_answers(round(parameters.rate * parameters.before), deadline)
            self._running = session
            try:
                yield
                answers = session.progress().answers
                more = parameters.packets_after(answers, self._packets)
                deadline = Deadline(more / parameters.rate + 5, "traffic to flow after the update")
                with contextlib.suppress(DeadlineExceeded):  # what is missing is counted below
                    session.wait_for_answers(answers + more, deadline)
            finally:
                self._running = self._watch = None
                session.finish(linger_s=LINGER_S)
            drops = trace.report()
        after, later = read_hop_counters(self.guest), view_guest(self.guest.agent)
        self.add_checks(*watch.end(clocks=not self.evidence.faults))
        self._extend_control_run(session.sent)
        self._collect(session, before, after, drops)
        self._check_delays(watch.updates)
        shares = queue_shares(seen.nic, later.nic)
        self.evidence = replace(self.evidence, guest_view=guest_view(seen, later), queue_shares=shares)
        self._compare_after_traffic(state, len(self._notes) - updates)
        if seen.nic.channels > 1:
            self.add_checks(queue_use_check(shares, min(seen.nic.channels, later.nic.channels)))

    def _read_state(self) -> Snapshot | None:
        return read_compared(self.guest) if self.compares_states else None

    def _compare_after_traffic(self, before: Snapshot | None, updates: int) -> None:
        """Compare the states before and after the traffic: reading them would delay its packets.

        :param updates: that were carried out meanwhile.
        """
        if updates == 0 or self._between_qemus:
            return
        if updates == 1:
            self.expect_same_state(before, Comparison.UPDATE, "equivalent-after-update", "the update")
        else:
            self.expect_same_state(before, Comparison.CHAIN, "equivalent-after-chain", f"{updates} updates")

    def _extend_control_run(self, measured: int) -> None:
        """Run the control again when the measured run became longer than twice its control run.

        :param measured: packets of that run.
        """
        controlled = sum(session.sent for session in self._control_runs)
        missing = LEAST_CONTROL_SHARE * measured - controlled
        if controlled and missing > 0:
            seconds = missing / self.parameters.rate + SPARE_S
            if seconds <= LONGEST_CONTROL_RUN_S:
                self.run_control(seconds)

    def let_traffic_flow(self, seconds: float) -> None:
        """Wait until the packets of some seconds are answered, between two updates under one traffic.

        The guest first answers what waited during the last update: the number of unanswered packets becomes steady.
        Until then delays are long, which hides the offset of the guest's clock. Answers that never come are counted as
        lost in the end.
        """
        if (session := self._running) is None:
            raise InstrumentError("let traffic flow", "there is no traffic", "call this inside under_traffic()")
        few = self.parameters.rate * FEW_UNDER_WAY_S
        waiting: list[int] = []

        def worked_off() -> bool | None:
            now = session.progress()
            waiting.append(now.sent - now.answers)
            lately = waiting[-STEADY_POLLS:]
            return True if len(lately) == STEADY_POLLS and max(lately) - min(lately) <= few else None

        with contextlib.suppress(DeadlineExceeded):
            Deadline(3, "the guest to work off what waited", Awaited.GUEST).poll(worked_off, interval=0.05)
        answers = session.progress().answers + round(self.parameters.rate * seconds)
        with contextlib.suppress(DeadlineExceeded):
            session.wait_for_answers(answers, Deadline(seconds + 20, "traffic to flow between two updates"))

    def live_update(
        self,
        qemu: QemuBinary | None = None,
        *,
        note: str = "",
        hooks: Sequence[UpdateHook] = (),
        check: str = "update-completes",
    ) -> UpdateResult:
        """Update the guest and add what was seen to the evidence.

        :param qemu: QEMU of the target; the source's when None.
        :param note: for the report of a case with several updates.
        :param check: name of the check that fails when the update does.
        :raises UpdateFailed, QemuFailed: the update failed, which is in the evidence then.
        """
        netdevs = self.guest.machine.settings.netdevs
        self.frames.note_nics()
        other_qemu = qemu is not None and qemu != self.guest.machine.settings.qemu
        self._between_qemus |= other_qemu
        with self.without_update():
            state = None if other_qemu or self._running else self._read_state()
            if self._watch:
                self._watch.before_update()
        try:
            update = self.guest.live_update(qemu, hooks=hooks)
        except (UpdateFailed, QemuFailed) as error:
            said = " | ".join(line.strip() for line in error.details.splitlines() if "qemu-system" in line)
            message = f"{error.one_line()}{f' ({said})' if said else ''}"  # the cause may be in either QEMU's words
            expected, family = "the guest runs in the target", "update-completes"
            self.expect(check, False, expected, error.happened, message, family=family)
            raise
        if self._watch:
            self._watch.updates.append(update)
        others = {item.interface for item in (*netdevs, *self.guest.machine.settings.netdevs) if item.cpr is False}
        self.add_update(update.without_taps(others) if others else update, netdevs[0], note)
        self.expect_same_state(state, Comparison.UPDATE, "equivalent-after-update", f"update {len(self._notes)}")
        return update

    def expect_same_state(
        self, before: Snapshot | None, comparison: Comparison, name: str, subject: str, sides: Iterable[str] = ()
    ) -> None:
        """Check that everything that can be read of QEMU, process, kernel and guest is as before.

        :param before: None when nothing is compared.
        :param name: of the check.
        :param subject: what has happened since, for the report.
        :param sides: that are compared; all when empty.
        """
        if before is not None:
            self.add_equivalence(compare_state(self.guest, before, comparison, subject, sides), name)

    def expect_same_device_state(self, streams: Sequence[bytes]) -> None:
        """Check that each update sends the device state that the update before has sent.

        :param streams: of the main channels, in order; by :class:`RecordMainChannel`.
        """
        for number, (earlier, later) in enumerate(itertools.pairwise(streams), 1):
            record = compare_device_states(earlier, later, self.guest.mechanism, f"update {number}")
            self.add_equivalence(record, "device-state-is-sent-again")

    def expect_device_state_kept(self, sent: bytes) -> None:
        """Check that the guest's QEMU would send the device state that it was sent by the update. Ends the guest.

        :param sent: stream of the update's main channel, by :class:`RecordMainChannel`.
        """
        self.expect_same_device_state([sent, save_device_state(self.guest)])

    def add_update(self, update: UpdateResult, netdev: TapNetdev, note: str = "") -> None:
        """Add what was seen of an update to the evidence.

        :param netdev: the source's, as it was before the update.
        """
        self._notes.append(note)
        number = len(self._notes)
        identity = self.evidence.mechanism.handling.same_files
        checks = (
            *(hand_over_checks(update, netdev) if identity else ()),
            *vhost_checks(update, netdev),
            *order_checks(update),
            *end_checks(update),
            *(() if self._running else delay_checks(update)),  # under traffic when the control run is known
        )
        rows = descriptor_rows(update, netdev)
        known = [item for item in (self.evidence.qemu_downtime_ms, update.downtime_ms) if item is not None]
        self.evidence = replace(
            self.evidence,
            updates=(self.evidence.updates or 0) + 1,
            timeline=(*self.evidence.timeline, *events_of(update)),
            descriptors=(*self.evidence.descriptors, *(numbered_row(row, number) for row in rows)),
            fds=descriptor_count(update),
            qemu_downtime_ms=max(known, default=None),
        ).with_checks(*(numbered_check(check, number) for check in checks))

    def update_chain(self, steps: Iterable[ChainStep], *, growth: bool = True) -> None:
        """Update the guest several times under one traffic; each update has the checks of a single one.

        :param growth: compare descriptors, memory and device state of the targets, which may differ between two QEMUs.
        """
        targets, recorded = [], list[RecordMainChannel]()
        with self.under_traffic():
            for step in steps:
                recorded += [RecordMainChannel()] if growth else []
                update = self.live_update(step.qemu, note=step.note, hooks=recorded[-1:])
                targets.append(update.source_before)  # the target before, which has run the guest for a while
                self.let_traffic_flow(BETWEEN_S)
            targets.append(view(self.guest.machine))
        if growth:
            self.add_checks(*growth_checks(targets[1:], targets[0]))
            self.expect_same_device_state([item.stream for item in recorded])

    def _collect(self, session: TrafficSession, before: Counters, after: Counters, drops: DropReport) -> None:
        log, overflow = reflector_log(self.guest.agent)
        text = json.dumps({"fields": Reflection._fields, "records": log})  # without indents, which take much longer
        write_text(self.folder / "reflector.json", text, mode=0o600)
        result = session.result(log, reflector_drops=overflow)
        control_runs = tuple(run.result(log, reflector_drops=overflow) for run in self._control_runs)
        control_run = ControlRun(control_runs) if control_runs else None
        self.evidence = with_traffic(self.evidence, result, control_run, self.parameters.queue_length)
        self.evidence = replace(
            self.evidence,
            parameters=replace(self.evidence.parameters, duration_s=round(result.sent / self.parameters.rate, 3)),
        )
        after = after | instrument_counters(result)
        moments = moments_of(self.guest.updates)
        if moments:
            figures = figures_of(self.guest.updates, parts_of(result, moments), self._notes)
            self.evidence = replace(self.evidence, per_update=figures)
        ledger = make_ledger(result, count_hops(before, after), drops, moments)
        self.evidence = with_ledger(self.evidence, ledger, absent_counters(before, after), drops.available)
        packets_of(result).write(self.folder)
        frames = [frame for flow in result.flows for frame in sent_frames(flow.flow, flow.sent_ns)]
        write_pcap(self.folder / "station.pcap", [*frames, *session.frames])

    def _check_delays(self, updates: Sequence[UpdateResult]) -> None:
        """The parts of each update that have to be short on this machine."""
        floor_ms = self.evidence.instrument.control_run_interruption_ms
        for update in updates:
            number = self.guest.updates.index(update) + 1
            self.add_checks(*(numbered_check(check, number) for check in delay_checks(update, floor_ms)))

    def last_words(self) -> str:
        """What the QEMUs of the case wrote to standard error, and the rest of the last one's log."""
        said = CaseChecks.last_words(self)
        return f"{said}\n{self._guest.machine.messages}" if self._guest else said

    @property
    def update_begun(self) -> bool:
        return bool(self.evidence.updates or (self._guest and self._guest.latest_update))

    def fallen_qemu(self) -> str:
        """How a QEMU failed that died or does not respond; empty at once when every one is well."""
        if self._guest is None:
            return ""
        update = self._guest.latest_update
        refusal = bool(update and update.expects_failure)
        fallen = (item.fallen(may_end=refusal and item.incoming) for item in self._guest.machines)
        return next(filter(None, fallen), "")

    def killed_qemu(self) -> str:
        if self._guest is None or self._guest.machine.exit_status() != -signal.SIGKILL:
            return ""
        machine = self._guest.machine
        if machine.watch.exceeded:
            return ""
        return f"the {machine.name} was killed from outside by SIGKILL: did this machine run out of memory (dmesg)?"

    def check_frames(self) -> None:
        """Add the checks of all frames that were no test packets, at the end of the case."""
        features = next((fact.after for fact in self.evidence.guest_view if fact.name == "virtio features"), None)
        if self.guest.updates:
            faults = self.evidence.faults
            paused = any(fault.survivor == Survivor.TARGET and fault.state == "paused" for fault in faults)
            self.add_checks(*self.frames.checks(features, alone=not faults, paused=paused))

    def note_death(self) -> None:
        """Add it to the evidence when a QEMU crashed or the guest's kernel died."""
        self.evidence = self.evidence.with_checks(*death_checks(self.folder, self.accuses))

    def write(self) -> None:
        """Write ``case.json``."""
        replace(self.evidence, finished_ns=time.time_ns()).write(self.folder)
