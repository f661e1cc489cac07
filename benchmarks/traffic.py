"""Pacing and losses of the traffic instrument, compared with plain scapy, on this machine.

Run as root from the checkout::

    python benchmarks/traffic.py [--seconds 60] [--rate 20000] [--no-scapy]

The traffic runs over a veth pair between two private network namespaces, with a reflector in a process of its own at
the far end. Rows: the instrument at 1,000, 10,000 and ``--rate`` packets/s, idle and with a busy process on each core,
then scapy's ``sendp`` and ``AsyncSniffer``. "Own loss" is the number of packets that the reflector has logged as sent
and the capture did not see; the kernel counts the drops of the ring (PACKET_STATISTICS).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cprlib.deadline import Deadline
from cprlib.errors import CprlibError
from cprlib.process import spawn
from cprlib.traffic.flow import StreamSettings, flows_between
from cprlib.traffic.frames import FrameTemplate
from cprlib.traffic.session import TrafficSession
from tests.unit.traffic.reflector_process import reflector_process
from tests.unit.traffic.veth import Pair, veth_pair

HEADINGS = ("what", "rate", "sent", "reached", "own loss", "p50 us", "p99 us", "max us", "slipped ms", "CPU %")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    what: str
    rate: float
    sent: int
    reached: float
    own_loss: str
    p50_us: float | None
    p99_us: float | None
    max_us: float | None
    slipped_ms: float | None
    cpu_percent: float

    def cells(self) -> tuple[str, ...]:
        """The line as text."""

        def number(value: float | None) -> str:
            return "-" if value is None else f"{value:,.0f}"

        return (
            self.what,
            f"{self.rate:,.0f}",
            f"{self.sent:,}",
            f"{self.reached:,.0f}/s",
            self.own_loss,
            number(self.p50_us),
            number(self.p99_us),
            number(self.max_us),
            number(self.slipped_ms),
            f"{self.cpu_percent:.0f}",
        )


@contextlib.contextmanager
def hogs(busy: bool) -> Iterator[None]:
    """Keep each core busy with a process."""
    with contextlib.ExitStack() as stack:
        for _ in range(os.cpu_count() or 1 if busy else 0):
            stack.enter_context(spawn([sys.executable, "-c", "while True: pass"], purpose="keep a core busy"))
        yield


def cpu_of_children() -> float:
    """CPU seconds of children that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def run_instrument(pair: Pair, rate: float, seconds: float, busy: bool, port: int) -> Row:
    """Both directions at once: the reflector answers every packet."""
    flows = flows_between(versions=(4, 6), count=2, first_port=port)
    settings = StreamSettings(rate, duration_s=seconds)
    with reflector_process(pair.guest, priority=5) as reflector, hogs(busy):
        with TrafficSession(pair.station, flows, settings, keep_frames=0) as session:
            session.wait_sent(Deadline(seconds * 3 + 30, "the stream to be sent"))
            session.finish(linger_s=20.0)
            before = cpu_of_children()
        cpu = cpu_of_children() - before
        log = reflector.finish()
    result = session.result(log, reflector_drops=reflector.dropped)
    sender, capture = result.instrument.sender, result.instrument.capture
    assert sender.first_ns is not None
    assert sender.last_ns is not None
    elapsed = (sender.last_ns - sender.first_ns) / 1e9
    loss = f"{result.lost_return} (ring {capture.kernel_drops})"
    if result.lost_forward:
        loss += f", reflector {result.lost_forward}"
    return Row(
        f"cprlib, {'every core busy' if busy else 'idle'}",
        rate,
        result.sent,
        result.sent / elapsed,
        loss,
        sender.pacing_p50_ns / 1e3,
        sender.pacing_p99_ns / 1e3,
        sender.pacing_max_ns / 1e3,
        sender.slipped_ns / 1e6,
        100 * cpu / elapsed,
    )


SCAPY = """
import sys, time
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from scapy.sendrecv import AsyncSniffer, sendp
rate, seconds, frame = float(sys.argv[1]), float(sys.argv[2]), bytes.fromhex(sys.argv[3])
came = []
sniffer = AsyncSniffer(iface="eth0", prn=lambda packet: came.append(time.time()), store=False,
                       lfilter=lambda packet: packet.src == sys.argv[4])
sniffer.start()
while not hasattr(sniffer, "stop_cb"):
    time.sleep(0.01)
count = int(rate * seconds)
start = time.time()
if sys.argv[5] == "one":
    count = min(count, 50)
    late = []
    for number in range(count):
        time.sleep(max(0, start + number / rate - time.time()))
        late.append(time.time() - start - number / rate)
        sendp(Ether(frame), iface="eth0", verbose=False)
else:
    late = [0]
    sendp([Ether(frame)] * count, iface="eth0", inter=1 / rate, verbose=False)
elapsed = time.time() - start
time.sleep(2)
sniffer.stop()
late.sort()
print(count, elapsed, len(came), late[len(late) // 2], late[len(late) * 99 // 100], late[-1])
"""


def run_scapy(pair: Pair, rate: float, seconds: float, way: str, port: int) -> Row:
    """The same by plain scapy: sendp, one call for each packet or one for all, and AsyncSniffer."""
    flow = flows_between(first_port=port)[0]
    frame = bytes(FrameTemplate(flow).patch(0, time.time_ns())).hex()
    command = [sys.executable, "-c", SCAPY, str(rate), str(seconds), frame, flow.target_mac, way]
    with reflector_process(pair.guest) as reflector:
        started = cpu_of_children()
        with contextlib.ExitStack() as stack:
            with pair.station.entered():
                child = stack.enter_context(spawn(command, purpose="run scapy", stdout=subprocess.PIPE))
            output, _ = child.communicate(timeout=seconds * 60 + 60)
        cpu = cpu_of_children() - started
        answered = len(reflector.finish())
    count, elapsed, came, p50, p99, worst = (float(word) for word in output.split())
    timed = way == "one"
    return Row(
        f"scapy sendp, {'a call each' if timed else 'one list'}; AsyncSniffer",
        rate,
        int(count),
        count / elapsed,
        f"{max(0, answered - int(came))}",
        p50 * 1e6 if timed else None,
        p99 * 1e6 if timed else None,
        worst * 1e6 if timed else None,
        None,
        100 * cpu / elapsed,
    )


def print_table(rows: list[Row]) -> None:
    """Print with aligned columns."""
    table = [HEADINGS, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(HEADINGS))]
    for line in table:
        figures = [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        print("  ".join([line[0].ljust(widths[0]), *figures]))


def main() -> int:
    """Run everything and print the table; 1 if the instrument lost a packet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the run at the highest rate")
    parser.add_argument("--rate", type=float, default=20_000.0, help="highest rate, packets/s in each direction")
    parser.add_argument("--no-scapy", action="store_true", help="without the comparison")
    arguments = parser.parse_args()
    rows = []
    short = min(10.0, arguments.seconds)
    runs = [(1000.0, short), (10_000.0, short), (arguments.rate, arguments.seconds)]
    port = 20_000
    try:
        with veth_pair() as pair:
            for rate, seconds in runs:
                for busy in (False, True):
                    load = "every core busy" if busy else "idle"
                    print(f"{rate:,.0f} packets/s for {seconds:g} s, {load} ...", file=sys.stderr)
                    rows.append(run_instrument(pair, rate, seconds, busy, port))
                    port += 2
            for rate, _ in [] if arguments.no_scapy else runs:
                for way in ("one", "list"):
                    print(f"scapy at {rate:,.0f} packets/s ({way}) ...", file=sys.stderr)
                    rows.append(run_scapy(pair, rate, min(5.0, short), way, port))
                    port += 1
    except CprlibError as error:
        print(error.one_line(), file=sys.stderr)
        return int(error.exit_status)
    print_table(rows)
    return int(any(row.what.startswith("cprlib") and not row.own_loss.startswith("0 (ring 0)") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
