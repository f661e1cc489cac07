"""Checks of an update of several netdevs: which files were sent, which arrived, as what."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from cprlib.linux.descriptors import Descriptor
from cprlib.qemu.netdev import TapNetdev, TapSource
from cprlib.testing.measured_case import MeasuredCase
from cprlib.update.hooks import SentFile
from cprlib.update.outcome import UpdateResult


def listed(doubts: Iterable[str]) -> str:
    """At most a few of them, as text."""
    doubts = list(doubts)
    return "; ".join(doubts[:6]) + (f"; and {len(doubts) - 6} more" if doubts[6:] else "")


def _expected(netdevs: Sequence[TapNetdev]) -> dict[str, dict[str, int]]:
    return {
        item.identifier: {"tap": item.queues} | ({"vhost": item.queues} if item.vhost else {})
        for item in netdevs
        if item.cpr
    }


def _kinds(files: Iterable[Descriptor]) -> dict[str, int]:
    kinds = [item.kind for item in files]
    return {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}


def check_sent(case: MeasuredCase, label: str, netdevs: Sequence[TapNetdev], sent: Sequence[SentFile]) -> None:
    """The source sends the files of its netdevs with ``cpr=on``, under their names, each once, and no others."""
    expected = _expected(netdevs)
    of_netdevs = [item for item in sent if item.file.kind != "memfd"]
    doubts = [f"{item} belongs to no netdev" for item in of_netdevs if item.name not in expected]
    for name, kinds in expected.items():
        found = _kinds(item.file for item in of_netdevs if item.name == name)
        if found != kinds:
            doubts.append(f"{name}: {found or 'nothing'} instead of {kinds}")
    interfaces = {item.identifier: item.interface for item in netdevs if item.tap_source is not TapSource.UNNAMED}
    for item in of_netdevs:
        if item.file.kind == "tap" and item.file.interface != interfaces.get(item.name, item.file.interface):
            doubts.append(f"{item} is not {interfaces[item.name]}")
        if len(item.source_numbers) != 1:
            doubts.append(f"{item} is {len(item.source_numbers)} descriptors of the source")
    pairs = [(item.name, item.id) for item in sent]
    doubts += [
        f"{name}/{number} was sent twice" for name, number in dict.fromkeys(pairs) if pairs.count((name, number)) > 1
    ]
    total = sum(sum(kinds.values()) for kinds in expected.values())
    case.expect(
        f"{label}-sent-files",
        not doubts,
        f"{total} descriptors of {len(expected)} netdevs in the CPR state, under their names",
        f"{len(of_netdevs)} descriptors" + (f": {listed(doubts)}" if doubts else ""),
        f"the CPR state has other descriptors than those of the netdevs: {listed(doubts)}",
    )


def check_files(case: MeasuredCase, label: str, netdevs: Sequence[TapNetdev], update: UpdateResult) -> None:
    """Every tap and vhost file is the same open file in the target, with the same flags, and there are no others."""
    alone = [item for item in update.pairings if not item.paired]
    doubts = [
        f"{item.kind} {row.interface or ''} is only in the {'source' if item.source else 'target'}".replace("  ", " ")
        for item in alone
        if (row := item.source or item.target)
    ]
    expected = {kind: sum(kinds.get(kind, 0) for kinds in _expected(netdevs).values()) for kind in ("tap", "vhost")}
    for who, seen in (("source", update.source_before), ("target", update.target_after)):
        found = {kind: len(seen.table.of_kind(kind)) for kind in expected}
        if found != expected:
            doubts.append(f"the {who} has {found} instead of {expected}")
    case.expect(
        f"{label}-same-files",
        not doubts,
        f"{expected} in source and target, each the same open file by kcmp",
        f"{len(update.pairings) - len(alone)} the same" + (f"; {listed(doubts)}" if doubts else ""),
        f"a descriptor was opened anew, leaked or left behind: {listed(doubts)}",
    )
    before = {row.number: row for row in update.source_before.table.rows}
    changed = []
    for item in update.pairings:
        if item.source and item.target:
            flags = {_flags(before.get(item.source.number)), _flags(item.source), _flags(item.target)}
            if len(flags) > 1:
                changed.append(f"{item.kind} {item.source.interface or ''} {item.source.number}")
            elif not item.target.nonblocking:
                changed.append(f"{item.kind} {item.source.interface or ''} {item.source.number} blocks")
    case.expect(
        f"{label}-flags",
        not changed,
        "O_NONBLOCK on every one, before and after, on both sides",
        listed(changed) or "the same",
        f"the flags of a descriptor changed: {listed(changed)}",
    )
    workers = len(update.target_after.workers)
    case.expect(
        f"{label}-vhost-workers",
        workers == expected["vhost"] and not update.source_after.workers,
        f"{expected['vhost']} vhost workers in the target, none in the source",
        f"{workers} in the target, {len(update.source_after.workers)} in the source",
        "the kernel's vhost workers did not move with the guest",
    )


def _flags(row: Descriptor | None) -> int:
    """Flags of the open file; O_CLOEXEC is each descriptor's own."""
    return row.flags & ~os.O_CLOEXEC if row else -1
