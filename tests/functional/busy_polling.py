"""How busily vhost's workers poll: with ``poll-us`` they go on looking for packets for so long after each."""

from __future__ import annotations

import os
import time
from pathlib import Path

from cprlib.deadline import Deadline
from cprlib.errors import InstrumentError
from cprlib.linux.procfs import vhost_workers
from cprlib.testing.measured_case import MeasuredCase
from cprlib.traffic.flow import StreamSettings, flows_between
from cprlib.traffic.session import TrafficSession

POLL_US = 20_000
RATE, SECONDS = 25.0, 1.2  # each packet comes when the polling for the one before it has ended
LEAST = 0.02  # of a core; workers that do not poll take less than a thousandth for these few packets


def share_of_workers(case: MeasuredCase) -> float:
    """Which part of a core the vhost workers of a case's QEMU take while a few packets a second go there and back.

    :raises InstrumentError: there are none, or they came and went meanwhile.
    """
    pid, station = case.guest.machine.pid, case.guest.topology.station
    before, begun = _seconds_of_workers(pid), time.monotonic()
    settings = StreamSettings(rate=RATE, duration_s=SECONDS)
    with TrafficSession(station, flows_between(count=1, first_port=case.ports.take()), settings) as session:
        session.wait_sent(Deadline(SECONDS + 20, "the packets to be sent"))
        session.finish(linger_s=0.0)
    after, ended = _seconds_of_workers(pid), time.monotonic()
    if not before or before.keys() != after.keys():
        raise InstrumentError("tell how busy vhost is", f"workers were {sorted(before)}, are {sorted(after)}")
    return sum(after[task] - before[task] for task in before) / (ended - begun)


def _seconds_of_workers(pid: int) -> dict[int, float]:
    """Processor time of each worker, by its task."""
    return {item.task: _seconds(item.task) for item in vhost_workers(pid)}


def _seconds(task: int) -> float:
    """utime and stime (proc(5), fields 14 and 15; the name in field 2 may have blanks).

    Of the task alone: /proc/TASK/stat has those of its whole process.
    """
    fields = (
        Path(f"/proc/{task}/task/{task}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    )
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def expect_polling(case: MeasuredCase, when: str, before: float, now: float) -> None:
    """Check that the workers poll as busily as they did.

    :param before, now: as :func:`share_of_workers` tells.
    """
    expected = f"about as much of a core as before the update ({before:.0%}) while few packets come"
    if before < LEAST:
        case.inconclusive(
            f"busy-polling-{when}", expected, f"vhost took {before:.1%} of a core before: it did not poll"
        )
        return
    case.expect(
        f"busy-polling-{when}",
        now >= before / 4,
        expected,
        f"{now:.0%}",
        f"vhost took {before:.0%} of a core polling for poll-us={POLL_US}, and takes {now:.1%}: the time was forgotten",
    )
