"""Sample evidence for the tests of verdict and report: a case in which everything is known and good."""

from __future__ import annotations

from cprlib.evidence.case import CaseEvidence
from cprlib.evidence.records import (
    Budget,
    Check,
    DescriptorCount,
    DescriptorRow,
    GuestFact,
    InstrumentHealth,
    Outcome,
    Parameters,
    Stream,
)
from cprlib.qemu.facts import QemuFacts
from cprlib.traffic.figures import Direction, Interruption, InterruptionPerDirection, PerDirection
from cprlib.traffic.hops import HopCount
from cprlib.update.events import Event, Step, Who
from cprlib.update.mechanism import Mechanism

START_NS = 1_700_000_000_000_000_000
MS = 1_000_000


def good_case(case_id: str = "cpr-tap-vhost-1-queue") -> CaseEvidence:
    """7,000 packets at 1,000/s across one live update; nothing lost."""
    return CaseEvidence(
        id=case_id,
        mechanism=Mechanism.CPR,
        title="A live update with cpr=on loses no packet (vhost, 1 queue)",
        test="tests/functional/test_update.py:UpdateTest.test_no_loss",
        started_ns=START_NS - 9_000 * MS,
        finished_ns=START_NS + 9_000 * MS,
        parameters=Parameters(
            queues=1,
            vhost=True,
            rate=1000.0,
            size=44,
            duration_s=7.0,
            ip_version=4,
            machine="q35",
            tap_queue_length=1000,
        ),
        updates=1,
        sent=7000,
        loss=PerDirection(0, 0),
        duplicates=PerDirection(0, 0),
        reordered=PerDirection(0, 0),
        interruption=InterruptionPerDirection(
            Interruption(286.4, 288.1, 0.0, 1.1),
            Interruption(287.0, 288.9, 0.0, 1.1),
        ),
        qemu_downtime_ms=271.0,
        budget=Budget(1000, 1000.0),
        streams=(Stream("started in the guest", "udp", sent=700, lost=0, duplicates=0, reordered=0),),
        checks=(
            Check("descriptors-same-file", Outcome.PASS, "each tap and vhost fd is one open file", "2 of 2 pairs"),
            Check("vhost-worker", Outcome.PASS, "a task vhost-<pid of target>", "vhost-4242"),
            Check("no-downgrade", Outcome.PASS, "no message of falling back", "none"),
        ),
        timeline=(
            Event(Step.STOP, START_NS + 3_000 * MS, Who.SOURCE),
            Event(Step.FDS_SENT, START_NS + 3_021 * MS, Who.SOURCE),
            Event(Step.RESUME, START_NS + 3_271 * MS, Who.TARGET),
        ),
        ledger=(
            HopCount("sender socket", Direction.FORWARD, 7000, 7000, {}, "sendto"),
            HopCount("tap0 queue", Direction.FORWARD, 7000, 7000, {}, "tx_dropped of tap0"),
            HopCount("reflector", Direction.FORWARD, 7000, 7000, {}, "reflector's log"),
            HopCount("bridge br0", Direction.RETURN, 7000, 7000, {}, "rtnl counters"),
        ),
        unexplained=0,
        descriptors=(
            DescriptorRow("tap", "hostnet0", 24, 19, True, "tap0", "O_RDWR|O_NONBLOCK", "O_RDWR|O_NONBLOCK", 112),
            DescriptorRow("vhost", "hostnet0", 25, 20, True, "", "O_RDWR", "O_RDWR", 131),
        ),
        fds=DescriptorCount(2, 0),
        instrument=InstrumentHealth(
            capture_drops=0,
            reflector_drops=0,
            reflector_alive=True,
            pacing_p99_us=182.0,
            control_run_sent=3000,
            control_run_lost=0,
            control_run_interruption_ms=4.2,
            clock_offset_us=-18.0,
            clock_error_us=95.0,
        ),
        guest_view=(
            GuestFact("features", "0x110bf8064", "0x110bf8064"),
            GuestFact("link", "up", "up"),
        ),
        reproduce="cprlib run tests/functional/test_update.py:UpdateTest.test_no_loss",
        source=QemuFacts("/usr/bin/qemu-system-x86_64", "10.0.13", "ab" * 32, True, True, False),
        target=QemuFacts("/usr/bin/qemu-system-x86_64", "10.0.13", "ab" * 32, True, True, False),
    )
