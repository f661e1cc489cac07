"""Frames other than test packets: who sent which kind and when, and what an update adds to them.

After an update the guest is announced twice: QEMU sends RARP for each NIC, in rounds (qemu_announce_self(),
net/announce.c), and asks a guest that has agreed on VIRTIO_NET_F_GUEST_ANNOUNCE to send gratuitous ARP and neighbour
advertisements itself (VIRTIO 1.2 section 5.1.6.5.4). A RARP has the NIC's configured address, even when the guest has
changed it. While the guest is stopped, no one may send for it: switches would learn a wrong port.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cprlib.deadline import timeout_scale
from cprlib.evidence.records import Check, Outcome
from cprlib.evidence.update_checks import DELAY_SHARE
from cprlib.linux.topology import GUEST, STATION
from cprlib.traffic.frames import FrameClass
from cprlib.traffic.other_frames import OtherFrame, between
from cprlib.update.events import Step
from cprlib.update.results import ANNOUNCEMENTS_MS, UpdateResult

LINK_WATCH_NS = 1_000_000_000  # a bridge learns up to a second late that a new port has a link (net/core/link_watch.c)
LATE_MS = 1000.0  # of QEMU's timers, on a busy machine
GUEST_ANNOUNCES_MS = 10_000.0  # a guest first answers the packets that waited: 3 s on an overloaded machine
STOPPED_SLACK_NS, RESUMED_SLACK_NS = 20_000_000, 1_000_000  # frames on their way at STOP; resolution of the stamps
GUEST_PREFIX = GUEST.mac[:11]  # of all addresses that tests give a guest
KNOWN = (
    FrameClass.ARP,
    FrameClass.RARP,
    FrameClass.NEIGHBOUR_DISCOVERY,
    FrameClass.MLD,
    FrameClass.IGMP,
    FrameClass.ICMP,
    FrameClass.FRAGMENT,
)
FEW, PER_UPDATE, PER_SECOND = 50, 60, 10  # frames of one kind and sender; more are a storm


@dataclass(frozen=True, slots=True)
class Watched:
    """Frames of a case, and what is known of the time in which they arrived.

    :param frames: in order; :param first_ns, last_ns: the period, CLOCK_REALTIME.
    :param dropped: frames that were not kept.
    :param macs: configured address of each NIC, the measured one first.
    :param answered: the measured NIC carried traffic and its link was up: it has to be announced.
    :param guest_announces: its driver has agreed to announce itself.
    :param on_request: management has asked for announcements too.
    :param other_moves: updates with a fault after which another QEMU may have the guest.
    :param control_run_ms: the longest interruption in a control run, by which QEMU's timers may be late, too; 0.0
        without one.
    """

    frames: tuple[OtherFrame, ...]
    first_ns: int
    last_ns: int
    dropped: int
    macs: tuple[str, ...]
    answered: bool
    guest_announces: bool
    on_request: bool = False
    other_moves: int = 0
    control_run_ms: float = 0.0

    @property
    def late_ms(self) -> float:
        """How late a timer of QEMU may be on this machine."""
        return (LATE_MS + DELAY_SHARE * self.control_run_ms) * timeout_scale()


@dataclass(frozen=True, slots=True)
class AnnouncePeriod:
    """The time from the start of an update's target to STOP of the next update, or to the end of the case.

    :param linked_ns: when the target's tap carries packets at the latest; ``started_ns`` where the source had that tap.
    :param rounds_ms: when the target announces the guest, in ms after RESUME.
    """

    started_ns: int
    stop_ns: int
    resume_ns: int
    linked_ns: int
    rounds_ms: tuple[int, ...]
    end_ns: int
    title: str

    def after_ms(self, time_ns: int) -> float:
        return (time_ns - self.resume_ns) / 1e6


def announce_periods(updates: Sequence[UpdateResult], last_ns: int) -> tuple[AnnouncePeriod, ...]:
    """The periods of the updates whose STOP and RESUME are known."""
    times = [
        (
            started := first.get(Step.TARGET_STARTED, first[Step.STOP]),
            first[Step.STOP],
            first[Step.RESUME],
            first[Step.LINK_SWITCHED] + LINK_WATCH_NS if Step.LINK_SWITCHED in first else started,
            update.announcements_ms,
        )
        for update, first in ((update, update.times_ns) for update in updates)
        if {Step.STOP, Step.RESUME} <= first.keys()
    ]
    ends = [*(stop for _, stop, *_ in times[1:]), last_ns]
    several = len(times) > 1
    return tuple(
        AnnouncePeriod(*each, end, f"update {number}: " if several else "")
        for number, (each, end) in enumerate(zip(times, ends, strict=False), 1)
    )


def frame_checks(watched: Watched, updates: Sequence[UpdateResult], *, first: bool = True) -> Iterator[Check]:
    """The checks of a case's frames; inconclusive where frames were not kept.

    :param updates: empty when each of the case's updates failed.
    :param first: the case has no other updates; otherwise frames of an earlier target may still arrive.
    """
    if watched.dropped:
        reason = f"{watched.dropped} frames were not kept"
        yield Check("other-frames-known", Outcome.INCONCLUSIVE, "every frame is known", reason)
        return
    if not (first or watched.on_request):
        yield _only_moves_announced(watched, updates)
    found = announce_periods(updates, watched.last_ns)
    if not found:
        return
    yield _known_check(watched, len(found))
    yield _silence_check(watched, found, first=first)
    yield _announced_by_qemu(watched, found, first=first)
    if watched.answered and watched.guest_announces and found[-1].rounds_ms:
        yield from _announced_by_guest(watched, found[-1])


def _known_check(watched: Watched, updates: int) -> Check:
    counts = Counter((item.sender, item.kind) for item in watched.frames)
    limit = FEW + PER_UPDATE * updates + PER_SECOND * (watched.last_ns - watched.first_ns) / 1e9
    problems = []
    for (sender, kind), number in sorted(counts.items()):
        if sender == STATION.mac or not sender.startswith(GUEST_PREFIX):
            problems.append(f"{number} {kind} from the unknown sender {sender}")
        elif kind not in KNOWN:
            problems.append(f"{number} of an unknown kind from {sender}")
        elif number > limit:
            problems.append(f"{number} {kind} from {sender}: more than {limit:.0f}")
    seen = ", ".join(f"{number} {kind} from {sender}" for (sender, kind), number in sorted(counts.items()))
    expected = "frames of known kinds from the guest's addresses, not too many"
    return Check.of("other-frames-known", not problems, expected, seen or "none", "; ".join(problems))


def _silence_check(watched: Watched, found: Sequence[AnnouncePeriod], *, first: bool) -> Check:
    problems = []
    for index, period in enumerate(found):
        begin, end = period.stop_ns + STOPPED_SLACK_NS, period.resume_ns - RESUMED_SLACK_NS
        # the time of an earlier update with a fault is not known
        announced_ns = _announced_ns(watched, found[index - 1]) if index else (0 if first else end)
        problems += [
            f"{period.title}{item.kind} from {item.sender} {-period.after_ms(item.time_ns):.0f} ms before RESUME"
            for item in between(watched.frames, begin, end)
            if item.kind is not FrameClass.RARP or item.time_ns > announced_ns
        ]
    text = "; ".join(problems[:5])
    expected = "no frame of the guest or for it between STOP and RESUME"
    meaning = f"a QEMU sent while the guest was stopped: {text}"
    return Check.of("silent-while-stopped", not problems, expected, text or "none", meaning)


def _announced_ns(watched: Watched, period: AnnouncePeriod) -> int:
    """When the target of an update has announced it at the latest, also as the stopped source of the next update."""
    return period.resume_ns + round((max(period.rounds_ms, default=0) + watched.late_ms) * 1e6)


def _only_moves_announced(watched: Watched, updates: Sequence[UpdateResult]) -> Check:
    """A failed update moves no guest, and no QEMU announces it."""
    most = sum(len(update.announcements_ms) for update in updates) + len(ANNOUNCEMENTS_MS) * watched.other_moves
    counts = Counter(item.sender for item in watched.frames if item.kind is FrameClass.RARP)
    seen = ", ".join(f"{number} RARP from {mac}" for mac, number in sorted(counts.items())) or "none"
    moves = len(updates) + watched.other_moves
    expected = f"at most {most} RARP for each NIC in the whole case: {moves} updates moved the guest"
    meaning = f"a QEMU announced a guest that had not moved: {seen}, and {moves} updates moved it"
    return Check.of("only-moves-announced", max(counts.values(), default=0) <= most, expected, seen, meaning)


def _announced_by_qemu(watched: Watched, found: Sequence[AnnouncePeriod], *, first: bool) -> Check:
    frames = [item for item in watched.frames if item.kind is FrameClass.RARP]
    problems, seen = [], []
    early = between(frames, found[0].started_ns, found[0].stop_ns)
    if early and first and not watched.on_request:
        problems.append(f"{len(early)} RARP after the target was started, before the guest stopped in the source")
    for index, period in enumerate(found):
        # the source may still announce its own update
        earlier = found[index - 1].rounds_ms if index else () if first else ANNOUNCEMENTS_MS
        most = len(period.rounds_ms) + len(earlier)
        for mac in watched.macs:
            sent = [item for item in between(frames, period.stop_ns, period.end_ns) if item.sender == mac]
            times = [period.after_ms(item.time_ns) for item in sent]
            text = f"{period.title}{len(sent)} RARP from {mac}"
            seen.append(text + (f" at {', '.join(f'{each:.0f}' for each in times)} ms after RESUME" if times else ""))
            problems += _rounds(watched, period, times, text, most, required=watched.answered)
    strangers = {item.sender for item in frames} - set(watched.macs)
    problems += [f"RARP from {mac}, which no NIC is configured with" for mac in sorted(strangers)]
    rounds = " or ".join(sorted({str(len(period.rounds_ms)) for period in found}))
    expected = f"{rounds} RARP for each NIC from RESUME on, with its configured address"
    meaning = f"QEMU announced the guest wrongly: {'; '.join(problems)}"
    return Check.of("announced-by-qemu", not problems, expected, "; ".join(seen) or "none", meaning)


def _rounds(
    watched: Watched, period: AnnouncePeriod, times: Sequence[float], text: str, most: int, *, required: bool
) -> Iterator[str]:
    late, linked, end = watched.late_ms, period.after_ms(period.linked_ns), period.after_ms(period.end_ns)
    rounds = period.rounds_ms
    due = sum(linked <= each and each + late <= end for each in rounds)
    if required and len(times) < due:
        yield f"{text} within {end:.0f} ms instead of {due}"
    if watched.on_request:
        return
    if len(times) > most:
        yield f"{text} instead of {len(rounds)}"
    elif times and times[-1] > max(rounds, default=0) + 2 * late:
        yield f"{text}, the last {times[-1]:.0f} ms after RESUME"


def _announced_by_guest(watched: Watched, period: AnnouncePeriod) -> Iterator[Check]:
    """The guest's own announcements after the last update, which has time for them: one in each round or a few more."""
    name, expected = "announced-by-guest", "gratuitous ARP of the guest after RESUME"
    sent = [
        period.after_ms(item.time_ns)
        for item in between(watched.frames, period.resume_ns, period.end_ns)
        if item.announces and item.kind is FrameClass.ARP
    ]
    times = ", ".join(f"{each:.0f}" for each in sent)
    linked = period.after_ms(period.linked_ns)
    least = max(sum(linked <= each for each in period.rounds_ms), 1)
    most = 3 * len(period.rounds_ms) * len(watched.macs)
    if len(sent) < least and period.after_ms(period.end_ns) < GUEST_ANNOUNCES_MS * timeout_scale():
        yield Check(name, Outcome.INCONCLUSIVE, expected, f"{len(sent)} of {least}, and the case ended too early")
        return
    yield Check.of(
        name,
        least <= len(sent) and (len(sent) <= most or watched.on_request),
        f"{expected}, {least} to {most}",
        f"{len(sent)} at {times} ms after RESUME" if sent else "none",
        f"the guest announced itself {len(sent)} times: QEMU has to ask it to (VIRTIO_NET_S_ANNOUNCE), in rounds",
    )
