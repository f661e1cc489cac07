"""A battery of operations on a running guest, each of which must work after an update as it did before.

An operation that fails is repeated on a guest that was never updated: where it fails there too, it accuses no update.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from cprlib.deadline import Deadline
from cprlib.errors import (
    Awaited,
    CprlibError,
    DeadlineExceeded,
    GuestFailed,
    InstrumentError,
    QemuFailed,
    UpdateFailed,
)
from cprlib.evidence.records import Check, Outcome
from cprlib.guest.replies import NicInfo
from cprlib.linux.descriptors import read_table
from cprlib.linux.kernel_trace import Act, KernelTrace
from cprlib.linux.topology import GUEST, guest_end, station_end
from cprlib.process import kill_group
from cprlib.testing.checks import listed, without_time
from cprlib.testing.measured_case import MeasuredCase, PortAllocator
from cprlib.traffic.flow import flows_between
from cprlib.traffic.probes import Probes
from cprlib.update.running_guest import RunningGuest, running_guest

FLOWS_PER_QUEUE = 8  # four queues: one of them gets no flow in 1 of 2,500 cases; then other flows are tried
TRIES = 4
ANSWER_S, LATE_S, CONFIGURE_S = 15.0, 15.0, 20.0  # only a defect takes longer, also on a busy machine
SPREADING_KEY = "5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa6d"
QUIET_S = 0.1  # for answers that must not come


def no_update(_label: str, before_migrate: Callable[[], None]) -> None:
    """Leave the guest where it is, as a control does."""
    before_migrate()


@dataclass(slots=True)
class OperatedGuest:
    """A guest with probes on all its NICs; made by :func:`operated_guest`.

    :param used: queue pairs in use on the first NIC.
    :param trace: of the tasks that read and write the taps.
    :param boot_s: seconds from the start of the guest's kernel until it was operated.
    :param updates: carries out an update in an operation, see :meth:`update`.
    """

    guest: RunningGuest
    ports: PortAllocator
    trace: KernelTrace
    used: int
    boot_s: float
    stack: contextlib.ExitStack
    probes: list[Probes] = field(default_factory=list)
    updates: Callable[[str, Callable[[], None]], None] = no_update

    def update(self, label: str, before_migrate: Callable[[], None] = lambda: None) -> None:
        """Update the guest in the middle of an operation; a control only does what precedes ``migrate``.

        :param label: for the names of the update's checks.
        :param before_migrate: called right before ``migrate``, when the target is ready.
        """
        self.updates(label, before_migrate)

    @property
    def vhost(self) -> bool:
        """Whether vhost carries the packets."""
        return self.guest.machine.settings.netdevs[0].vhost

    @property
    def rss(self) -> bool:
        """Whether QEMU chooses the receive queues by a hash (RSS)."""
        return any("rss=on" in word for word in self.guest.machine.settings.extra)

    @property
    def queues(self) -> int:
        """Queue pairs of the first NIC."""
        return self.guest.machine.settings.netdevs[0].queues

    def queues_in_use(self, number: int) -> int:
        """Queue pairs in use on NIC ``number``; those of further NICs are all in use."""
        return self.guest.machine.settings.netdevs[number].queues if number else self.used

    def open_probes(self) -> None:
        """Open sockets on new source ports: several for each queue pair of each NIC."""
        for opened in self.probes:
            opened.__exit__()
        self.probes.clear()
        for number, netdev in enumerate(self.guest.machine.settings.netdevs):
            ends = station_end(number), guest_end(number)
            count = FLOWS_PER_QUEUE * netdev.queues if netdev.queues > 1 else 2
            flows = flows_between(*ends, count=count, first_port=self.ports.take(count))
            self.probes.append(self.stack.enter_context(Probes(self.guest.topology.station, flows)))

    def nics(self) -> tuple[NicInfo, ...]:
        """The guest's NICs, in the order of the netdevs.

        :raises GuestFailed: it does not have all of them.
        """
        found = {nic.name: nic for nic in self.guest.agent.network().nics}
        names = [f"eth{number}" for number in range(len(self.probes))]
        if missing := [name for name in names if name not in found]:
            raise GuestFailed(f"look at the guest's {missing[0]}", f"it has {', '.join(found) or 'no NIC'}")
        return tuple(found[name] for name in names)

    def wait_nic(self) -> None:
        """Wait until the guest has its first NIC again, and configure it as at boot.

        :raises DeadlineExceeded: it does not appear.
        """
        agent, end = self.guest.agent, GUEST
        deadline = Deadline(CONFIGURE_S, "the guest to have its NIC again", Awaited.GUEST)
        deadline.poll(lambda: any(nic.name == "eth0" for nic in agent.network().nics) or None, 0.05)
        agent.configure(f"{end.ipv4}/24", f"{end.ipv6}/64")
        self.configure_queues()

    def configure_queues(self) -> None:
        """Let the guest use its queue pairs, with an RSS key that spreads flows of consecutive ports over them.

        The guest's own key is random: 1 of 10 keys sends 32 such flows to two of four queues or to one.
        """
        if self.queues > 1:
            self.guest.agent.set_queue_pairs(self.used)
        if self.rss:
            self.guest.agent.set_rss(SPREADING_KEY)

    def wait_answers(self, *numbers: int) -> None:
        """Wait until NICs answer on every flow.

        :param numbers: of the NICs; all of them when empty.
        :raises DeadlineExceeded: one does not.
        """
        for number in numbers or range(len(self.probes)):
            self.probes[number].wait_answers(
                Deadline(ANSWER_S, f"the guest to answer on eth{number}", Awaited.GUEST), 1
            )

    def wait_others(self) -> None:
        """Wait until the NICs answer on which no operation acts."""
        for number in range(1, len(self.probes)):
            self.wait_answers(number)

    def answers_while(self, what: str) -> list[str]:
        """What is wrong while the first NIC must be silent, and the others must not.

        :param what: why it is silent, for the text.
        """
        sent = self.probes[0].send()
        answered = sent - self.probes[0].count_missing(Deadline(QUIET_S, "answers"))
        self.wait_others()
        return [f"{answered} packets were answered while {what}"] if answered else []

    def problems(self) -> list[str]:
        """What is wrong with the guest's traffic: silent flows, lost packets, idle queues, a carrier that is not vhost.

        :raises GuestFailed, DeadlineExceeded: the guest's agent does not answer.
        """
        for _ in range(TRIES):
            before = self.nics()
            try:
                self.wait_answers()
            except DeadlineExceeded as error:
                return [error.happened]
            since_ns = time.time_ns()
            sent = [probes.send() for probes in self.probes]
            lost = [probes.count_missing(Deadline(LATE_S, "the last answers")) for probes in self.probes]
            found = [f"eth{number}: {lost[number]} of {sent[number]} packets lost" for number in range(len(sent))]
            found = [text for text, missing in zip(found, lost, strict=True) if missing]
            found += self._other_carriers(since_ns)
            idle = self._idle_queues(before, self.nics())
            if found or not idle:
                return found
            self.open_probes()  # flows choose their queues by hash
        return idle

    def _idle_queues(self, before: Sequence[NicInfo], after: Sequence[NicInfo]) -> list[str]:
        """Queues in use that carried nothing between two readings; none where the guest does not count by queue."""
        return [
            f"{now.name}: queue {name} carried nothing"
            for number, (earlier, now) in enumerate(zip(before, after, strict=True))
            for name, count in sorted(now.queue_packets.items())
            if int(name[2:]) < self.queues_in_use(number) and count == earlier.queue_packets.get(name, 0)
        ]

    def _other_carriers(self, since_ns: int) -> list[str]:
        """Tasks other than vhost's workers that read or write a tap of a guest with vhost.

        :raises InstrumentError: the kernel was not traced.
        """
        report = self.trace.report()
        if not self.vhost:
            return []
        if why := report.why_not(Act.TAP_READ, Act.TAP_WRITTEN):
            raise InstrumentError("see who carries the guest's packets", why)
        worker = f"vhost-{self.guest.machine.pid}"
        carriers = [report.at_tap(act, since_ns=since_ns) for act in (Act.TAP_READ, Act.TAP_WRITTEN)]
        if all(set(seen) == {worker} for seen in carriers):
            return []
        return [f"not only {worker} carries the packets: they are read by {carriers[0]}, written by {carriers[1]}"]


@contextlib.contextmanager
def operated_guest(guest: RunningGuest, ports: PortAllocator, used: int) -> Iterator[OperatedGuest]:
    """Open probes on a guest and let it use some of its queue pairs."""
    boot_s = guest.agent.ping().boottime_ns / 1e9
    with contextlib.ExitStack() as stack, KernelTrace() as trace:
        subject = OperatedGuest(guest, ports, trace, used, boot_s, stack)
        subject.configure_queues()
        subject.open_probes()
        yield subject


@dataclass(frozen=True, slots=True)
class Operation:
    """Something that a guest or its management does at any time.

    :param name: in kebab-case; the names of its checks begin with it.
    :param works: how success is seen, besides traffic on every queue afterwards.
    :param run: does it, undoes it, and returns what did not work.
    :param applies: whether the guest has what it needs.
    """

    name: str
    works: str
    run: Callable[[OperatedGuest], list[str]]
    applies: Callable[[OperatedGuest], bool] = lambda _subject: True


@dataclass(frozen=True, slots=True)
class Attempt:
    """One operation in one situation.

    :param problems: what did not work; :param unknown: why nothing can be said.
    :param took_ms: with the look at the guest's traffic afterwards.
    """

    operation: Operation
    situation: str
    problems: tuple[str, ...] = ()
    unknown: str = ""
    took_ms: float = 0.0

    @property
    def name(self) -> str:
        """Name of its check."""
        return f"{self.operation.name}-{self.situation}"


def attempt_all(subject: OperatedGuest, situation: str, operations: Sequence[Operation]) -> tuple[list[Attempt], bool]:
    """Run operations one after the other; after one that leaves the guest silent, nothing is known of the others.

    :returns: also whether the guest's traffic is as it has to be in the end.
    """
    attempts: list[Attempt] = []
    unknown = ""
    for operation in operations:
        if not operation.applies(subject):
            continue
        if unknown:
            attempts.append(Attempt(operation, situation, unknown=unknown))
            continue
        attempt, answers = _attempt(subject, situation, operation)
        attempts.append(attempt)
        if not answers:
            unknown = f"the guest's traffic failed after {operation.name}"
    return attempts, not unknown


def _attempt(subject: OperatedGuest, situation: str, operation: Operation) -> tuple[Attempt, bool]:
    """Run an operation and look at the guest's traffic; also returns whether that is as it has to be."""
    first = subject.guest.machine
    said, begun = len(first.output), time.monotonic()
    problems: list[str] = []
    unknown, answers = "", False
    for step in (operation.run, OperatedGuest.problems):
        answers = False
        try:
            found = step(subject)
            problems += found
            answers = not found
        except (UpdateFailed, QemuFailed, GuestFailed) as error:
            problems.append(error.one_line())
        except DeadlineExceeded as error:
            if error.awaited is Awaited.HARNESS:
                unknown = error.one_line()
            else:
                problems.append(error.one_line())
        except InstrumentError as error:
            unknown = error.one_line()
        machine = subject.guest.machine  # an operation may update the guest
        if (status := machine.exit_status()) is not None:
            problems = [machine.died(f"{operation.name} {situation}", status).one_line()]
            break
    machine = subject.guest.machine
    output = machine.output[said:] if machine is first else machine.output
    if problems and (words := output.strip().splitlines()):
        problems.append(f"QEMU said: {without_time(words[-1])}")
    took_ms = (time.monotonic() - begun) * 1000
    return Attempt(operation, situation, tuple(problems), "" if problems else unknown, took_ms), answers


def check_of(attempt: Attempt, without_update: str) -> Check:
    """The check of an operation.

    :param without_update: what fails on a guest that was never updated, where that was tried; empty when nothing did.
    """
    operation = attempt.operation
    expected = f"{operation.works}; all queues answer afterwards"
    if attempt.unknown:
        return Check(attempt.name, Outcome.INCONCLUSIVE, expected, attempt.unknown)
    found = listed(attempt.problems)
    if found and without_update:
        reason = f"{found}; on a guest without an update: {without_update}"
        return Check(attempt.name, Outcome.INCONCLUSIVE, expected, reason)
    meaning = f"{operation.name.replace('-', ' ')} {attempt.situation.replace('-', ' ')}: {found}"
    return Check.of(attempt.name, not found, expected, found or f"it works ({attempt.took_ms:.0f} ms)", meaning)


def _descriptors(subject: OperatedGuest) -> dict[str, int]:
    return read_table(subject.guest.machine.pid).count_by_kind()


def _differences(before: dict[str, int], after: dict[str, int]) -> tuple[str, ...]:
    kinds = sorted({*before, *after})
    return tuple(
        f"{kind}: {before.get(kind, 0)}, then {after.get(kind, 0)}"
        for kind in kinds
        if before.get(kind, 0) != after.get(kind, 0)
    )


ANSWERS = Operation("answers", "every NIC answers before the first operation", lambda _subject: [])


class Battery:
    """Runs operations on a case's guest and adds a check for each; call :meth:`conclude` at the end.

    The guest has not been updated yet when the battery is made: a control guest gets the same settings.
    """

    def __init__(self, case: MeasuredCase, subject: OperatedGuest) -> None:
        self._case = case
        self._subject = subject
        self._settings = subject.guest.machine.settings
        self._attempts: list[Attempt] = []

    def run(self, situation: str, operations: Sequence[Operation]) -> bool:
        """Run operations one after the other, each on a guest that answers; the rest is inconclusive after one of them.

        :param situation: for the checks' names: ``after-update``.
        :returns: whether the guest still answers.
        """
        subject = self._subject
        before = _descriptors(subject)
        attempts, answers = attempt_all(subject, situation, (ANSWERS, *operations))
        self._attempts += attempts
        if not answers:
            return False
        leak = Operation("descriptors", "as many descriptors of each kind as before the operations", ANSWERS.run)
        self._attempts.append(Attempt(leak, situation, _differences(before, _descriptors(subject))))
        return True

    def conclude(self) -> None:
        """Add a check for each operation; repeat those that failed on a guest that was never updated."""
        last = max((index for index, item in enumerate(self._attempts) if item.problems), default=-1)
        control = self._control([item.operation for item in self._attempts[: last + 1]]) if last >= 0 else {}
        checks = [check_of(item, control.get(item.operation.name, "")) for item in self._attempts]
        self._case.add_checks(*checks)

    def _control(self, operations: Sequence[Operation]) -> dict[str, str]:
        """What fails on a guest that was never updated: the same operations in the same order, each once.

        :returns: the reason by name of the operation.
        """
        case, first = self._case, self._case.guest
        kill_group(first.machine.process)  # it would disturb the trace of the taps
        folder = case.folder / "control"
        folder.mkdir()
        once = tuple({operation.name: operation for operation in operations}.values())
        try:
            with (
                running_guest(self._settings, first.mechanism, folder, case.parameters.queue_length) as guest,
                operated_guest(guest, PortAllocator(), self._subject.used) as subject,
            ):
                before = _descriptors(subject)
                attempts, _ = attempt_all(subject, "control", [item for item in once if item.name != "descriptors"])
                leaked = _differences(before, _descriptors(subject))
        except CprlibError as error:
            return {operation.name: error.one_line() for operation in once}
        found = {item.operation.name: listed(item.problems) or item.unknown for item in attempts}
        return found | {"descriptors": listed(leaked)}
