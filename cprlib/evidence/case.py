"""The evidence of a case, which a test writes and the judge and the report read.

``cases/<id>/case.json`` holds the figures, ``cases/<id>/packets.json`` one entry per test packet for the timeline.

A value that is not known is None, never 0: the judge takes it as inconclusive. Times are ``CLOCK_REALTIME`` in ns;
durations are milliseconds unless the name says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cprlib import files
from cprlib.codec import BadValue, Count, Value, decode, dump_json, encode, load_json
from cprlib.errors import InstrumentError, UsageError
from cprlib.evidence.records import (
    Budget,
    Check,
    DescriptorCount,
    DescriptorRow,
    EquivalenceRecord,
    FaultRecord,
    GuestFact,
    InstrumentHealth,
    Outcome,
    Parameters,
    QueueShare,
    Role,
    Stream,
    UpdateFigures,
)
from cprlib.qemu.facts import QemuFacts
from cprlib.traffic.figures import InterruptionPerDirection, LedgerRow, PerDirection
from cprlib.traffic.hops import HopCount
from cprlib.update.events import Event
from cprlib.update.mechanism import Mechanism

EVIDENCE_VERSION = 2
CASE_FILE = "case.json"
OTHER_SKIP = "other"
STARTED_FILE = "started"  # written first, so that a case that never finished is missed
PACKETS_FILE = "packets.json"
PACKETS_VERSION = 1


def read_record(kind: type[Value], path: Path) -> Value:
    """The record of a JSON file in a results folder.

    :raises InstrumentError: the file is missing, cut off or holds something else.
    """
    try:
        return load_json(kind, path.read_bytes())
    except (OSError, BadValue) as error:
        raise InstrumentError(f"read {path}", str(error)) from error


@dataclass(frozen=True, slots=True)
class CaseEvidence:
    """The evidence of one case. Only ``id`` and ``mechanism`` are required.

    :param id: unique in the run, fit for a folder name: ``cpr-tap-vhost-4-queues``.
    :param title: one line for people; the first line of the test's docstring.
    :param test: Avocado's name or id of the test, so that its status can be joined to this evidence.
    :param started_ns, finished_ns: the whole case.
    :param sent: test packets of the main stream.
    :param updates: live updates carried out in this case.
    :param per_update: figures of each update.
    :param unexplained: missing packets that no hop accounts for; None without a ledger.
    :param qemu_downtime_ms: ``downtime`` of query-migrate on the source; the longest of several updates.
    :param faults: injected into updates of this case, in order.
    :param equivalence: states before and after that were compared as a whole.
    :param retries: restarts of the case in a new lab because its lab died.
    :param first_try: why this case was inconclusive when it was first run; empty when this is the first run.
    :param reproduce: a command line that runs this case again.
    :param skipped: why the case did not run; empty when it ran.
    :param skip_word: kind of that reason, which policies allow or refuse: ``no-cpr``
        (docs/reading-a-report.md lists them); empty when the test gave none, which counts as :data:`OTHER_SKIP`.
    :param concluded: the verdict that the test ended with; None when it did not get that far. Avocado's status of the
        test then repeats the evidence, which may be judged again by another policy.
    """

    id: str
    mechanism: Mechanism
    role: Role = Role.UPDATE
    title: str = ""
    test: str = ""
    started_ns: int | None = None
    finished_ns: int | None = None
    parameters: Parameters = field(default_factory=Parameters)
    skipped: str = ""
    skip_word: str = ""
    concluded: Outcome | None = None
    updates: Count | None = None
    sent: Count | None = None
    loss: PerDirection = field(default_factory=PerDirection)
    duplicates: PerDirection = field(default_factory=PerDirection)
    reordered: PerDirection = field(default_factory=PerDirection)
    interruption: InterruptionPerDirection = field(default_factory=InterruptionPerDirection)
    qemu_downtime_ms: float | None = None
    budget: Budget | None = None
    streams: tuple[Stream, ...] = ()
    queue_shares: tuple[QueueShare, ...] = ()
    per_update: tuple[UpdateFigures, ...] = ()
    checks: tuple[Check, ...] = ()
    timeline: tuple[Event, ...] = ()
    ledger: tuple[HopCount, ...] = ()
    missing: tuple[LedgerRow, ...] = ()
    unexplained: int | None = None
    descriptors: tuple[DescriptorRow, ...] = ()
    fds: DescriptorCount = field(default_factory=DescriptorCount)
    instrument: InstrumentHealth = field(default_factory=InstrumentHealth)
    guest_view: tuple[GuestFact, ...] = ()
    warnings: tuple[str, ...] = ()
    retries: Count = 0
    first_try: tuple[str, ...] = ()
    reproduce: str = ""
    source: QemuFacts | None = None
    target: QemuFacts | None = None
    faults: tuple[FaultRecord, ...] = ()
    equivalence: tuple[EquivalenceRecord, ...] = ()

    @property
    def skip_text(self) -> str:
        """Word and reason of a skip, as reports show them; empty when the case ran."""
        return f"{self.skip_word or OTHER_SKIP}: {self.skipped}" if self.skipped else ""

    @property
    def longest_pause_ms(self) -> float | None:
        """The longest interruption seen in either direction, None when none was measured."""
        values = (self.interruption.forward.high_ms, self.interruption.return_.high_ms)
        return max((value for value in values if value is not None), default=None)

    @property
    def overlong(self) -> bool:
        """A pause was longer than the tap queue has room for: packets overflow."""
        return self.budget is not None and self.budget.is_exceeded(self.interruption)

    def to_json(self) -> dict[str, Any]:
        """A JSON object with ``evidence_version`` first."""
        return {"evidence_version": EVIDENCE_VERSION, **encode(self)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> CaseEvidence:
        """Read what :meth:`to_json` wrote.

        :raises InstrumentError: another version, a missing member or a wrong type; the message has the path to it.
        """
        version = value.get("evidence_version")
        if version != EVIDENCE_VERSION:
            happened = f"evidence_version is {version!r}, this program reads {EVIDENCE_VERSION}"
            advice = "read it with the version of cprlib that wrote it"
            raise InstrumentError("read the evidence of a case", happened, advice)
        try:
            return decode(cls, value)
        except (BadValue, UsageError) as error:  # a fault may be impossible in its phase
            raise InstrumentError("read the evidence of a case", str(error)) from error

    def with_checks(self, *checks: Check) -> CaseEvidence:
        return replace(self, checks=(*self.checks, *checks))

    def write(self, folder: Path) -> Path:
        """Write ``case.json`` into the case's folder, whole or not at all.

        :raises EnvironmentFailure: the folder cannot be written.
        """
        path = folder / CASE_FILE
        files.write_text(path, dump_json(self.to_json()), mode=0o600)
        return path

    @classmethod
    def read(cls, folder: Path) -> CaseEvidence:
        """Read the ``case.json`` of a case's folder.

        :raises InstrumentError: the file is missing, cut off or no evidence.
        """
        return cls.from_json(read_record(dict[str, Any], folder / CASE_FILE))


@dataclass(frozen=True, slots=True)
class Packets:
    """The test packets of the main stream, in the order of sending.

    Columns instead of records keep the file small: 10,000 packets take about 400 KB.

    :param origin_ns: CLOCK_REALTIME in ns; all other times count from it.
    :param sent_us: time of sending, in microseconds.
    :param reflected_us: time of arrival at the reflector on the *host's* clock (its log, minus the clock offset); None
        for a packet that never arrived there.
    :param returned_us: time of arrival of the answer; None for an answer that never arrived.
    """

    origin_ns: int
    sent_us: tuple[int, ...]
    reflected_us: tuple[int | None, ...]
    returned_us: tuple[int | None, ...]
    packets_version: int = PACKETS_VERSION

    def __post_init__(self) -> None:
        if not len(self.sent_us) == len(self.reflected_us) == len(self.returned_us):
            raise ValueError("columns of unequal length")

    def write(self, folder: Path) -> Path:
        """Write ``packets.json`` into the case's folder, whole or not at all."""
        path = folder / PACKETS_FILE
        files.write_text(path, dump_json(self, indent=None), mode=0o600)
        return path

    @classmethod
    def read(cls, folder: Path) -> Packets | None:
        """Read ``packets.json``; None when the case has none.

        :raises InstrumentError: the file is cut off, or of another version.
        """
        path = folder / PACKETS_FILE
        if not path.exists():
            return None
        packets = read_record(cls, path)
        if packets.packets_version != PACKETS_VERSION:
            happened = f"packets_version is {packets.packets_version}, this program reads {PACKETS_VERSION}"
            raise InstrumentError(f"read {path}", happened)
        return packets

    @classmethod
    def from_ns(
        cls, sent_ns: Sequence[int], reflected_ns: Sequence[int | None], returned_ns: Sequence[int | None]
    ) -> Packets:
        """From times in nanoseconds; the sending of the first packet becomes the origin."""
        origin = sent_ns[0] if sent_ns else 0

        def since(times_ns: Sequence[int | None]) -> tuple[int | None, ...]:
            return tuple(None if time_ns is None else (time_ns - origin) // 1000 for time_ns in times_ns)

        return cls(
            origin, tuple((time_ns - origin) // 1000 for time_ns in sent_ns), since(reflected_ns), since(returned_ns)
        )
