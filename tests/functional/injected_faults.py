"""Short runs with a known fault on one guest, and the comparison of the report of each with what was injected."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from cprlib.deadline import Deadline
from cprlib.errors import Awaited, DeadlineExceeded
from cprlib.evidence.measured_traffic import with_ledger
from cprlib.guest.replies import ReflectorCounters
from cprlib.qemu.machine import Machine
from cprlib.testing.measured_case import MeasuredCase, reflector_log
from cprlib.traffic.figures import Direction
from cprlib.traffic.flow import StreamSettings, flows_between
from cprlib.traffic.hops import count_hops
from cprlib.traffic.kernel_drops import DropReport, DropTrace
from cprlib.traffic.ledger import SEQUENCES_KEPT, GuestStop, Ledger, make_ledger
from cprlib.traffic.probes import TRAFFIC_ANSWER_S, warm_up
from cprlib.traffic.result import TrafficResult
from cprlib.traffic.session import TrafficSession
from cprlib.update.guest_traffic import Counters, instrument_counters, read_hop_counters
from cprlib.update.running_guest import RunningGuest

PORTS = 9000  # then reused: the reflector is reset before each run
RATE = 1000.0  # packets/s
SENT_S, EVENT_S = 30.0, 5.0
LINGER_S = 0.15  # for duplicates beyond the answers waited for


@dataclass(frozen=True, slots=True)
class PathFault:
    """What the report of one fault must show; all other figures must be 0.

    :param hop: where packets are lost; empty when none are.
    :param lost: sequence numbers of the lost packets, or how many are lost where only that is known in advance.
    :param duplicates, reordered: number of packets.
    :param reason, moment: text that the ledger's row must contain.
    """

    direction: Direction
    hop: str = ""
    lost: tuple[int, ...] | int = ()
    duplicates: int = 0
    reordered: int = 0
    reason: str = ""
    moment: str = "without an update"

    @property
    def count(self) -> int:
        """Packets lost."""
        return self.lost if isinstance(self.lost, int) else len(self.lost)


@dataclass(frozen=True, slots=True)
class PathFaultRun:
    """The outcome of one run.

    :param ledger_by_counters: the ledger without the kernel's drop events, as on a kernel without that tracepoint.
    :param deltas: differences of all counters of the hops over the run.
    :param reflector: the session-reflector's counters.
    """

    result: TrafficResult
    ledger: Ledger
    ledger_by_counters: Ledger
    deltas: dict[str, int]
    reflector: ReflectorCounters

    def differences(self, injected: PathFault) -> str:
        """The differences from what was injected, as text; empty without any."""
        by_counters = [
            f"{text} by counters alone" for text in self._rows(self.ledger_by_counters, replace(injected, reason=""))
        ]
        return "; ".join([*self._counts(injected), *self._rows(self.ledger, injected), *by_counters])

    def _counts(self, injected: PathFault) -> Iterator[str]:
        result, forward = self.result, injected.direction is Direction.FORWARD
        expected = {"lost": injected.count, "duplicated": injected.duplicates, "reordered": injected.reordered}
        seen = {
            "lost": (result.lost_forward, result.lost_return),
            "duplicated": (result.duplicates.forward, result.duplicates.return_),
            "reordered": (result.reordered.forward, result.reordered.return_),
        }
        for kind, number in expected.items():
            pair = (number, 0) if forward else (0, number)
            if seen[kind] != pair:
                yield f"{kind} {seen[kind]} instead of {pair} (forward, return)"
        if result.undetermined:
            yield f"{result.undetermined} packets without a direction"
        missing = tuple(
            number for flow in result.flows for number in ((flow.forward if forward else flow.returning).missing or ())
        )
        if not isinstance(injected.lost, int) and tuple(sorted(missing)) != injected.lost:
            yield f"numbers {_short(sorted(missing))} are missing instead of {_short(injected.lost)}"

    @staticmethod
    def _rows(ledger: Ledger, injected: PathFault) -> Iterator[str]:
        right = [row for row in ledger.rows if (row.hop, row.direction) == (injected.hop, injected.direction)]
        for row in ledger.rows:
            if row not in right:
                yield f"{row.count} placed at {row.hop} {row.direction} ({row.reason})"
            elif injected.reason not in row.reason or injected.moment not in row.moment:
                yield f"{row.count} placed {row.moment} for {row.reason}"
        if sum(row.count for row in right) != injected.count:
            yield f"{sum(row.count for row in right)} of {injected.count} placed at {injected.hop}"
        listed = sorted(number for row in right for number in row.sequences)
        if isinstance(injected.lost, int) or len(right) != 1:
            return
        if listed != sorted(injected.lost)[:SEQUENCES_KEPT]:
            yield f"the ledger lists {_short(listed)}"


def _short(numbers: Sequence[int]) -> str:
    return f"{list(numbers[:6])}{' and more' if len(numbers) > 6 else ''}"


class StoppedGuest:
    """Stops the VM while a stream is sent."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._times_ns: list[int] = []

    def stop(self) -> None:
        """Stop the VM."""
        self._execute("stop", "STOP")

    def resume_when_sent(self, session: TrafficSession) -> None:
        """Wait until the stream is sent, then resume the VM."""
        session.wait_sent(Deadline(SENT_S, "the stream to be sent"))
        self._execute("cont", "RESUME")

    def stops(self) -> tuple[GuestStop, ...]:
        """The times of QEMU's STOP and RESUME events."""
        stop, resume = self._times_ns
        return (GuestStop(stop, resume),)

    def _execute(self, command: str, event: str) -> None:
        qmp = self._machine.qmp
        seen = len(qmp.events)
        qmp.execute(command)
        deadline = Deadline(EVENT_S, event, Awaited.QEMU)
        self._times_ns.append(qmp.wait_event(event, deadline=deadline, after=seen).time_ns)


class PathFaultBench:
    """Makes runs on one guest, without an update, each with its own ports."""

    packets = 240  # of each run

    def __init__(self, case: MeasuredCase) -> None:
        self.case = case
        self._runs = 0
        self._first_port = case.ports.take(PORTS)
        self._injected: dict[str, str] = {}  # by name of the fault; of its last run
        self._differences: dict[str, list[str]] = {}  # one for each run; empty where the report is exact

    @property
    def next_port(self) -> int:
        """The first source port of the next run."""
        return self._first_port + self._runs % PORTS

    @property
    def guest(self) -> RunningGuest:
        """The guest that receives the packets."""
        return self.case.guest

    @contextlib.contextmanager
    def tap_queue_length(self, packets: int) -> Iterator[None]:
        """Shorten the tap's queues. No packets may be in flight at the beginning and end of the body."""
        guest = self.guest
        guest.topology.set_tap_queue_length(guest.tap, packets)
        try:
            yield
        finally:
            guest.topology.set_tap_queue_length(guest.tap, self.case.parameters.queue_length)

    def run(
        self,
        *,
        answers: int | None = None,
        packets: int | None = None,
        flows: int = 1,
        prepare: Callable[[], None] | None = None,
        during: Callable[[TrafficSession], None] | None = None,
        stops: Callable[[], Sequence[GuestStop]] = tuple,
        expecting: Callable[[], int] | None = None,
    ) -> PathFaultRun:
        """Send a stream and compute its figures and ledger.

        :param answers: answers to wait for, including copies; as many as packets by default.
        :param packets: the bench's number by default; :param flows: number of flows, used in turn.
        :param prepare: called before the first packet, after the counters were read.
        :param during: called while the stream is sent.
        :param stops: called after the run: when the guest was stopped.
        :param expecting: called after everything is sent: the number of answers to wait for, instead of ``answers``.
        """
        guest = self.case.guest
        count = self.packets if packets is None else packets
        stream = flows_between(count=flows, first_port=self.next_port)
        self._runs += flows
        if (self.case.evidence.parameters.queues or 1) > 1:
            warm_up(guest.topology.station, stream, Deadline(TRAFFIC_ANSWER_S, "the guest to answer", Awaited.GUEST))
        guest.agent.reset_reflector()
        before = read_hop_counters(guest) | instrument_counters(None)
        settings = StreamSettings(RATE, count)
        if prepare is not None:
            prepare()
        with DropTrace() as trace, TrafficSession(guest.topology.station, stream, settings, keep_frames=0) as session:
            if during is not None:
                during(session)
            session.wait_sent(Deadline(SENT_S, "the stream to be sent"))
            awaited = expecting() if expecting is not None else count if answers is None else answers
            with contextlib.suppress(DeadlineExceeded):  # missing answers are counted below
                session.wait_for_answers(awaited, Deadline(TRAFFIC_ANSWER_S, "the answers"))
            session.finish(linger_s=LINGER_S)
            drops = trace.report()
        log, dropped = reflector_log(guest.agent)
        result = session.result(log, reflector_drops=dropped)
        after = read_hop_counters(guest) | instrument_counters(result)
        hops, stopped = count_hops(before, after), stops()
        ledger = make_ledger(result, hops, drops, stopped)
        by_counters = make_ledger(result, hops, DropReport("not used"), stopped)
        self.case.evidence = with_ledger(self.case.evidence, ledger, (), not drops.unavailable)
        return PathFaultRun(result, ledger, by_counters, _deltas(before, after), guest.agent.reflector())

    def compare(self, name: str, run: PathFaultRun, injected: PathFault, *further: str) -> None:
        """Count whether a run reports exactly what was injected.

        :param name: of the fault, in kebab-case.
        :param further: other differences; empty texts for none.
        """
        expected = [f"{injected.count} lost at {injected.hop} {injected.direction}"] if injected.count else []
        expected += [f"{injected.duplicates} duplicated {injected.direction}"] if injected.duplicates else []
        expected += [f"{injected.reordered} reordered {injected.direction}"] if injected.reordered else []
        difference = "; ".join(filter(None, [run.differences(injected), *further]))
        self._injected[name] = ", ".join(expected) or "nothing lost"
        self._differences.setdefault(name, []).append(difference)

    def add_checks(self) -> None:
        """Add a check of each fault to the case."""
        for name, differences in self._differences.items():
            wrong, injected = [text for text in differences if text], self._injected[name]
            expected = f"{injected}, as injected, in each of {len(differences)} runs"
            meaning = f"injected: {injected}; {len(wrong)} of {len(differences)} runs report something else"
            self.case.expect_empty(name, wrong, expected, meaning)


def _deltas(before: Counters, after: Counters) -> dict[str, int]:
    return {
        name: last - first
        for name, last in after.items()
        if last is not None and (first := before.get(name)) is not None
    }
