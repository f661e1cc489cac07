"""A guest that operations act on, with probes on all its NICs, and what is wrong with its traffic."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from cprlib.deadline import Deadline
from cprlib.errors import Awaited, DeadlineExceeded, GuestFailed
from cprlib.guest.agent import AgentConnection
from cprlib.guest.replies import GUEST_INTERFACE, NicInfo
from cprlib.linux.kernel_trace import KernelTrace
from cprlib.linux.topology import Topology, guest_end, station_end
from cprlib.qemu.machine import Machine
from cprlib.qemu.nic_state import RSS, Facts
from cprlib.testing.nic_view import read_tap_view
from cprlib.traffic.flow import PortAllocator, flows_between
from cprlib.traffic.probes import TRAFFIC_ANSWER_S, Probes
from cprlib.update.guest_traffic import spread_flows
from cprlib.update.running_guest import RunningGuest

FLOWS_PER_QUEUE = 8  # four queues: one of them gets no flow in 1 of 2,500 cases; then other flows are tried
TRIES = 4
LATE_S, CONFIGURE_S = 15.0, 20.0  # only a defect takes longer, also on a busy machine
QUIET_S = 0.5  # for answers that must not come, and come late on a busy machine


class Updater:
    """Updates a guest in the middle of an operation; this one leaves it where it is, as a control does."""

    def live_update(self, label: str, before_migrate: Callable[[], None] = lambda: None) -> None:  # noqa: ARG002
        """Update the guest.

        :param label: begins the names of the update's checks.
        :param before_migrate: called right before ``migrate``, when the target is ready.
        """
        before_migrate()

    def wait_announced(self) -> None:
        """Wait until the guest has announced itself after the latest update.

        Until then Linux may block for ever when its interface is set down (docs/findings.md).
        """

    def fail_update(self, label: str) -> None:
        """Begin an update of the guest that fails.

        :param label: begins the names of its checks.
        """


@dataclass(slots=True)
class OperatedGuest:
    """A guest with probes on all its NICs; made by :func:`operated_guest`.

    :param used: queue pairs in use on the first NIC.
    :param trace: of the tasks that read and write the taps.
    :param boot_s: seconds from the start of the guest's kernel until it was operated.
    :param updater: for operations in the middle of which the guest is updated.
    """

    running_guest: RunningGuest
    ports: PortAllocator
    trace: KernelTrace
    used: int
    boot_s: float
    stack: contextlib.ExitStack
    updater: Updater
    probes: list[Probes] = field(default_factory=list)

    @property
    def machine(self) -> Machine:
        """The QEMU that runs the guest now."""
        return self.running_guest.machine

    @property
    def agent(self) -> AgentConnection:
        return self.running_guest.agent

    @property
    def topology(self) -> Topology:
        return self.running_guest.topology

    @property
    def vhost(self) -> bool:
        """Whether vhost carries the packets."""
        return self.machine.settings.netdevs[0].vhost

    @property
    def rss(self) -> bool:
        """Whether QEMU chooses the receive queues by a hash (RSS)."""
        return self.agent.network().nic().agreed_on(RSS)

    @property
    def queues(self) -> int:
        """Queue pairs of the first NIC."""
        return self.machine.settings.netdevs[0].queues

    def queues_in_use(self, number: int) -> int:
        """Queue pairs in use on NIC ``number``; those of further NICs are all in use."""
        return self.machine.settings.netdevs[number].queues if number else self.used

    def tap_facts(self) -> Facts:
        """The kernel's side of the first NIC's tap: offloads, and how many of QEMU's queues have what."""
        return read_tap_view(self.topology, self.machine).facts()

    def open_probes(self) -> None:
        """Open sockets on new source ports: several for each queue pair of each NIC."""
        for opened in self.probes:
            opened.close()
        self.probes.clear()
        for number, netdev in enumerate(self.machine.settings.netdevs):
            ends = station_end(number), guest_end(number)
            count = FLOWS_PER_QUEUE * netdev.queues if netdev.queues > 1 else 2
            flows = flows_between(*ends, count=count, first_port=self.ports.take(count))
            self.probes.append(self.stack.enter_context(Probes(self.topology.station, flows)))

    def nics(self) -> tuple[NicInfo, ...]:
        """The guest's NICs, in the order of the netdevs.

        :raises GuestFailed: it does not have all of them.
        """
        found = {nic.name: nic for nic in self.agent.network().nics}
        names = [f"eth{number}" for number in range(len(self.probes))]
        if missing := [name for name in names if name not in found]:
            raise GuestFailed(f"look at the guest's {missing[0]}", f"it has {', '.join(found) or 'no NIC'}")
        return tuple(found[name] for name in names)

    def wait_nic(self) -> None:
        """Wait until the guest has its first NIC again, and configure it as at boot.

        :raises DeadlineExceeded: it does not appear.
        """
        agent = self.agent
        deadline = Deadline(CONFIGURE_S, "the guest to have its NIC again", Awaited.GUEST)
        deadline.poll(lambda: any(nic.name == GUEST_INTERFACE for nic in agent.network().nics), 0.05)
        agent.configure()
        self.configure_queues()

    def configure_queues(self) -> None:
        """Let the guest use its queue pairs, and spread flows over them."""
        if self.queues > 1:
            self.agent.set_queue_pairs(self.used)
            spread_flows(self.agent)

    def wait_answers(self, *numbers: int) -> None:
        """Wait until NICs answer on every flow.

        :param numbers: of the NICs; all of them when empty.
        :raises DeadlineExceeded: one does not.
        """
        for number in numbers or range(len(self.probes)):
            self.probes[number].wait_answers(
                Deadline(TRAFFIC_ANSWER_S, f"the guest to answer on eth{number}", Awaited.GUEST), 1
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
        self.wait_others()  # first: a guest on a busy machine answers late
        answered = sent - self.probes[0].count_missing(Deadline(QUIET_S, "answers"))
        return [f"{answered} packets were answered while {what}"] if answered else []

    def traffic_problems(self) -> list[str]:
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
        others = report.other_carriers(self.machine.pid, since_ns) if self.vhost else ""
        return [f"not only vhost-{self.machine.pid} carries the packets: {others}"] if others else []


@contextlib.contextmanager
def operated_guest(
    guest: RunningGuest, ports: PortAllocator, used: int, updater: Updater | None = None
) -> Iterator[OperatedGuest]:
    """Open probes on a guest and let it use some of its queue pairs.

    :param updater: None when no operation updates the guest.
    """
    boot_s = guest.agent.ping().boottime_ns / 1e9
    with contextlib.ExitStack() as stack, KernelTrace(guest.topology.switch) as trace:
        operated = OperatedGuest(guest, ports, trace, used, boot_s, stack, updater or Updater())
        operated.configure_queues()
        operated.open_probes()
        yield operated
