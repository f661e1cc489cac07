"""The states that an update must not change: what is read of a running guest, and its comparison with a later state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from cprlib.deadline import Deadline
from cprlib.evidence.allowed_differences import allowed_differences
from cprlib.evidence.equivalence import Snapshot, Values, compare, take_snapshot
from cprlib.evidence.records import Comparison, EquivalenceRecord
from cprlib.guest.state import read_guest_state
from cprlib.qemu.vmstate import device_state
from cprlib.update.mechanism import Mechanism
from cprlib.update.running_guest import RunningGuest

Reader = Callable[[RunningGuest], Values]
SETTLE_S, POLL_S, ALL_S = 0.6, 0.15, 60.0

READERS: Mapping[str, Reader] = {"guest": lambda guest: read_guest_state(guest.agent)}
"""What is read, by side."""


def read_state(guest: RunningGuest) -> Snapshot:
    """Read the guest, the QEMU that runs it, its process and its host.

    :raises QemuFailed, GuestFailed, DeadlineExceeded: QEMU or guest died or hangs.
    """
    return take_snapshot({side: partial(read, guest) for side, read in READERS.items()})


def read_compared(guest: RunningGuest) -> Snapshot | None:
    """As :func:`read_state`; None for a mechanism that may lose packets, where the target has another NIC."""
    return read_state(guest) if READERS and not guest.mechanism.handling.may_lose else None


def compare_state(
    guest: RunningGuest, before: Snapshot, comparison: Comparison, subject: str = ""
) -> EquivalenceRecord:
    """Compare the state now with an earlier one.

    A difference that goes away within a moment, as a thread that ends, is none: the state is read again.

    :param subject: what has happened since, for the report.
    :raises QemuFailed, GuestFailed, DeadlineExceeded: QEMU or guest died or hangs.
    """
    allowed = allowed_differences()
    settling = Deadline(SETTLE_S, "differences to settle")

    def settled() -> EquivalenceRecord | None:
        record = compare(before, read_state(guest), comparison, guest.mechanism, allowed, subject)
        return record if settling.expired or not record.differences else None

    return Deadline(ALL_S, "the states to be compared").poll(settled, POLL_S)


def compare_device_states(earlier: bytes, later: bytes, mechanism: Mechanism, subject: str) -> EquivalenceRecord:
    """Compare the device state of two updates in a row: what the first one's target was sent, it has to send again.

    :param earlier, later: the streams of the main channel.
    :param subject: what happened between them, for the report.
    """

    def read(stream: bytes) -> Snapshot:
        return take_snapshot({"vmstate": lambda: device_state(stream)})

    return compare(read(earlier), read(later), Comparison.DEVICE_STATE, mechanism, allowed_differences(), subject)
