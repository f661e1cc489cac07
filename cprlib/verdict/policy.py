"""Policies: what passes, per property.

A key that a file leaves out has the strict value, so that nothing passes by default.
The values are described in docs/reading-a-report.md; files are read by :mod:`cprlib.verdict.policy_file`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from cprlib.codec import Count, Name, Positive

DOWNGRADE_CHECKS = ("vhost-worker", "no-downgrade")  # required of each case with vhost
NOT_ASKED_FOR = ("no-target", "no-local")
"""Words of skips that every policy allows, because they say nothing about the QEMU under test: no second QEMU was
given; the migration parameter ``local``, which not even 11.1 has, is not there."""

Severity = Literal["fail", "inconclusive"]


class PolicyTable(msgspec.Struct, frozen=True, rename={"return_": "return"}):
    """A table of a policy file; its fields are the keys, with their strict values as defaults."""


class LossLimits(PolicyTable, frozen=True):
    """Packets of the main stream that may be lost in each direction (RFC 7680).

    :param overflow: what follows when more were lost, but all of the excess in a full tap queue during a pause that was
        longer than the queue has room for (queue length / rate).
    """

    forward: Count = 0
    return_: Count = 0
    overflow: Severity = "fail"


class CountLimits(PolicyTable, frozen=True):
    """Duplicates (RFC 5560) or reordered packets (RFC 4737) that may be seen in each direction."""

    forward: Count = 0
    return_: Count = 0


class StreamLimits(PolicyTable, frozen=True):
    """What each further stream (started in the guest, TCP, other flows) may lose, double and reorder."""

    lost: Count = 0
    duplicates: Count = 0
    reordered: Count = 0
    longest_stall_ms: Positive | None = None


class InterruptionLimits(PolicyTable, frozen=True):
    """Service interruption by time stamps, in each direction.

    :param max_ms: no more than this; None for no limit.
    :param max_ratio: no more than this many times the baseline; a policy that has it needs a baseline.
    :param required: a case of an update in which it was not measured is inconclusive.
    """

    max_ms: Positive | None = 1000.0
    max_ratio: Positive | None = None
    required: bool = True


class IdentityRules(PolicyTable, frozen=True):
    """Descriptors: each of the netdev's is one open file on both sides (kcmp(2) KCMP_FILE).

    :param required: a case of a mechanism that hands descriptors over is inconclusive without this evidence.
    :param unpaired: descriptors that may be without a partner.
    """

    required: bool = True
    unpaired: Count = 0


class DowngradeRules(PolicyTable, frozen=True):
    """The silent fall back from vhost to userspace virtio.

    :param forbidden: cases with vhost need the checks of :data:`DOWNGRADE_CHECKS`, and they must pass.
    """

    forbidden: bool = True


class LedgerRules(PolicyTable, frozen=True):
    """The ledger per hop.

    :param required: a measured case without a ledger is inconclusive.
    :param unexplained: packets that may be missing without a hop that accounts for them.
    :param may_miss: names of counters that may be absent (``fnmatch`` patterns).
    """

    required: bool = True
    unexplained: Count = 0
    may_miss: tuple[Name, ...] = ()


class InstrumentRules(PolicyTable, frozen=True):
    """What the instrument must show of itself; short of it the case is inconclusive, neither pass nor fail.

    :param min_sent: test packets, at least.
    :param pacing_p99_us: 99th percentile of the pacing error at most, microseconds; None for no limit.
    :param control_run_required: a run without update, in the same session, that lost nothing.
    """

    min_sent: Count = 1000
    pacing_p99_us: Positive | None = 2000.0
    control_run_required: bool = True


class NegativeControlRules(PolicyTable, frozen=True):
    """Updates that are known to lose packets.

    :param must_lose: a negative control that loses nothing is inconclusive: it has not shown that a loss is seen.
    """

    must_lose: bool = True


class SkipRules(PolicyTable, frozen=True):
    """Cases and checks that did not run.

    :param allow: ``fnmatch`` patterns of the word before the colon in a case's reason: ``no-cpr``, ``no-vhost``.
        Those of :data:`NOT_ASKED_FOR` are always allowed.
    :param allow_checks: ``fnmatch`` patterns of names of checks.
    :param otherwise: what follows from a skip that is not allowed.
    :param whole_mechanism: all cases of a mechanism may be skipped; else the run is inconclusive even though each
        skip is allowed.
    """

    allow: tuple[Name, ...] = ()
    allow_checks: tuple[Name, ...] = ()
    otherwise: Severity = "fail"
    whole_mechanism: bool = False


class Policy(msgspec.Struct, frozen=True):
    """One policy.

    :param name: of the file, without ``.toml``.
    :param retries: labs that may die in one case before it is inconclusive.
    """

    name: str = "strict"
    description: str = ""
    retries: Count = 0
    loss: LossLimits = LossLimits()
    duplicates: CountLimits = CountLimits()
    reordered: CountLimits = CountLimits()
    streams: StreamLimits = StreamLimits()
    interruption: InterruptionLimits = InterruptionLimits()
    identity: IdentityRules = IdentityRules()
    downgrade: DowngradeRules = DowngradeRules()
    ledger: LedgerRules = LedgerRules()
    instrument: InstrumentRules = InstrumentRules()
    negative_control: NegativeControlRules = NegativeControlRules()
    skips: SkipRules = SkipRules()
