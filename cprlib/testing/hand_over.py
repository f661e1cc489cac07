"""Checks of a hand-over: order of stop, vhost release and descriptors; owner of vhost; carrier of the packets."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from cprlib.deadline import Deadline
from cprlib.errors import Awaited, DeadlineExceeded, InstrumentError
from cprlib.evidence.update_checks import DOWNGRADE_MESSAGES
from cprlib.linux.kernel_trace import Act, KernelReport, KernelTrace, owner_of
from cprlib.linux.procfs import vhost_workers, wait_workers_ended
from cprlib.qemu.command_line import MigrationChannels
from cprlib.qemu.machine import Machine
from cprlib.qemu.nic_state import vhost_started
from cprlib.testing.measured_case import MeasuredCase
from cprlib.traffic.flow import flows_between
from cprlib.traffic.probes import TRAFFIC_ANSWER_S, Probes
from cprlib.update.events import Step
from cprlib.update.outcome import END_S, has_yank_instance, wait_migration
from cprlib.update.proxy import ChannelProxy
from cprlib.update.results import UpdateResult

SOME_BYTES = 65536  # of an ordinary migration's stream: its setup is over by then, and RAM is being copied
VHOST_FAILED = r"vhost.*(fail|cannot|unable)"  # whatever words a QEMU has for it


@contextlib.contextmanager
def probing(case: MeasuredCase) -> Iterator[tuple[KernelTrace, Probes]]:
    """Trace the kernel, and probe the case's guest by one flow per queue pair; it answers when the body starts."""
    queues = case.evidence.parameters.queues or 1
    flows = flows_between(versions=(4,), count=queues, first_port=case.ports.take(queues))
    topology = case.guest.topology
    with KernelTrace(topology.switch) as trace, Probes(topology.station, flows) as probes:
        probes.wait_answers(Deadline(TRAFFIC_ANSWER_S, "the guest to answer", Awaited.GUEST))
        yield trace, probes


@contextlib.contextmanager
def failing_migration(case: MeasuredCase) -> Iterator[None]:
    """Begin an ordinary migration; the body runs while RAM is copied, and then the migration fails.

    :raises DeadlineExceeded: it sends nothing, or does not end.
    :raises QemuFailed: it does not fail.
    """
    machine = case.guest.machine
    with ChannelProxy(case.guest.topology.switch, hold=SOME_BYTES) as proxy:
        machine.qmp.execute("migrate", {"channels": MigrationChannels("", proxy.name).descriptions()[:1]})
        proxy.wait_held(Deadline(END_S, "the migration's stream", Awaited.QEMU))
        yield
        proxy.cut()
        wait_migration(machine, "failed")
        # dirty logging ends in a bottom half, after the status
        closed = Deadline(END_S, "the failed migration to be cleaned up", Awaited.QEMU)
        closed.poll(lambda: not has_yank_instance(machine), 0.01)


def check_source_released(case: MeasuredCase, proxy: ChannelProxy, source: Machine) -> None:
    """The proxy holds the descriptors: the source must have stopped its guest and released vhost."""
    netdev = source.settings.netdevs[0]
    status = source.status()
    case.expect(
        "stopped-when-fds-are-sent",
        status != "running",
        "the source's run state is not running",
        status,
        "the source's guest still runs when its descriptors are sent",
    )
    waited_ms = wait_workers_ended(source.pid)
    case.expect_equal(
        "vhost-released-when-fds-are-sent",
        len(vhost_workers(source.pid)),
        0,
        f"the source still owns vhost when its descriptors are sent, {waited_ms:.0f} ms later: the target's "
        "VHOST_SET_OWNER will fail with EBUSY; vhost workers",
    )
    kinds = Counter(row.kind for row in proxy.held_descriptors())
    case.expect_equal(
        "descriptors-sent",
        {kind: count for kind, count in kinds.items() if kind != "memfd"},
        {"tap": netdev.queues} | ({"vhost": netdev.queues} if netdev.vhost else {}),
        "the CPR state has a wrong set of descriptors beside guest memory",
    )


def check_order(case: MeasuredCase, update: UpdateResult, seen: KernelReport, source: Machine, target: Machine) -> None:
    """STOP, vhost released, descriptors sent, loaded, vhost acquired, RESUME: in this order, on one clock."""
    times, vhost = update.times_ns, source.settings.netdevs[0].vhost
    stopped = seen.worker_stopped_ns(source.pid, times.get(Step.STOP, 0))
    made = min((item.time_ns for item in seen.of(Act.WORKER_MADE) if owner_of(item) == target.pid), default=None)
    chain = [
        ("the source's STOP", times.get(Step.STOP)),
        *([("the source's last vhost worker stopped", stopped)] if vhost else []),
        ("descriptors sent", times.get(Step.FDS_SENT)),
        ("descriptors read by the target", times.get(Step.FDS_LOADING)),
        *([("the target's first vhost worker created", made)] if vhost else []),
        ("the target's RESUME", times.get(Step.RESUME)),
    ]
    expected = ", then ".join(name for name, _ in chain)
    absent = [name for name, moment in chain if moment is None]
    if absent:
        case.inconclusive("order-of-hand-over", expected, f"no event: {', '.join(absent)} {seen.unavailable}".strip())
        return
    known = [(name, moment) for name, moment in chain if moment is not None]
    wrong = [f"{b} is {(x - y) / 1e6:.2f} ms before {a}" for (a, x), (b, y) in pairwise(known) if y < x]
    start = known[0][1]
    observed = ", ".join(f"{name} at {(moment - start) / 1e6:+.2f} ms" for name, moment in known)
    case.expect("order-of-hand-over", not wrong, expected, observed, "; ".join(wrong))


def check_source_stands_still(case: MeasuredCase, update: UpdateResult, probes: Probes, source: Machine) -> None:
    """The guest does not run from the time the descriptors are sent until RESUME in the target.

    The tap gets packets in between: a running guest answers them within milliseconds.
    """
    name, expected = "guest-stands-still", "no answer and no run state running between FDS_SENT and RESUME"
    times = update.times_ns
    since, resume, quits = (times.get(item) for item in (Step.FDS_SENT, Step.RESUME, Step.SOURCE_QUIT))
    if since is None or resume is None or quits is None or probes.first_answer_ns is None:
        case.inconclusive(name, expected, "no FDS_SENT, RESUME or SOURCE_QUIT event, or no answer")
        return
    states = source.trace.run_states()
    resumed = [time_ns for time_ns, state in states if state == "running" and since <= time_ns <= quits]
    case.expect(
        name,
        probes.first_answer_ns >= resume and not resumed,
        expected,
        f"first answer {(probes.first_answer_ns - resume) / 1e6:.2f} ms after RESUME, source ran {len(resumed)} times",
        "the guest ran after its descriptors were sent",
    )


def check_vhost_carries(
    case: MeasuredCase, name: str, probes: Probes, trace: KernelTrace, since_ns: int, *, when: str = ""
) -> None:
    """vhost carries the packets: QEMU reports it, and only workers of this QEMU read and write the tap.

    After a silent fall back to userspace virtio the guest answers too, but QEMU's main loop accesses the tap.
    """
    machine = case.guest.machine
    expected = f"vhost is started, and only vhost-{machine.pid} reads and writes the tap"
    try:
        probes.wait_answers(Deadline(TRAFFIC_ANSWER_S, "the guest to answer", Awaited.GUEST), count=4)
        started, others = vhost_started(machine.qmp), trace.report().other_carriers(machine.pid, since_ns)
    except DeadlineExceeded as error:
        case.expect(name, False, expected, error.happened, f"the guest does not answer: {error.happened}", when=when)
        return
    except InstrumentError as error:
        case.inconclusive(f"{name}-{when}" if when else name, expected, error.one_line())
        return
    case.expect(
        name,
        started and not others,
        expected,
        f"vhost is {'started' if started else 'not started'}; {others or 'its workers alone read and write'}",
        "vhost does not carry the NIC's packets: a silent fall back to userspace virtio",
        when=when,
    )


def check_no_downgrade_message(case: MeasuredCase, name: str, text: str, *, may_fail: bool = False) -> None:
    """No QEMU reported a fall back from vhost, nor a failure of vhost, which works.

    :param may_fail: a call of vhost was made to fail, which QEMU has to report.
    """
    lines = [line.strip() for line in text.splitlines()]
    found = [line for line in lines if any(words in line for words in DOWNGRADE_MESSAGES)]
    found += [line for line in lines if not may_fail and re.search(VHOST_FAILED, line)]
    case.expect_empty(name, found[:1], "no message that vhost failed, or about a fall back to userspace")
