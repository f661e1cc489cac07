"""The rows of the scoreboard: which QEMU is updated by which mechanism, and with which tests.

A session's folder (:mod:`cprlib.campaign.store`) also has::

    results/<row>/run-1/<test>/    a job's folder (:mod:`cprlib.campaign.job`) with result.json
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from cprlib.build.mutants import build_mutant, load_mutants
from cprlib.build.progress import Progress
from cprlib.build.qemu import build_qemu
from cprlib.build.series import find_base, load_bases
from cprlib.build.stock_qemu import stock_qemu
from cprlib.campaign.job import choose_names
from cprlib.campaign.store import STORE_VERSION, Store
from cprlib.qemu.binary import QemuBinary
from cprlib.update.mechanism import Mechanism

BASE = "10.0"  # of the series without one of its patches
LOCAL_BASE = "10.2-local"
UPDATE_TEST = "update"
UPDATES = 3  # of one guest
FAILURE_TESTS = {  # whether the NIC has vhost, and the tests whose faults are counted
    True: ("failed-updates-lose-nothing", "late-cancel-leaves-one-owner", "source-can-resume-after-unnoticed-failure"),
    False: ("source-keeps-running-without-vhost",),
}
STOCK = {"trixie": "10.0", "trixie-backports": "11.1"}  # Debian's suites, and the release that each had in 2026
FROM_SOURCE = ("10.2",)  # bases of images/qemu/bases.toml whose binary package has left Debian's archive

Make = Callable[[Progress], QemuBinary]


@dataclass(frozen=True, slots=True)
class Qemu:
    """A QEMU of the scoreboard.

    :param name: for options and folders: ``series-10.0``, ``stock-trixie``, ``without-0009-no-loss``.
    :param title: for people.
    :param make: builds it, or finds it built.
    :param shown_by: tests that show the missing patch where the figures do not.
    """

    name: str
    title: str
    make: Make = field(compare=False)
    shown_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """One QEMU, updated by one mechanism, with one kind of NIC.

    :param failure_tests: ids of the tests that inject faults.
    :param mode: of the migration; empty for the mechanism's usual one.
    """

    qemu: Qemu
    mechanism: Mechanism
    vhost: bool
    failure_tests: tuple[str, ...] = ()
    mode: str = ""

    @property
    def name(self) -> str:
        """Folder of its results, and what ``--only`` matches."""
        return "-".join(filter(None, (self.qemu.name, self.mechanism, self.mode, "vhost" if self.vhost else "tap")))

    def parameters(self) -> Mapping[str, str]:
        vhost, mode = "on" if self.vhost else "off", {"mode": self.mode} if self.mode else {}
        return {"mechanism": self.mechanism, "vhost": vhost, "queues": "1", "chain": str(UPDATES), **mode}


@dataclass(frozen=True, slots=True)
class ScoreboardRequest:
    """What a session covers.

    :param runs: guests of each row, each updated :data:`UPDATES` times.
    :param only: patterns of rows' names; all rows without.
    :param engine: of the lab; None to run natively.
    :param load: load average of the machine before the session began.
    """

    runs: int
    only: tuple[str, ...] = ()
    engine: str | None = None
    load: float | None = None
    command: str = ""
    started_ns: int = 0
    version: int = STORE_VERSION


STORE = Store("scoreboard", ScoreboardRequest)


def all_rows() -> tuple[Row, ...]:
    """Every row: stock QEMUs, the series on each base, the series without each patch, mechanism ``local``."""
    updates = [(Mechanism.LINK_SWITCH, False), (Mechanism.LINK_SWITCH, True), (Mechanism.FD_SHARE, False)]
    rows = [Row(qemu, mechanism, vhost) for qemu in _stock() for mechanism, vhost in updates]
    for qemu in (*_series(), *_without_a_patch()):
        rows += [Row(qemu, Mechanism.CPR, vhost, FAILURE_TESTS[vhost]) for vhost in (False, True)]
    for qemu in _stand_in():
        rows += [Row(qemu, Mechanism.LOCAL, vhost, mode=mode) for mode in ("", "normal") for vhost in (False, True)]
    return tuple(rows)


def choose_rows(patterns: Sequence[str]) -> tuple[Row, ...]:
    """The rows whose names match one of the patterns (``fnmatch``); all without patterns.

    :raises UsageError: a pattern matches none.
    """
    rows = all_rows()
    known = ", ".join(dict.fromkeys(row.qemu.name for row in rows))
    chosen = choose_names([row.name for row in rows], patterns, "row", "the scoreboard", f"QEMUs are {known}")
    return tuple(row for row in rows if row.name in chosen)


def _stock() -> list[Qemu]:
    found = {
        release: Qemu(f"stock-{release}", f"stock, package of Debian {suite}", functools.partial(stock_qemu, suite))
        for suite, release in STOCK.items()
    }
    for base in FROM_SOURCE:
        title = f"stock, built here from the source package of Debian {find_base(base).suite}"
        found[base] = Qemu(f"stock-{base}", title, functools.partial(build_qemu, base, False))
    return [found[release] for release in sorted(found, key=lambda text: tuple(map(int, text.split("."))))]


def _series() -> list[Qemu]:
    return [
        Qemu(f"series-{base}", f"series on {base}", functools.partial(build_qemu, base, True))
        for base in (BASE, *FROM_SOURCE)
    ]


def _stand_in() -> list[Qemu]:
    """The QEMU with migration parameter ``local``, which no release has."""
    if LOCAL_BASE not in load_bases():
        return []
    title = f"stand-in for a QEMU with migration parameter local, base {LOCAL_BASE}"
    return [Qemu(f"stand-in-{LOCAL_BASE}", title, functools.partial(build_qemu, LOCAL_BASE, True))]


def _without_a_patch() -> list[Qemu]:
    return [
        Qemu(
            mutant.name,
            f"series on {BASE} without patch {int(mutant.name.split('-')[1])}",
            functools.partial(build_mutant, mutant, BASE),
            mutant.killed_by,
        )
        for mutant in load_mutants()
        if mutant.group == "series" and BASE in mutant.bases
    ]
