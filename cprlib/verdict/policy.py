"""Policies: the limits of each property.

A key that a file leaves out has the strict value, so that nothing passes by default. docs/reading-a-report.md describes
the values; :mod:`cprlib.verdict.policy_file` reads the files.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Literal

import msgspec

from cprlib.codec import Count, Name, Positive
from cprlib.errors import SkipWord

DOWNGRADE_CHECKS = ("vhost-worker", "no-downgrade")  # required of each case with vhost
NOT_ASKED_FOR = (
    SkipWord.NO_TARGET,  # the run was given no second QEMU
    SkipWord.NO_LOCAL,  # no release up to 11.1 has this migration parameter
    SkipWord.NO_CPR_EXEC,  # a migration mode that is younger than cpr-transfer
    SkipWord.NO_SANDBOX,  # built without libseccomp
    SkipWord.NO_MACHINE,  # an old machine type
    SkipWord.NO_MEMUSAGE,  # a C library without it
    SkipWord.NO_SUSPEND,  # some machine types have no suspend to RAM
    SkipWord.NO_DEVICE,  # built without a device that the guest needs
)
"""Skips that every policy allows: they depend on the run, the host or QEMU's build, not on the code under test."""

Severity = Literal["fail", "inconclusive"]


class PolicyTable(msgspec.Struct, frozen=True, rename={"return_": "return"}):
    """A table of a policy file; its fields are the keys, with their strict values as defaults."""


class CountLimits(PolicyTable, frozen=True):
    """Duplicates (RFC 5560) or reordered packets (RFC 4737) that may be seen in each direction."""

    forward: Count = 0
    return_: Count = 0


class LossLimits(CountLimits, frozen=True):
    """Packets of the main stream that may be lost in each direction (RFC 7680).

    :param overflow: the verdict when the excess was lost in a full tap queue, during a pause that was longer than the
        queue lasts (queue length / rate).
    """

    overflow: Severity = "fail"


class StreamLimits(PolicyTable, frozen=True):
    """Limits of each further stream: started in the guest, TCP.

    :param longest_stall_ms: the longest time without a packet, or without an answer over TCP, whose time-out doubles.
    """

    lost: Count = 0
    duplicates: Count = 0
    reordered: Count = 0
    longest_stall_ms: Positive | None = 3000.0


class InterruptionLimits(PolicyTable, frozen=True):
    """Service interruption by time stamps, in each direction.

    :param max_ms: the maximum; None for no limit.
    :param max_ratio: the maximum as a multiple of the baseline, which the policy then needs.
    :param required: an update without this measurement is inconclusive.
    """

    max_ms: Positive | None = 1000.0
    max_ratio: Positive | None = None
    required: bool = True


class IdentityRules(PolicyTable, frozen=True):
    """Each descriptor of the netdevs is one open file in both QEMUs (kcmp(2) KCMP_FILE).

    :param required: a mechanism that keeps open files is inconclusive without this evidence.
    :param unpaired: the maximum of descriptors without a partner.
    """

    required: bool = True
    unpaired: Count = 0


class DowngradeRules(PolicyTable, frozen=True):
    """The silent fallback from vhost to userspace virtio.

    :param forbidden: cases with vhost need the checks of :data:`DOWNGRADE_CHECKS`, and they must pass.
    """

    forbidden: bool = True


class LedgerRules(PolicyTable, frozen=True):
    """The ledger per hop.

    :param required: a measured case without a ledger is inconclusive.
    :param unexplained: the maximum of missing packets that no hop accounts for.
    :param may_miss: names of counters that may be absent (``fnmatch`` patterns).
    """

    required: bool = True
    unexplained: Count = 0
    may_miss: tuple[Name, ...] = ()


class InstrumentRules(PolicyTable, frozen=True):
    """Requirements of the instrument; a case that misses one is inconclusive.

    :param min_sent: the minimum of test packets.
    :param pacing_p99_us: the maximum of the 99th percentile of the pacing error, in microseconds; None for no limit.
    :param control_run_required: the session needs a control run that lost nothing.
    """

    min_sent: Count = 1000
    pacing_p99_us: Positive | None = 2000.0
    control_run_required: bool = True


class NegativeControlRules(PolicyTable, frozen=True):
    """Updates that are known to lose packets.

    :param must_lose: a negative control that loses nothing is inconclusive.
    """

    must_lose: bool = True


class SkipRules(PolicyTable, frozen=True):
    """Cases and checks that did not run.

    :param allow: ``fnmatch`` patterns of the word before the colon in a case's reason: ``no-cpr``, ``not-in-this-lab``.
        Those of :data:`NOT_ASKED_FOR` are always allowed.
    :param allow_checks: ``fnmatch`` patterns of names of checks.
    :param otherwise: the verdict of a skip that is not allowed.
    :param whole_mechanism: all cases of a mechanism may be skipped; otherwise the run is then inconclusive.
    """

    allow: tuple[Name, ...] = ()
    allow_checks: tuple[Name, ...] = ()
    otherwise: Severity = "fail"
    whole_mechanism: bool = False


class Policy(msgspec.Struct, frozen=True):
    """One policy.

    :param name: of the file, without ``.toml``.
    :param retries: the maximum of labs that die during one case; with more it is inconclusive.
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


def matches(name: str, patterns: Iterable[str]) -> bool:
    """True when a name matches one of a policy's ``fnmatch`` patterns."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)
