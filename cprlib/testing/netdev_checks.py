"""Updates of a guest with several netdevs: which files were sent, which arrived, and whether each NIC works."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from cprlib.deadline import Deadline
from cprlib.errors import DeadlineExceeded, QemuFailed, UpdateFailed
from cprlib.linux.topology import guest_end, station_end
from cprlib.qemu.command_line import MachineSettings
from cprlib.qemu.netdev import TapNetdev, TapSource
from cprlib.testing.checks import is_qemu_or_guest_failure
from cprlib.testing.measured_case import MeasuredCase
from cprlib.traffic.flow import flows_between
from cprlib.traffic.probes import warm_up
from cprlib.update.hooks import RecordSentFds, SentFd
from cprlib.update.live_update import UpdateHook

ANSWER_S = 10.0


def update_guest(
    case: MeasuredCase, label: str, target: MachineSettings | None = None, hooks: Sequence[UpdateHook] = ()
) -> bool:
    """Update a case's guest, and check that it works and which files were sent and arrived.

    :param label: begins the names of the update's checks.
    :param target: settings of the target; the source's when None.
    :param hooks: called between the steps of the update.
    :returns: whether the guest runs in the target.
    """
    before, files = case.guest.machine.settings.netdevs, RecordSentFds()
    try:
        case.live_update(label=label, target=target, hooks=[files, *hooks])
        completed = True
    except (UpdateFailed, QemuFailed, DeadlineExceeded) as error:
        if not is_qemu_or_guest_failure(error):
            raise
        completed = False  # which is in the evidence
    if completed or files.sent:
        check_sent(case, label, before, files.sent)
    return completed


def silent_nics(case: MeasuredCase, netdevs: Sequence[TapNetdev]) -> tuple[str, ...]:
    """Netdevs over which no packet comes back.

    :param netdevs: all of the guest's, in the order in which it was started with them.
    """
    port = case.ports.take(len(netdevs))
    silent = []
    for number, netdev in enumerate(netdevs):
        ends = station_end(number), guest_end(number)
        flows = flows_between(*ends, first_port=port + number)
        try:
            warm_up(case.guest.topology.station, flows, Deadline(ANSWER_S, f"answers over {netdev.identifier}"))
        except DeadlineExceeded:
            silent.append(netdev.identifier)
    return tuple(silent)


def expect_answers(case: MeasuredCase, label: str, netdevs: Sequence[TapNetdev]) -> None:
    case.expect_empty(
        f"{label}-answers",
        silent_nics(case, netdevs),
        f"round trips over each of {len(netdevs)} NICs",
        "no packet comes back",
        family="answers",
    )


def _expected(netdevs: Sequence[TapNetdev]) -> dict[str, dict[str, int]]:
    return {
        item.identifier: {"tap": item.queues} | ({"vhost": item.queues} if item.vhost else {})
        for item in netdevs
        if item.cpr
    }


def check_sent(case: MeasuredCase, label: str, netdevs: Sequence[TapNetdev], sent: Sequence[SentFd]) -> None:
    """The source sends the files of its netdevs with ``cpr=on``, under their names, each once, and no others."""
    expected = _expected(netdevs)
    of_netdevs = [item for item in sent if item.file.kind != "memfd"]
    problems = [f"{item} belongs to no netdev" for item in of_netdevs if item.name not in expected]
    for name, kinds in expected.items():
        found = dict(Counter(item.file.kind for item in of_netdevs if item.name == name))
        if found != kinds:
            problems.append(f"{name}: {found or 'nothing'} instead of {kinds}")
    unknown = (TapSource.UNNAMED, TapSource.MACVTAP)  # the kernel chooses the name, or does not report it
    interfaces = {item.identifier: item.interface for item in netdevs if item.tap_source not in unknown}
    for item in of_netdevs:
        if item.file.kind == "tap" and item.file.interface != interfaces.get(item.name, item.file.interface):
            problems.append(f"{item} is not {interfaces[item.name]}")
        if len(item.source_numbers) != 1:
            problems.append(f"{item} is {len(item.source_numbers)} descriptors of the source")
    times = Counter((item.name, item.id) for item in sent)
    problems += [f"{name}/{number} was sent twice" for (name, number), count in times.items() if count > 1]
    total = sum(sum(kinds.values()) for kinds in expected.values())
    case.expect_empty(
        f"{label}-sent-files",
        problems,
        f"{total} descriptors of {len(expected)} netdevs in the CPR state, under their names",
        f"the CPR state has {len(of_netdevs)} descriptors, not those of the netdevs",
        family="sent-files",
    )
