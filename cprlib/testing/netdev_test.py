"""Base class of tests on netdevs themselves: given a guest with several, when updated, then the same files."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cprlib.deadline import Deadline
from cprlib.errors import DeadlineExceeded, QemuFailed, UpdateFailed
from cprlib.evidence.case import Role
from cprlib.linux.topology import GUEST, STATION, further_guest, further_station
from cprlib.qemu.machine import MachineSettings
from cprlib.qemu.netdev import TapNetdev
from cprlib.testing.live_update_test import LiveUpdateTest
from cprlib.testing.measured_case import MeasuredCase
from cprlib.testing.netdev_checks import check_files, check_sent
from cprlib.traffic.flow import Flow, flows_between
from cprlib.traffic.probes import warm_up
from cprlib.update.hooks import ObserveSentFiles, SentFile
from cprlib.update.outcome import UpdateResult
from cprlib.update.running_guest import GuestSettings

FIRST_PORT = 23000
ANSWER_S = 10.0
MIB_PER_QUEUE_PAIR = 2  # a guest's driver fills each receive ring with 256 buffers, of a page each at the most


class NetdevTest(LiveUpdateTest):
    """A test on the netdevs of one guest.

    :avocado: disable
    """

    _further: tuple[TapNetdev, ...] = ()
    _plugged = False
    _machine = ""

    def _guest_settings(self, netdev: TapNetdev, extra: tuple[str, ...]) -> GuestSettings:
        settings = super()._guest_settings(netdev, extra)
        machine = self._machine or settings.machine
        memory = settings.memory_mib + MIB_PER_QUEUE_PAIR * sum(item.queues for item in self._further)
        return replace(settings, further=self._further, plugged=self._plugged, machine=machine, memory_mib=memory)

    @contextlib.contextmanager
    def given_netdevs(
        self,
        netdevs: Sequence[TapNetdev],
        *,
        plugged: bool = False,
        pluggable: bool = False,
        mechanism: str = "cpr",
        role: Role = Role.CHECKS,
    ) -> Iterator[MeasuredCase]:
        """A guest with a NIC on each netdev.

        :param plugged: they are added by QMP, before the guest runs.
        :param pluggable: NICs can be added by QMP, which is so with ``plugged`` too. Such a guest has machine ``pc``,
            whose bus takes NICs as it is; ``q35`` would need a port for each.
        """
        self._further, self._plugged = tuple(netdevs[1:]), plugged
        self._machine = "pc" if plugged or pluggable else ""
        with self.given_guest(mechanism, netdev=netdevs[0], role=role) as case:
            yield case


@dataclass(frozen=True, slots=True)
class Observed:
    """What was seen of an update.

    :param result: None when it failed, which is in the evidence then.
    :param sent: the descriptors in the CPR state, as far as it came to that.
    """

    result: UpdateResult | None
    sent: tuple[SentFile, ...]


def update_guest(case: MeasuredCase, label: str, target: MachineSettings | None = None) -> bool:
    """Update a case's guest with ``cpr=on``, and check that it works and which files were sent and arrived.

    :param label: names the update's checks.
    :param target: settings of the target; the source's when None.
    :returns: whether the guest runs in the target.
    """
    before = case.guest.machine.settings.netdevs
    observed = observe_update(case, label, target)
    if observed.result is not None or observed.sent:
        check_sent(case, label, before, observed.sent)
    if observed.result is not None:
        check_files(case, label, before, observed.result)
    return observed.result is not None


def observe_update(case: MeasuredCase, label: str, target: MachineSettings | None = None) -> Observed:
    """Update a case's guest, check that it works, and look at what was sent.

    :param label, target: as for :func:`update_guest`.
    """
    guest = case.guest
    files, name = ObserveSentFiles(), guest.next_target
    expected = "the guest runs in the target"
    try:
        result = guest.live_update(target_settings=target, hooks=[files])
    except (UpdateFailed, QemuFailed, DeadlineExceeded) as error:
        said = _last_words(case.folder, name)
        case.expect(f"{label}-update", False, expected, error.happened, f"{error.one_line()}; the target said: {said}")
        return Observed(None, files.sent)
    case.expect(f"{label}-update", True, expected, "it does")
    return Observed(result, files.sent)


def _last_words(folder: Path, machine: str) -> str:
    path = folder / f"stderr-{machine}.log"
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    return re.sub(r"^\d{4}-\d\d-\d\dT\S+ ", "", lines[-1]) if lines else "nothing"


def flows_of(netdevs: Sequence[TapNetdev], first_port: int) -> tuple[Flow, ...]:
    """A session over each of a guest's NICs, in the order of the netdevs it was started with."""
    flows: list[Flow] = []
    for number, _ in enumerate(netdevs):
        ends = (further_station(number), further_guest(number)) if number else (STATION, GUEST)
        flows += flows_between(*ends, first_port=first_port + number)
    return tuple(flows)


def unanswered(case: MeasuredCase, netdevs: Sequence[TapNetdev], without: Sequence[str] = ()) -> tuple[str, ...]:
    """Which netdevs carry no packets there and back.

    :param without: netdevs that are left out.
    """
    silent = []
    for netdev, flow in zip(netdevs, flows_of(netdevs, FIRST_PORT), strict=True):
        if netdev.identifier in without:
            continue
        try:
            warm_up(case.guest.topology.station, [flow], Deadline(ANSWER_S, f"answers over {netdev.identifier}"))
        except DeadlineExceeded:
            silent.append(netdev.identifier)
    return tuple(silent)


def expect_answers(case: MeasuredCase, label: str, netdevs: Sequence[TapNetdev], without: Sequence[str] = ()) -> None:
    """Check that every NIC carries packets."""
    silent = unanswered(case, netdevs, without)
    case.expect(
        f"{label}-answers",
        not silent,
        f"round trips over each of {len(netdevs) - len(without)} NICs",
        f"none over {', '.join(silent)}" if silent else "all answered",
        f"no packet comes back over {', '.join(silent)}",
    )
