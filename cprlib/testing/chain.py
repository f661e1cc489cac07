"""Updates in a row of one guest: each QEMU is the target of one update and the source of the next."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cprlib.evidence.repeated_updates import growth_checks
from cprlib.qemu.binary import QemuBinary
from cprlib.testing.measured_case import MeasuredCase
from cprlib.update.outcome import view

BETWEEN_S = 0.3  # traffic between two updates, once the guest has worked off what waited
CONTROL_RUN_S = 1.2  # of control run for each update, which takes about 1.5 s


@dataclass(frozen=True, slots=True)
class Step:
    """One update of a chain.

    :param qemu: QEMU of the target; the source's when None.
    :param note: a word on it, for the report.
    """

    qemu: QemuBinary | None = None
    note: str = ""


def update_in_a_row(case: MeasuredCase, steps: Iterable[Step], *, growth: bool = True) -> None:
    """Carry out all updates under one traffic; every one is checked as if it were the only one.

    :param growth: whether descriptors and memory of the targets are compared; they may differ between two QEMUs.
    """
    targets = []
    with case.under_traffic():
        for step in steps:
            update = case.live_update(step.qemu, step.note)
            targets.append(update.source_before)  # the target before, which has run the guest for a while
            case.let_traffic_flow(BETWEEN_S)
        targets.append(view(case.guest.machine))
    if growth:
        case.evidence = case.evidence.with_checks(*growth_checks(targets[1:], targets[0]))
