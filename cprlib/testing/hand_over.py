"""Checks of a hand-over: order of stop, vhost release and descriptors; owner of vhost; carrier of the packets."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from cprlib.deadline import Deadline
from cprlib.errors import Awaited, DeadlineExceeded, InstrumentError
from cprlib.evidence.update_checks import DOWNGRADE_MESSAGES
from cprlib.linux.kernel_trace import Act, KernelReport, KernelTrace
from cprlib.linux.procfs import vhost_workers, wait_workers_ended
from cprlib.qemu.machine import Machine
from cprlib.qemu.nic_state import vhost_started
from cprlib.testing.measured_case import MeasuredCase
from cprlib.traffic.flow import Flow, flows_between
from cprlib.traffic.probes import Probes
from cprlib.update.proxy import ChannelProxy
from cprlib.update.results import UpdateResult

ANSWER_S = 8.0


def probe_flows(case: MeasuredCase) -> tuple[Flow, ...]:
    """One flow per queue pair."""
    queues = case.evidence.parameters.queues or 1
    return flows_between(versions=(4,), count=queues, first_port=case.ports.take(queues))


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
    workers = vhost_workers(source.pid)
    case.expect(
        "vhost-released-when-fds-are-sent",
        not workers,
        "no vhost worker of the source",
        f"{len(workers)} workers after {waited_ms:.0f} ms",
        "the source still owns vhost when its descriptors are sent: the target's VHOST_SET_OWNER will fail with EBUSY",
    )
    kinds = Counter(row.kind for row in proxy.held_descriptors())
    expected = {"tap": netdev.queues, "vhost": netdev.queues if netdev.vhost else 0}
    unexpected = sorted(set(kinds) - {"memfd", *expected})
    case.expect(
        "descriptors-sent",
        all(kinds[kind] == count for kind, count in expected.items()) and not unexpected,
        f"{expected} and guest memory, nothing else",
        dict(sorted(kinds.items())),
        "the CPR state has a wrong set of descriptors",
    )


def check_nothing_sent(case: MeasuredCase, proxy: ChannelProxy) -> None:
    """Without ``cpr=on`` the CPR state contains guest memory only."""
    kinds = Counter(row.kind for row in proxy.held_descriptors())
    case.expect(
        "descriptors-sent",
        set(kinds) == {"memfd"},
        "guest memory only",
        dict(sorted(kinds.items())),
        "descriptors of a netdev without cpr=on were sent",
    )


def check_order(case: MeasuredCase, update: UpdateResult, seen: KernelReport, source: Machine, target: Machine) -> None:
    """STOP, vhost released, descriptors sent, loaded, vhost acquired, RESUME: in this order, on one clock."""
    moments = {item.name: item.time_ns for item in reversed(update.moments)}
    chain = [("the source's STOP", moments.get("STOP"))]
    if source.settings.netdevs[0].vhost:
        chain.append(("the source's last vhost worker ended", _last(seen, Act.WORKER_ENDED, source.pid)))
    chain += [
        ("descriptors sent", moments.get("FDS_SENT")),
        ("descriptors read by the target", moments.get("FDS_LOADING")),
    ]
    if source.settings.netdevs[0].vhost:
        chain.append(("the target's first vhost worker created", _first(seen, Act.WORKER_MADE, target.pid)))
    chain.append(("the target's RESUME", moments.get("RESUME")))
    expected = ", then ".join(name for name, _ in chain)
    absent = [name for name, moment in chain if moment is None]
    if absent:
        case.inconclusive("order-of-hand-over", expected, f"no event: {', '.join(absent)} {seen.why}".strip())
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
    moments = {item.name: item.time_ns for item in reversed(update.moments)}
    since, resume, quits = (moments.get(item) for item in ("FDS_SENT", "RESUME", "SOURCE_QUIT"))
    if since is None or resume is None or quits is None or probes.first_answer_ns is None:
        case.inconclusive(name, expected, "no FDS_SENT, RESUME or SOURCE_QUIT event, or no answer")
        return
    resumed = [
        item
        for item in source.trace.all_of("runstate_set")
        if since <= item.time_ns <= quits and "(running)" in item.text.split("new_state")[-1]
    ]
    case.expect(
        name,
        probes.first_answer_ns >= resume and not resumed,
        expected,
        f"first answer {(probes.first_answer_ns - resume) / 1e6:.2f} ms after RESUME, source ran {len(resumed)} times",
        "the guest ran after its descriptors were sent",
    )


def check_vhost_carries(case: MeasuredCase, name: str, probes: Probes, trace: KernelTrace, since_ns: int) -> None:
    """vhost carries the packets: QEMU reports it, and only workers of this QEMU read and write the tap.

    After a silent fall back to userspace virtio the guest answers too, but QEMU's main loop accesses the tap.
    """
    machine = case.guest.machine
    expected = f"vhost-started, and only vhost-{machine.pid} reads and writes the tap"
    try:
        probes.wait_answers(Deadline(ANSWER_S, "the guest to answer", Awaited.GUEST), count=4)
        started = vhost_started(machine.qmp)
    except DeadlineExceeded as error:
        case.expect(name, False, expected, error.happened, f"the guest does not answer: {error.happened}")
        return
    except InstrumentError as error:
        case.inconclusive(name, expected, error.one_line())
        return
    report = trace.report()
    if report.why:
        case.inconclusive(name, expected, report.why)
        return
    worker = f"vhost-{machine.pid}"
    readers, writers = report.at_tap(Act.TAP_READ, since_ns=since_ns), report.at_tap(Act.TAP_WRITTEN, since_ns=since_ns)
    case.expect(
        name,
        started and set(readers) == set(writers) == {worker},
        expected,
        f"vhost-started {str(started).lower()}; packets read by {readers}, written by {writers}",
        "vhost does not carry the NIC's packets: a silent fall back to userspace virtio",
    )


def check_no_downgrade_message(case: MeasuredCase, name: str, *texts: str) -> None:
    """No QEMU reported a fall back from vhost."""
    found = [line.strip() for text in texts for line in text.splitlines() if any(w in line for w in DOWNGRADE_MESSAGES)]
    case.expect(name, not found, "no message about a fall back to userspace", found[:1] or "none", "; ".join(found[:1]))


def _first(seen: KernelReport, act: Act, owner: int) -> int | None:
    return min((item.time_ns for item in seen.of(act) if item.owner == owner), default=None)


def _last(seen: KernelReport, act: Act, owner: int) -> int | None:
    return max((item.time_ns for item in seen.of(act) if item.owner == owner), default=None)
