"""The guest's view of its NIC and of itself before and after an update, which must not change."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from cprlib.errors import GuestFailed
from cprlib.evidence.records import Budget, Check, GuestFact, Outcome, QueueShare
from cprlib.guest.agent import AgentConnection
from cprlib.guest.console import Console
from cprlib.guest.replies import Identity, NicInfo
from cprlib.linux.procfs import read_text
from cprlib.qemu.wrapper import last_message

SOURCE = "source"  # name of the QEMU that runs the guest first
STANDSTILL_MS = 1000.0  # a machine that stands still for so long without an update may starve a guest


@dataclass(frozen=True, slots=True)
class GuestView:
    """The guest at one moment."""

    identity: Identity
    nic: NicInfo


def view_guest(agent: AgentConnection) -> GuestView:
    """Ask the guest's agent.

    :raises GuestFailed, DeadlineExceeded, InstrumentError: no answer, or an invalid one.
    """
    return GuestView(agent.identity(), agent.network().nic())


def _facts(view: GuestView) -> dict[str, str]:
    nic = view.nic
    features = [str(number) for number, bit in enumerate(nic.virtio_features.strip()) if bit == "1"]  # bit 0 first
    return {
        "boot": view.identity.boot_id,
        "kernel": view.identity.kernel,
        "MAC": nic.mac,
        "MTU": str(nic.mtu),
        "interface flags": f"{nic.flags:#x}",
        "link": f"{nic.operstate}, carrier {nic.carrier}",
        "driver": nic.driver,
        "virtio features": " ".join(features),
        "offloads": ", ".join(name for name, state in sorted(nic.features.items()) if state.startswith("on")),
        "queue pairs": f"{nic.channels} of {nic.channels_max}",
        "multicast filter": " ".join(sorted(nic.multicast)),
    }


def guest_view(before: GuestView, after: GuestView) -> tuple[GuestFact, ...]:
    """The facts of both views side by side."""
    later = _facts(after)
    return tuple(GuestFact(name, value, later[name]) for name, value in _facts(before).items())


def queue_shares(before: NicInfo, after: NicInfo) -> tuple[QueueShare, ...]:
    """Packets of each queue pair between two views; empty when the guest's kernel does not count by queue."""
    numbers = sorted({int(name[2:]) for name in after.queue_packets if name[2:].isdigit()})

    def moved(name: str) -> int | None:
        first, last = before.queue_packets.get(name), after.queue_packets.get(name)
        return None if first is None or last is None else last - first

    return tuple(QueueShare(number, moved(f"rx{number}"), moved(f"tx{number}")) for number in numbers)


def budget_of_busiest_queue(budget: Budget | None, shares: tuple[QueueShare, ...], rate: float) -> Budget | None:
    """The budget of the queue that carried most: several flows may use one.

    :param budget: of a queue that one flow uses.
    :param shares: empty when the guest's kernel does not count by queue.
    :param rate: test packets/s, of all queues together.
    """
    received = [share.received or 0 for share in shares]
    if budget is None or not any(received):
        return budget
    return replace(budget, rate=max(budget.rate, rate * max(received) / sum(received)))


def queue_use_check(shares: tuple[QueueShare, ...], queues: int) -> Check:
    """Every queue pair in use must carry packets: the update proves nothing about an idle one.

    :param queues: queue pairs that the guest uses.
    """
    idle = [str(share.queue) for share in shares[:queues] if not share.received or not share.sent]
    expected = f"packets in both directions on each of {queues} queue pairs"
    if len(shares) < queues:
        return Check("every-queue-used", Outcome.INCONCLUSIVE, expected, f"counters of {len(shares)} only")
    observed = f"queue pair {', '.join(idle)} carried none" if idle else "each carried some"
    return Check("every-queue-used", Outcome.INCONCLUSIVE if idle else Outcome.PASS, expected, observed)


def death_checks(folder: Path, counts_against_qemu: bool) -> tuple[Check, ...]:
    """A failed check for each QEMU that crashed, and for each console on which the guest's kernel died.

    They do not depend on what the test waited for. They include QEMUs below the case's own: one that restored the guest
    before it was booted, and one without an update for comparison.

    :param folder: the case's, with the consoles and what QEMUs left that crashed.
    :param counts_against_qemu: an update had begun: the death of a guest is a fail, unless it had no memory; else it is
        inconclusive. A crash of QEMU is always a fail.
    """
    found = []
    for path in sorted(folder.rglob("backtrace-*.txt")):
        name, shown = path.stem.removeprefix("backtrace-"), path.relative_to(folder)
        output = read_text(path.with_name(f"stderr-{name}.log"))  # empty for a successor in its source's process
        how = read_text(path).partition("\n")[0]
        message = f"the {name} was {how}: {last_message(output) or 'it said nothing'}; see {shown}"
        found.append(Check("qemu-lives", Outcome.FAIL, "no QEMU crashes", how, message))
    for path in sorted(folder.glob("console-*.log")):
        console = Console(path)
        try:
            console.check()
        except GuestFailed as error:
            message = f"{path.name}: {error.happened}"
            died = Outcome.FAIL if counts_against_qemu else Outcome.INCONCLUSIVE
            if console.ran_out_of_memory():
                died, message = Outcome.INCONCLUSIVE, f"{message}; it ran out of memory: -p memory=MiB gives more"
            found.append(Check("guest-lives", died, "the guest's kernel runs", "it died", message))
    return tuple(found)


def starvation_checks(folder: Path, control_run_ms: float | None, failed_update: bool) -> tuple[Check, ...]:
    """A check for each QEMU in which a processor of the guest got no time for many seconds.

    It fails, since a target can lose the guest's timer interrupt, unless this machine may be the cause.

    :param folder: the case's, with the consoles.
    :param control_run_ms: longest gap in the control run, ms; None without one: then nothing is known of the machine.
    :param failed_update: the source has run the guest after an update that failed, too.
    """
    found = []
    for path in sorted(folder.glob("console-*.log")):
        if line := Console(path).starved():
            name = path.stem.removeprefix("console-")
            outcome, message = Outcome.FAIL, f"in the {name}, a processor of the guest got no time: {line}"
            if name == SOURCE and not failed_update:
                outcome, message = Outcome.INCONCLUSIVE, f"without an update, {message}"
            elif control_run_ms is None:
                outcome, message = Outcome.INCONCLUSIVE, f"without a control run, {message}"
            elif control_run_ms >= STANDSTILL_MS:
                outcome = Outcome.INCONCLUSIVE
                message += f"; the longest gap in the control run was {control_run_ms:,.0f} ms"
            found.append(Check("guest-not-starved", outcome, "the guest's processors get time", line, message))
    return tuple(found)
