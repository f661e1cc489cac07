"""One case: a guest, traffic through it, updates under that traffic, and the evidence of all that."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from cprlib.deadline import Deadline
from cprlib.errors import (
    Awaited,
    DeadlineExceeded,
    GuestFailed,
    InstrumentError,
    UsageError,
)
from cprlib.evidence.case import CaseEvidence
from cprlib.evidence.equivalence import Snapshot
from cprlib.evidence.guest_checks import (
    GuestView,
    budget_of_busiest_queue,
    guest_view,
    queue_shares,
    queue_use_check,
    view_guest,
)
from cprlib.evidence.measured_traffic import after_update_check, guest_stops, packets_of, with_ledger, with_traffic
from cprlib.evidence.records import INSTRUMENT_CHECK, Outcome, QueueShare, StatePair
from cprlib.evidence.repeated_updates import figures_of, growth_checks, numbered_check, parts_of
from cprlib.evidence.update_checks import (
    delay_checks,
)
from cprlib.files import write_text
from cprlib.guest.agent import AgentConnection
from cprlib.guest.packet_log import reflections
from cprlib.linux.topology import guest_end, station_end
from cprlib.qemu.netdev import TapNetdev
from cprlib.testing.equivalence import wait_filters_settled
from cprlib.testing.guest_case import GuestCase
from cprlib.testing.parameters import LONGEST_AFTER_S, SuiteParameters
from cprlib.testing.watch import TrafficWatch
from cprlib.traffic.control_run import LEAST_CONTROL_SHARE, ControlRun
from cprlib.traffic.flow import Flow, PortAllocator, StreamSettings, flows_between
from cprlib.traffic.frames import sent_frames, write_pcap
from cprlib.traffic.hops import absent_counters, count_hops
from cprlib.traffic.kernel_drops import DropReport, DropTrace
from cprlib.traffic.ledger import make_ledger
from cprlib.traffic.packet_records import Reflection
from cprlib.traffic.probes import TRAFFIC_ANSWER_S, warm_up
from cprlib.traffic.result import TrafficResult
from cprlib.traffic.session import TrafficSession
from cprlib.update.guest_traffic import (
    TRIED_PER_QUEUE,
    Counters,
    flows_on_every_queue,
    full_socket_drops,
    instrument_counters,
    read_hop_counters,
)
from cprlib.update.hooks import RecordMainChannel
from cprlib.update.outcome import view
from cprlib.update.results import UpdateResult

LONGEST_CONTROL_RUN_S, SPARE_S = 40.0, 0.5
LONGEST_UPDATES_S = 600.0  # of all updates under one traffic, which ends by itself after that
FEW_UNDER_WAY_S = 0.02  # the number of packets under way varies by those of this time while nothing is held up
STEADY_POLLS = 4
BETWEEN_S = 0.3  # traffic between two updates of a chain
CONTROL_RUN_S = 1.2  # of control run for each update of a chain, which takes about 1.5 s


def reflector_log(agent: AgentConnection) -> tuple[list[Reflection], int | None]:
    """The log of the guest's session-reflector, and how many packets its full socket dropped; None when unknown.

    :raises InstrumentError: the log is incomplete.
    """
    counters = agent.reflector()
    if counters.log_overflow:
        happened = f"it had no room for {counters.log_overflow} packets"
        raise InstrumentError("read the reflector's log", happened, "lower the rate, or measure for less long")
    dropped = full_socket_drops(counters, agent.network()) if counters.socket_drops else 0
    log = list(reflections(agent.reflector_log(), counters.peers))
    return log, None if dropped is None else max(0, dropped)


class MeasuredCase(GuestCase):
    """A guest, traffic through it, updates under that traffic, and what was seen.

    :param parameters: the run's, with what the test's own guest changes.
    :param packets: that the policy requires of a measured run; at a low rate traffic flows for longer.
    """

    def __init__(self, parameters: SuiteParameters, folder: Path, evidence: CaseEvidence, *, packets: int = 0) -> None:
        super().__init__(folder, evidence, parameters.stop_at)
        self.parameters = parameters
        self.ports = PortAllocator()
        self._packets = packets
        self._control_runs: list[TrafficSession] = []
        self._control_after: TrafficSession | None = None  # a further control run, with the guest after its updates
        self._running: TrafficSession | None = None

    def _warm_flows(self) -> tuple[Flow, ...]:
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
        with self.control_step():
            self._control_runs.append(self._send_for(max(self.parameters.control_run, at_least_s)))

    def _send_for(self, duration_s: float) -> TrafficSession:
        """Send test packets for some seconds, without an update."""
        settings = StreamSettings(rate=self.parameters.rate, duration_s=duration_s)
        station, flows = self.guest.topology.station, self._warm_flows()
        with TrafficSession(station, flows, settings) as session:
            session.wait_sent(Deadline(duration_s + 20, "the control run's packets to be sent"))
            session.finish()
        return session

    def silent_nics(self, netdevs: Sequence[TapNetdev]) -> tuple[str, ...]:
        """Netdevs over which no packet comes back.

        :param netdevs: all of the guest's, in the order in which it was started with them.
        """
        port = self.ports.take(len(netdevs))
        silent = []
        for number, netdev in enumerate(netdevs):
            flows = flows_between(station_end(number), guest_end(number), first_port=port + number)
            deadline = Deadline(TRAFFIC_ANSWER_S, f"answers over {netdev.identifier}")
            try:
                warm_up(self.guest.topology.station, flows, deadline)
            except DeadlineExceeded:
                silent.append(netdev.identifier)
        return tuple(silent)

    def expect_answers(self, when: str, netdevs: Sequence[TapNetdev] = ()) -> None:
        """Check that packets come back over each netdev.

        :param when: step of the test, which ends the name of the check.
        :param netdevs: as for :meth:`silent_nics`; those of the QEMU that runs the guest if empty.
        """
        netdevs = netdevs or self.guest.machine.settings.netdevs
        expected = f"round trips over each of {len(netdevs)} NICs"
        silent = self.silent_nics(netdevs)
        self.expect_empty("answers", silent, expected, "no packet comes back", when=when)

    def _measured_stream(self) -> StreamSettings:
        """Settings of the measured stream, of which a case has one: a second one would replace the figures."""
        if self.evidence.sent is not None:
            happened, advice = "the case has measured traffic already", "use one under_traffic() for all updates"
            raise UsageError("measure traffic", happened, advice)
        longest_s = self.parameters.before + LONGEST_UPDATES_S + max(self.parameters.after, LONGEST_AFTER_S)
        return StreamSettings(rate=self.parameters.rate, duration_s=longest_s)

    @contextlib.contextmanager
    def under_traffic(self, *, idle: bool = False) -> Iterator[None]:
        """Send test packets before, during and after the body; then add all figures to the evidence. Once in a case.

        :param idle: measure the load of an idle QEMU before and after, which takes 1.2 s.
        :raises UsageError: the case has such figures.
        """
        parameters, settings = self.parameters, self._measured_stream()
        with self.control_step():
            station, flows = self.guest.topology.station, self._warm_flows()
            self._watch = watch = TrafficWatch.begin(self.guest, flows, self.ports.take(1 + len(flows)), idle=idle)
            if not self.guest.updates:
                wait_filters_settled(self.guest.machine)
            state, updates = self._read_state(), len(self._notes)
            seen = view_guest(self.guest.agent)
            # late, because the tap forgets a flow after 3 s without a packet
            warm_up(station, flows, Deadline(TRAFFIC_ANSWER_S, "the guest to answer on all flows", Awaited.GUEST))
            before = read_hop_counters(self.guest) | instrument_counters(None)
        after: Counters | None = None
        drops = DropReport("the case ended before it was read")
        session = TrafficSession(station, flows, settings)
        try:
            with DropTrace() as trace, session:
                with self.control_step():
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
                except BaseException:
                    with contextlib.suppress(InstrumentError):  # the first error says what happened
                        drops = self._end_traffic(session, trace)
                    raise
                drops = self._end_traffic(session, trace)
            after, later, last = read_hop_counters(self.guest), view_guest(self.guest.agent), watch.sample_end()
            silent = self._extend_control_run(session.sent)
        except Exception:  # also of a QEMU that is gone from /proc
            with contextlib.suppress(Exception):  # figures that are known; expect_survival() records the error
                self._collect(session, before, after, drops)
            raise
        result = self._collect(session, before, after, drops)
        shares = self._add_guest_views(seen, later, result.settings.rate)
        self._check_delays(watch.updates, result)
        for check in watch.end(last):
            self.add_checks(check)
        if silent:
            raise silent
        self._compare_after_traffic(state, len(self._notes) - updates)
        if seen.nic.channels > 1:
            self.add_checks(queue_use_check(shares, min(seen.nic.channels, later.nic.channels)))

    def _add_guest_views(self, seen: GuestView, later: GuestView, rate: float) -> tuple[QueueShare, ...]:
        """Add how the guest saw the traffic; returns the packets of each queue.

        :param rate: test packets/s.
        """
        shares = queue_shares(seen.nic, later.nic)
        budget = budget_of_busiest_queue(self.evidence.budget, shares, rate)
        view = guest_view(seen, later)
        self.evidence = replace(self.evidence, guest_view=view, queue_shares=shares, budget=budget)
        return shares

    def _end_traffic(self, session: TrafficSession, trace: DropTrace) -> DropReport:
        """Stop sending, wait for late answers; returns the kernel's drops until then.

        :raises InstrumentError: the instrument died.
        """
        self._running = self._watch = None
        if session.progress().finished:
            expected = "test packets until the end of the last update, and after it"
            self.inconclusive("traffic-covers-all-updates", expected, "all packets of the stream had been sent before")
        session.finish()
        return trace.report()

    def _compare_after_traffic(self, before: Snapshot | None, updates: int) -> None:
        """Compare the states before and after the traffic: reading them would delay its packets.

        :param updates: that were carried out meanwhile.
        """
        if updates == 0 or self._between_qemus:
            return
        if updates == 1:
            self.expect_same_state(before, StatePair.UPDATE, "equivalent-after-update", "the update")
        else:
            self.expect_same_state(before, StatePair.CHAIN, "equivalent-after-chain", f"{updates} updates")

    def _extend_control_run(self, measured: int) -> DeadlineExceeded | None:
        """Run the control again when the measured run became longer than twice its control run.

        :param measured: packets of that run.
        :returns: that the guest no longer answers on all flows; the checks of the quiet NIC say more.
        """
        controlled = sum(session.sent for session in self._control_runs)
        missing = LEAST_CONTROL_SHARE * measured - controlled
        if controlled and missing > 0:
            seconds = missing / self.parameters.rate + SPARE_S
            if seconds <= LONGEST_CONTROL_RUN_S:
                try:
                    self._control_after = self._send_for(seconds)
                except DeadlineExceeded as error:
                    return error
        return None

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

        def worked_off() -> bool:
            now = session.progress()
            waiting.append(now.sent - now.answers)
            lately = waiting[-STEADY_POLLS:]
            return len(lately) == STEADY_POLLS and max(lately) - min(lately) <= few

        with contextlib.suppress(DeadlineExceeded):
            Deadline(3, "the guest to work off what waited", Awaited.GUEST).poll(worked_off, interval=0.05)
        answers = session.progress().answers + round(self.parameters.rate * seconds)
        with contextlib.suppress(DeadlineExceeded):
            session.wait_for_answers(answers, Deadline(seconds + 20, "traffic to flow between two updates"))

    def update_chain(self, count: int, *, growth: bool = True) -> None:
        """Update the guest several times under one traffic; each update has the checks of a single one.

        :param count: number of updates.
        :param growth: compare descriptors, memory and device state of the targets.
        """
        targets, recorded = [], list[RecordMainChannel]()
        with self.under_traffic():
            for _ in range(count):
                recorded += [RecordMainChannel()] if growth else []
                update = self.live_update(hooks=recorded[-1:])
                targets.append(update.source_before)  # the target before, which has run the guest for a while
                self.let_traffic_flow(BETWEEN_S)
            targets.append(view(self.guest.machine))
        if growth:
            self.add_checks(*growth_checks(targets[1:], targets[0]))
            self.expect_same_device_state([item.stream for item in recorded])

    def _collect(
        self, session: TrafficSession, before: Counters, after: Counters | None, drops: DropReport
    ) -> TrafficResult:
        """Add the figures of the traffic to the evidence.

        :param before, after: counters of the path; without ``after`` there is no ledger.
        """
        log: list[Reflection] | None = None
        overflow: int | None = None
        try:
            log, overflow = reflector_log(self.guest.agent)
            text = json.dumps({"fields": Reflection._fields, "records": log})  # without indents, which take much longer
            write_text(self.folder / "reflector.json", text, mode=0o600)
        except (GuestFailed, DeadlineExceeded, InstrumentError) as error:  # the judge accepts no figures without a log
            self.warn(error.one_line())
        result = session.result(log, reflector_drops=overflow)
        control_runs = tuple(run.result(log, reflector_drops=overflow) for run in self._control_runs)
        control_run = ControlRun(control_runs) if control_runs else None
        if self._control_after:
            later = self._control_after.result(log, reflector_drops=overflow)
            check = after_update_check(later, control_run, self.parameters.queue_length)
            self.add_checks(check)
            if check.outcome is Outcome.PASS:
                control_run = ControlRun(control_runs, later)
        self.evidence = with_traffic(self.evidence, result, control_run, self.parameters.queue_length)
        self.evidence = replace(
            self.evidence,
            parameters=replace(self.evidence.parameters, duration_s=round(result.sent / self.parameters.rate, 3)),
        )
        stops = guest_stops(self.guest.updates)
        if stops:
            figures = figures_of(self.guest.updates, parts_of(result, stops), self._notes)
            self.evidence = replace(self.evidence, per_update=figures)
        if after is not None:
            after = after | instrument_counters(result)
            ledger = make_ledger(result, count_hops(before, after), drops, stops)
            self.evidence = with_ledger(self.evidence, ledger, absent_counters(before, after), not drops.unavailable)
        packets_of(result).write(self.folder)
        frames = [frame for flow in result.flows for frame in sent_frames(flow.flow, flow.sent_ns)]
        write_pcap(self.folder / "station.pcap", [*frames, *session.frames])
        return result

    def _check_delays(self, updates: Sequence[UpdateResult], result: TrafficResult) -> None:
        """The parts of each update that have to be short on this machine, unless it is too busy for the measurement."""
        sound = all(check.outcome is Outcome.PASS for check in self.evidence.checks if check.name == INSTRUMENT_CHECK)
        floor_ms = self.evidence.instrument.control_run_interruption_ms if sound else None
        for update in updates:
            number = self.guest.updates.index(update) + 1
            locks_memory = self.guest.machine.settings.locks_memory
            checks = delay_checks(update, floor_ms, result.stalled_ms, locks_memory=locks_memory)
            self.add_checks(*(numbered_check(check, number) for check in checks))
