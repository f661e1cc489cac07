"""What the guest sees of its NIC and of itself, before and after an update: nothing of it may change."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cprlib.errors import GuestFailed
from cprlib.evidence.case import Check, GuestFact, Outcome, QueueShare
from cprlib.guest.agent import AgentConnection
from cprlib.guest.console import Console
from cprlib.guest.replies import Identity, NicInfo


@dataclass(frozen=True, slots=True)
class GuestView:
    """One look at the guest."""

    identity: Identity
    nic: NicInfo


def look_at(agent: AgentConnection) -> GuestView:
    """Ask the guest's agent.

    :raises GuestFailed, DeadlineExceeded, InstrumentError: it did not answer, or nonsense.
    """
    return GuestView(agent.identity(), agent.network().nic())


def _feature_bits(text: str) -> str:
    """Numbers of the feature bits that driver and device agreed on."""
    return " ".join(str(number) for number, bit in enumerate(text.strip()) if bit == "1")


def _facts(view: GuestView) -> dict[str, str]:
    nic = view.nic
    return {
        "boot": view.identity.boot_id,
        "kernel": view.identity.kernel,
        "MAC": nic.mac,
        "MTU": str(nic.mtu),
        "interface flags": f"{nic.flags:#x}",
        "link": f"{nic.operstate}, carrier {nic.carrier}",
        "driver": nic.driver,
        "virtio features": _feature_bits(nic.virtio_features),
        "offloads": ", ".join(name for name, state in sorted(nic.features.items()) if state.startswith("on")),
        "queue pairs": f"{nic.channels} of {nic.channels_max}",
        "multicast filter": " ".join(sorted(nic.multicast)),
    }


def guest_view(before: GuestView, after: GuestView) -> tuple[GuestFact, ...]:
    """The facts of both looks beside each other."""
    later = _facts(after)
    return tuple(GuestFact(name, value, later[name]) for name, value in _facts(before).items())


def queue_shares(before: NicInfo, after: NicInfo) -> tuple[QueueShare, ...]:
    """What each queue pair carried between two looks; empty when the guest's kernel does not tell."""
    numbers = sorted({int(name[2:]) for name in after.queue_packets if name[2:].isdigit()})

    def moved(name: str) -> int | None:
        first, last = before.queue_packets.get(name), after.queue_packets.get(name)
        return None if first is None or last is None else last - first

    return tuple(QueueShare(number, moved(f"rx{number}"), moved(f"tx{number}")) for number in numbers)


def share_check(shares: tuple[QueueShare, ...], queues: int) -> Check:
    """Whether every queue pair in use carried packets: of one that stood idle the update says nothing.

    :param queues: queue pairs that the guest uses.
    """
    idle = [str(share.queue) for share in shares[:queues] if not share.received or not share.sent]
    expected = f"packets in both directions on each of {queues} queue pairs"
    if len(shares) < queues:
        return Check("every-queue-used", Outcome.INCONCLUSIVE, expected, f"the guest tells of {len(shares)} only")
    said = f"queue pair {', '.join(idle)} stood idle" if idle else "each carried some"
    return Check("every-queue-used", Outcome.INCONCLUSIVE if idle else Outcome.PASS, expected, said)


def death_checks(folder: Path, updated: bool) -> tuple[Check, ...]:
    """A check that fails for each console on which the guest's kernel died, whatever the test was waiting for then.

    :param folder: of the case, with the consoles.
    :param updated: whether the guest was updated before; a guest that dies without that accuses no update.
    """
    found = []
    for path in sorted(folder.glob("console-*.log")):
        try:
            Console(path).check()
        except GuestFailed as error:
            outcome = Outcome.FAIL if updated else Outcome.INCONCLUSIVE
            message = f"{path.name}: {error.happened}"
            found.append(Check("guest-lives", outcome, "the guest's kernel runs", "it died", message))
    return tuple(found)
