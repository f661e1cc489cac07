"""The ledger as evidence: hops with their counts, and whose fault each missing packet is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cprlib.evidence.case import CaseEvidence, Cause, Direction, Hop, MissingPackets
from cprlib.traffic.hops import HopCount
from cprlib.traffic.ledger import Ledger, LedgerRow, Moments
from cprlib.update.live_update import UpdateResult

INSTRUMENT_HOPS = ("capture", "reflector", "station")
QUEUE_FULL = "tap.tx_dropped"  # tun_net_xmit() drops what finds the queue full (drivers/net/tun.c)


def moments_of(updates: Sequence[UpdateResult]) -> tuple[Moments, ...]:
    """When the guest stood still in each update; numbered from 1 where there is more than one."""

    def moments(update: UpdateResult, number: int) -> Moments:
        first = {item.name: item.time_ns for item in reversed(update.moments)}
        return Moments(first.get("STOP"), first.get("RESUME"), number if len(updates) > 1 else None)

    return tuple(moments(update, number) for number, update in enumerate(updates, 1))


def cause_of(row: LedgerRow) -> Cause:
    """Whose fault a missing packet is, as far as place and counter tell; what is not known accuses the update."""
    if row.hop in INSTRUMENT_HOPS:
        return Cause.INSTRUMENT
    if row.hop == "guest stack":
        return Cause.GUEST
    if row.hop == "tap queue":
        return Cause.OVERFLOW if QUEUE_FULL in row.reason or "FULL_RING" in row.reason else Cause.UPDATE
    return Cause.UPDATE if row.hop == "qemu" else Cause.UNKNOWN


def _hop(count: HopCount) -> Hop:
    """Packets of others (ARP, neighbour discovery) count as dropped here: they are none of the stream's."""
    dropped = count.dropped if count.others is None else (count.dropped or 0) + count.others
    return Hop(count.hop, Direction(count.direction.value), count.entered, count.left, dropped, count.counted_by)


def with_ledger(evidence: CaseEvidence, ledger: Ledger, absent: tuple[str, ...], drops_available: bool) -> CaseEvidence:
    """The evidence with its ledger.

    :param absent: names of counters that could not be read.
    :param drops_available: whether the kernel told of its drops.
    """
    missing = tuple(
        MissingPackets(
            row.hop, Direction(row.direction.value), row.moment, row.reason, row.count, cause_of(row), row.sequences
        )
        for row in ledger.rows
    )
    unread = (*absent, *(() if drops_available else ("skb:kfree_skb",)))
    return replace(
        evidence,
        ledger=tuple(_hop(count) for count in ledger.hops),
        missing=missing,
        unexplained=ledger.unexplained,
        instrument=replace(evidence.instrument, missing_counters=unread),
        warnings=(*evidence.warnings, *ledger.notes),
    )
