"""Short runs with a known fault on one guest, and whether what is reported of each is exactly what was injected."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from cprlib.deadline import Deadline
from cprlib.errors import DeadlineExceeded
from cprlib.evidence.measured_traffic import with_ledger
from cprlib.guest.packet_log import reflections
from cprlib.guest.replies import ReflectorCounters
from cprlib.qemu.machine import Machine
from cprlib.testing.measured_case import MeasuredCase
from cprlib.traffic.figures import Direction
from cprlib.traffic.flow import Flow, StreamSettings, flows_between
from cprlib.traffic.hops import count_hops
from cprlib.traffic.kernel_drops import DropReport, DropTrace
from cprlib.traffic.ledger import SEQUENCES_KEPT, Ledger, Moments, make_ledger
from cprlib.traffic.packet_records import Reflection
from cprlib.traffic.probes import warm_up
from cprlib.traffic.result import TrafficResult
from cprlib.traffic.session import TrafficSession
from cprlib.update.hop_counters import Counters, instrument_counters, read_hop_counters
from cprlib.update.running_guest import RunningGuest

FIRST_PORT = 23000
PORTS = 9000  # then from the start again: the reflector has forgotten its sessions
ANSWERS_S = 10.0
SENT_S, EVENT_S = 30.0, 5.0
QUIET_S = 0.15  # copies beyond the answers waited for


@dataclass(frozen=True, slots=True)
class Injected:
    """What is to be found of one fault; all figures but these have to be 0.

    :param hop: where packets are lost; empty when none are.
    :param lost: numbers of lost packets; None when only :attr:`lost_count` is known beforehand.
    :param copies, late: packets duplicated and reordered.
    :param reason: what the row's reason has to contain.
    :param moment: what the row's moment has to contain.
    """

    direction: Direction
    hop: str = ""
    lost: tuple[int, ...] | None = ()
    lost_count: int | None = None
    copies: int = 0
    late: int = 0
    reason: str = ""
    moment: str = "without an update"

    @property
    def count(self) -> int:
        """Packets lost."""
        return self.lost_count if self.lost is None else len(self.lost)  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class FaultRun:
    """What one run showed.

    :param blind: the ledger without the kernel's drop events, as on a kernel that has no such tracepoint.
    :param moved: differences of all counters of the hops over the run.
    :param reflector: the session-reflector's own account.
    """

    result: TrafficResult
    ledger: Ledger
    blind: Ledger
    moved: dict[str, int]
    reflector: ReflectorCounters

    def differs(self, injected: Injected) -> str:
        """How it differs from what was injected, in words; empty when it does not."""
        blind = [f"{text} by counters alone" for text in self._rows(self.blind, replace(injected, reason=""))]
        return "; ".join([*self._counts(injected), *self._rows(self.ledger, injected), *blind])

    def _counts(self, injected: Injected) -> Iterator[str]:
        result, forward = self.result, injected.direction is Direction.FORWARD
        expected = {"lost": injected.count, "duplicated": injected.copies, "reordered": injected.late}
        seen = {
            "lost": (result.lost_forward, result.lost_return),
            "duplicated": (result.duplicates.forward, result.duplicates.return_),
            "reordered": (result.reordered.forward, result.reordered.return_),
        }
        for word, number in expected.items():
            wanted = (number, 0) if forward else (0, number)
            if seen[word] != wanted:
                yield f"{word} {seen[word]} instead of {wanted} (forward, return)"
        if result.undetermined:
            yield f"{result.undetermined} packets without a direction"
        missing = tuple(
            number for flow in result.flows for number in ((flow.forward if forward else flow.returning).missing or ())
        )
        if injected.lost is not None and tuple(sorted(missing)) != injected.lost:
            yield f"numbers {_short(sorted(missing))} are missing instead of {_short(injected.lost)}"

    @staticmethod
    def _rows(ledger: Ledger, injected: Injected) -> Iterator[str]:
        right = [row for row in ledger.rows if (row.hop, row.direction) == (injected.hop, injected.direction)]
        for row in ledger.rows:
            if row not in right:
                yield f"{row.count} placed at {row.hop} {row.direction} ({row.reason})"
            elif injected.reason not in row.reason or injected.moment not in row.moment:
                yield f"{row.count} placed {row.moment} for {row.reason}"
        if sum(row.count for row in right) != injected.count:
            yield f"{sum(row.count for row in right)} of {injected.count} placed at {injected.hop}"
        listed = sorted(number for row in right for number in row.sequences)
        if injected.lost is not None and len(right) == 1 and listed != sorted(injected.lost)[:SEQUENCES_KEPT]:
            yield f"the ledger lists {_short(listed)}"


def _short(numbers: Sequence[int]) -> str:
    return f"{list(numbers[:6])}{' and more' if len(numbers) > 6 else ''}"


@dataclass(slots=True)
class Tally:
    """How often a fault was found exactly; one check in the end."""

    name: str
    found: int = 0
    tried: int = 0
    examples: list[str] = field(default_factory=list)
    injected: str = ""

    def add(self, difference: str, injected: str) -> None:
        """Count one run."""
        self.tried += 1
        self.injected = injected
        if difference:
            self.examples.append(difference)
        else:
            self.found += 1


class StoppedGuest:
    """A guest whose VM is stopped while a stream is sent."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._moments: list[int] = []

    def stop(self) -> None:
        """Stop the VM."""
        self._execute("stop", "STOP")

    def resume_when_sent(self, session: TrafficSession) -> None:
        """Wait until the stream is sent, and let the VM run."""
        session.wait_sent(Deadline(SENT_S, "the stream to be sent"))
        self._execute("cont", "RESUME")

    def moments(self) -> tuple[Moments, ...]:
        """When it stood still, in QEMU's words."""
        stop, resume = self._moments
        return (Moments(stop, resume),)

    def _execute(self, command: str, event: str) -> None:
        qmp = self._machine.qmp
        seen = len(qmp.events)
        qmp.execute(command)
        self._moments.append(qmp.wait_event({event}, Deadline(EVENT_S, event), after=seen).time_ns)


class FaultBench:
    """Runs one after another on one guest, without an update, each with ports of its own.

    :param packets: of each run; :param rate: packets/s.
    """

    def __init__(self, case: MeasuredCase, *, packets: int = 240, rate: float = 1000.0) -> None:
        self.case = case
        self.packets = packets
        self.rate = rate
        self._runs = 0
        self._tallies: dict[str, Tally] = {}

    @property
    def next_port(self) -> int:
        """The source port that the next run will have."""
        return FIRST_PORT + self._runs % PORTS

    @property
    def guest(self) -> RunningGuest:
        """The guest that the runs go to."""
        return self.case.guest

    @contextlib.contextmanager
    def tap_queues_of(self, packets: int) -> Iterator[None]:
        """The tap keeps only so many packets per queue; nothing may be under way at either end of the body."""
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
        moments: Callable[[], Sequence[Moments]] = tuple,
        expecting: Callable[[], int] | None = None,
    ) -> FaultRun:
        """Send a stream and put the figures together.

        :param answers: answers to wait for, copies included; as many as packets by default.
        :param packets: the bench's own number by default; :param flows: that take turns.
        :param prepare: called before the first packet, after the counters were read.
        :param during: called while the stream is being sent.
        :param moments: asked for afterwards: when the guest stood still.
        :param expecting: asked for the number of answers once everything is sent, instead of ``answers``.
        """
        guest = self.case.guest
        count = self.packets if packets is None else packets
        streams = flows_between(count=flows, first_port=self.next_port)
        self._runs += flows
        if (self.case.evidence.parameters.queues or 1) > 1:
            warm_up(guest.topology.station, streams, Deadline(ANSWERS_S, "the guest to answer"))
        guest.agent.reset_reflector()
        before = read_hop_counters(guest) | instrument_counters(None)
        settings = StreamSettings(self.rate, count)
        if prepare is not None:
            prepare()
        with DropTrace() as trace, TrafficSession(guest.topology.station, streams, settings, keep_frames=0) as session:
            if during is not None:
                during(session)
            session.wait_sent(Deadline(SENT_S, "the stream to be sent"))
            wanted = expecting() if expecting is not None else count if answers is None else answers
            with contextlib.suppress(DeadlineExceeded):  # what did not come is counted below
                session.wait_for_answers(wanted, Deadline(ANSWERS_S, "the answers"))
            session.finish(linger_s=QUIET_S)
            drops = trace.report()
        counters = guest.agent.reflector()
        result = session.result(self._log(streams, counters), reflector_drops=counters.socket_drops)
        after = read_hop_counters(guest) | instrument_counters(result)
        hops, stood_still = count_hops(before, after), moments()
        ledger = make_ledger(result, hops, drops, stood_still)
        blind = make_ledger(result, hops, DropReport(False, "left out on purpose"), stood_still)
        self.case.evidence = with_ledger(self.case.evidence, ledger, (), drops.available)
        return FaultRun(result, ledger, blind, _moved(before, after), counters)

    def _log(self, flows: Sequence[Flow], counters: ReflectorCounters) -> list[Reflection]:
        ours = {(flow.source_port, flow.ssid) for flow in flows}
        unmeasured = 0  # no flow has this port
        peers = [
            (item.address, item.port if (item.port, item.ssid) in ours else unmeasured) for item in counters.sessions
        ]
        return list(reflections(self.case.guest.agent.reflector_log(), peers))

    def compare(self, name: str, run: FaultRun, injected: Injected, *further: str) -> None:
        """Count whether a run shows exactly what was injected.

        :param name: of the fault, in kebab-case.
        :param further: other differences found, empty ones for none.
        """
        words = [f"{injected.count} lost at {injected.hop} {injected.direction}"] if injected.count else []
        words += [f"{injected.copies} copied {injected.direction}"] if injected.copies else []
        words += [f"{injected.late} late {injected.direction}"] if injected.late else []
        difference = "; ".join(filter(None, [run.differs(injected), *further]))
        self._tallies.setdefault(name, Tally(name)).add(difference, ", ".join(words) or "nothing lost")

    def conclude(self) -> None:
        """Make a check of each fault."""
        for tally in self._tallies.values():
            self.case.expect(
                tally.name,
                tally.found == tally.tried,
                f"{tally.injected}, as injected, in each of {tally.tried} runs",
                f"in {tally.found} of {tally.tried} runs" + "".join(f"; {text}" for text in tally.examples[:3]),
                f"injected: {tally.injected}; reported otherwise in {tally.tried - tally.found} of {tally.tried} runs: "
                + "; ".join(tally.examples[:3]),
            )


def _moved(before: Counters, after: Counters) -> dict[str, int]:
    return {
        name: last - first
        for name, last in after.items()
        if last is not None and (first := before.get(name)) is not None
    }
