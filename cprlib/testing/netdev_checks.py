"""Updates of a guest with several netdevs: which files were sent, which arrived, and whether each NIC works."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from cprlib.deadline import Deadline
from cprlib.errors import DeadlineExceeded, QemuFailed, UpdateFailed
from cprlib.linux.descriptors import Descriptor
from cprlib.linux.topology import guest_end, station_end
from cprlib.qemu.command_line import MachineSettings
from cprlib.qemu.netdev import TapNetdev, TapSource
from cprlib.testing.checks import shown, without_time
from cprlib.testing.measured_case import MeasuredCase
from cprlib.traffic.flow import flows_between
from cprlib.traffic.probes import warm_up
from cprlib.update.hooks import ObserveSentFiles, SentFile
from cprlib.update.live_update import UpdateHook
from cprlib.update.results import UpdateResult

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
    before = case.guest.machine.settings.netdevs
    result, sent = observe_update(case, label, target, hooks)
    if result is not None or sent:
        check_sent(case, label, before, sent)
    if result is not None:
        check_files(case, label, before, result)
    return result is not None


def observe_update(
    case: MeasuredCase, label: str, target: MachineSettings | None = None, hooks: Sequence[UpdateHook] = ()
) -> tuple[UpdateResult | None, tuple[SentFile, ...]]:
    """Update a case's guest, check that it works, and record what was sent.

    :param label, target, hooks: as for :func:`update_guest`.
    :returns: the result, None when it failed, which is in the evidence then; and the descriptors in the CPR state, as
        far as they were sent.
    """
    files, name = ObserveSentFiles(), case.guest.next_target
    expected = "the guest runs in the target"
    try:
        result = case.guest.live_update(target_settings=target, hooks=[files, *hooks])
    except (UpdateFailed, QemuFailed, DeadlineExceeded) as error:
        said = _last_words(case.folder, name)
        text = f"{error.one_line()}; the target said: {said}"
        case.expect(f"{label}-update", False, expected, error.happened, text, family="update-completes")
        return None, files.sent
    case.expect(f"{label}-update", True, expected, "it does", family="update-completes")
    return result, files.sent


def _last_words(folder: Path, machine: str) -> str:
    path = folder / f"stderr-{machine}.log"
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    return without_time(lines[-1]) if lines else "nothing"


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


def check_sent(case: MeasuredCase, label: str, netdevs: Sequence[TapNetdev], sent: Sequence[SentFile]) -> None:
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


def check_files(case: MeasuredCase, label: str, netdevs: Sequence[TapNetdev], update: UpdateResult) -> None:
    """Every tap and vhost file is the same open file in the target, with the same flags, and there are no others."""
    problems = [
        f"{item.kind} {row.interface or ''} is only in the {'source' if item.source else 'target'}".replace("  ", " ")
        for item in update.pairings
        if not item.paired and (row := item.source or item.target)
    ]
    expected = {kind: sum(kinds.get(kind, 0) for kinds in _expected(netdevs).values()) for kind in ("tap", "vhost")}
    for who, seen in (("source", update.source_before), ("target", update.target_after)):
        found = {kind: len(seen.table.of_kind(kind)) for kind in expected}
        if found != expected:
            problems.append(f"the {who} has {shown(found)} instead of {shown(expected)}")
    case.expect_empty(
        f"{label}-same-files",
        problems,
        f"{shown(expected)} in source and target, each the same open file by kcmp",
        "a descriptor was reopened, leaked or left behind",
        family="descriptors-same-file",
    )
    before = {row.number: row for row in update.source_before.table.rows}
    changed = []
    for item in update.pairings:
        if item.source and item.target:
            name = f"{item.kind} {item.source.interface or ''} {item.source.number}"
            if len({_flags(before.get(item.source.number)), _flags(item.source), _flags(item.target)}) > 1:
                changed.append(name)
            elif not item.target.nonblocking:
                changed.append(f"{name} blocks")
    case.expect_empty(
        f"{label}-flags",
        changed,
        "O_NONBLOCK on every one, before and after, on both sides",
        "the flags of a descriptor changed",
        family="descriptor-flags",
    )
    case.expect_equal(
        f"{label}-vhost-workers",
        {"source": len(update.source_after.workers), "target": len(update.target_after.workers)},
        {"source": 0, "target": expected["vhost"]},
        "the kernel's vhost workers did not move with the guest",
        family="vhost-worker",
    )


def _flags(row: Descriptor | None) -> int:
    """Flags of the open file; O_CLOEXEC is each descriptor's own."""
    return row.flags & ~os.O_CLOEXEC if row else -1
