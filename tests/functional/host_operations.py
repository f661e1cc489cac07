"""Operations of management and of the guest as a whole: pause, links, hot-plug, reboot, migration, and traffic."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cprlib.deadline import Deadline
from cprlib.errors import Awaited, DeadlineExceeded, GuestFailed, QemuFailed
from cprlib.guest.replies import GUEST_INTERFACE
from cprlib.linux.descriptors import DEVICE_KINDS, read_table
from cprlib.linux.topology import GUEST, guest_end
from cprlib.qemu.command_line import file_channel
from cprlib.qemu.machine import Machine
from cprlib.qemu.nic_state import ANNOUNCE_FEATURES
from cprlib.testing.nic_view import set_link
from cprlib.traffic.frames import FrameClass
from cprlib.traffic.other_frames import OtherFrames
from cprlib.traffic.tcp import TcpEndpoint, TcpEndpointSettings, TcpRole, content_errors
from cprlib.update.outcome import ENDED_STATES, wait_migration
from cprlib.update.running_guest import RunningGuest
from nic_operations import nic_changes
from operated_guest import OperatedGuest
from operations import Operation

EVENT_S, MIGRATE_S, TCP_S, ANNOUNCED_S = 20.0, 60.0, 60.0, 15.0
BOOTS, BOOT_S = 5, 20.0  # as many times the guest's first boot, and firmware
REBOOTS = ("-action", "reboot=reset")  # for a QEMU whose guest is reset: the suite's QEMUs have -no-reboot
STREAM_MAGIC = b"QEVM"  # QEMU_VM_FILE_MAGIC, migration/savevm.c
ORDINARY = {"x-ignore-shared": True, "return-path": False, "pause-before-switchover": False}
TCP_PORT, CONNECTIONS, TCP_BYTES, TCP_RATE = 5300, 8, 20_000, 10_000_000
TCP_ROUNDS = 6  # of 8 connections, which choose queues at random: one of 4 queues gets none in 1 of 250,000 cases
ALONE_S, QUIET_S = 10.0, 0.01  # for an answer; before each packet
LATE_S = 0.3  # for answers that must not come; later ones come on a busy machine
MOST_LOST = 2


def stop_and_continue(guest: OperatedGuest) -> list[str]:
    """QMP ``stop``, packets that wait meanwhile, ``cont``."""
    machine, probes = guest.machine, guest.probes[0]
    machine.qmp.execute("stop")
    found = [] if (state := machine.status()) == "paused" else [f"run state {state} after stop"]
    sent, seen = probes.send(), len(machine.qmp.events)
    machine.qmp.execute("cont")
    resumed = machine.qmp.wait_event("RESUME", deadline=Deadline(EVENT_S, "RESUME", Awaited.QEMU), after=seen)
    lost = probes.count_missing(Deadline(EVENT_S, "answers to the packets that waited"))
    if lost:
        found.append(f"{lost} of {sent} packets that came during the pause were lost")
    if probes.first_answer_ns is not None and probes.first_answer_ns < resumed.time_ns:
        found.append("the guest answered while it was stopped")
    return found


def switch_link(guest: OperatedGuest) -> list[str]:
    """QMP ``set_link`` of the NIC: down and up."""
    return while_down(guest, "link", set_link)


def while_down(
    guest: OperatedGuest, what: str, set_state: Callable[..., None], act: Callable[[], None] = lambda: None
) -> list[str]:
    """What a guest answers or receives while its link or tap is down, and how its NIC differs when both are up again.

    :param set_state: :func:`set_link` or :func:`set_tap_state`.
    :param act: updates the guest while it is down.
    """
    nic = guest.nics()[0]
    set_state(guest.running_guest, up=False)
    act()
    before = guest.nics()[0].counters["rx_packets"]
    found = guest.answers_while(f"the {what} was down")
    if received := guest.nics()[0].counters["rx_packets"] - before:
        found.append(f"the guest received {received} packets while the {what} was down")
    set_state(guest.running_guest, up=True)
    found += nic_changes(nic, guest.nics()[0])
    if late := guest.probes[0].count_late(Deadline(LATE_S, "late answers")):
        found.append(f"the guest answered {late} packets of the time when the {what} was down")
    return found


def switch_tap(guest: OperatedGuest) -> list[str]:
    """``ip link set tap0 down`` on the host, and up."""
    return while_down(guest, "tap", set_tap_state)


def set_tap_state(guest: RunningGuest, *, up: bool) -> None:
    """Set the guest's tap up or down on the host."""
    switch = guest.topology.switch
    switch.netlink.link("set", index=switch.index(guest.tap), state="up" if up else "down")


def plug_again(guest: OperatedGuest) -> list[str]:
    """``device_del``, ``netdev_del``, ``netdev_add``, ``device_add`` of the first NIC."""
    machine, agent = guest.machine, guest.agent
    before, netdev, nic = machine.settings, machine.settings.netdevs[0], machine.settings.nics[0]
    counts = [read_table(machine.pid).count(*DEVICE_KINDS)]
    machine.remove_nic(nic.identifier)
    deadline = Deadline(EVENT_S, "the guest to be without the NIC", Awaited.GUEST)
    deadline.poll(lambda: all(item.name != GUEST_INTERFACE for item in agent.network().nics), 0.02)
    machine.remove_netdev(netdev.identifier)
    counts.append(read_table(machine.pid).count(*DEVICE_KINDS))
    guest.wait_others()
    machine.plug(netdev, nic)
    machine.settings = replace(machine.settings, netdevs=before.netdevs, nics=before.nics)  # a target has them in order
    counts.append(read_table(machine.pid).count(*DEVICE_KINDS))
    guest.wait_nic()
    expected = [counts[0], counts[0] - netdev.descriptors, counts[0]]
    return [] if counts == expected else [f"{counts} tap and vhost descriptors before, without and with it: {expected}"]


def reboot(guest: OperatedGuest) -> list[str]:
    """The guest reboots: QEMU resets the machine, and the guest boots in the same process."""
    boot = guest.agent.identity().boot_id
    start_reboot(guest)
    wait_booted(guest, boot)
    guest.machine.qmp.execute("set-action", {"reboot": "shutdown"})
    return []


def start_reboot(guest: OperatedGuest) -> None:
    """Let the guest reboot, until it resets the machine; the firmware may do so once more (SeaBIOS, src/resume.c)."""
    machine = guest.machine
    seen = len(machine.qmp.events)
    machine.qmp.execute("set-action", {"reboot": "reset"})  # QEMU was started with -no-reboot
    guest.agent.reboot()
    machine.qmp.wait_event(
        "RESET", deadline=Deadline(EVENT_S, "the guest to reset the machine", Awaited.GUEST), after=seen
    )


def wait_booted(guest: OperatedGuest, boot: str) -> None:
    """Wait until a guest that reboots has its NIC again.

    :param boot: id of the boot before.
    """

    def booted() -> bool:
        guest.machine.check_alive("reboot the guest")
        with contextlib.suppress(DeadlineExceeded, GuestFailed):
            return guest.agent.identity().boot_id != boot
        return False

    deadline = Deadline(BOOTS * guest.boot_s + BOOT_S, "the guest to boot again", Awaited.GUEST)
    deadline.poll(booted, 0.1)
    guest.wait_nic()


def migrate_to_file(guest: OperatedGuest) -> list[str]:
    """An ordinary migration to a file, without the shared RAM; then the guest continues in the source."""
    machine, path = guest.machine, guest.running_guest.folder / "ordinary-migration"
    own = guest.running_guest.mechanism.handling.parameters(machine.settings.netdevs[0])
    given = machine.qmp.execute("query-migrate-parameters") if own else {}
    machine.set_capabilities(ORDINARY)
    # a file takes no descriptors
    machine.qmp.execute("migrate-set-parameters", {"mode": "normal", **dict.fromkeys(own, False)})
    try:
        return _migrate_to(machine, path)
    finally:
        with contextlib.suppress(QemuFailed):  # it has died, which the caller finds
            machine.set_capabilities(dict.fromkeys(ORDINARY, False))
            machine.qmp.execute("migrate-set-parameters", {name: given.get(name, False) for name in own})
        path.unlink(missing_ok=True)


def _migrate_to(machine: Machine, path: Path) -> list[str]:
    machine.qmp.execute("migrate", {"channels": [file_channel(path.absolute())]})
    migration = wait_migration(machine, *ENDED_STATES, seconds=MIGRATE_S)
    found = [f"the migration {migration.status}: {migration.error}"] if migration.failed else []
    machine.wait_status("postmigrate", "running", seconds=EVENT_S)
    machine.qmp.execute("cont")
    if (content := _start_of(path)) != STREAM_MAGIC:
        found.append(f"the file begins with {content.hex() or 'nothing'}")
    return found


def _start_of(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(len(STREAM_MAGIC))
    except OSError:
        return b""


def announce(guest: OperatedGuest) -> list[str]:
    """QMP ``announce-self``: QEMU sends RARP for each NIC, and each NIC lets its guest send ARP."""
    macs = [guest_end(number).mac for number in range(len(guest.probes))]
    asked = [nic.agreed_on(*ANNOUNCE_FEATURES) for nic in guest.nics()]
    missing = {(FrameClass.RARP, mac) for mac in macs}
    missing |= {(FrameClass.ARP, mac) for mac, by_guest in zip(macs, asked, strict=True) if by_guest}
    with OtherFrames(guest.topology.station) as frames:
        rounds = {"initial": 20, "max": 50, "rounds": 2, "step": 10}  # ms
        guest.machine.qmp.execute("announce-self", rounds)

        def all_announced() -> bool:
            missing.difference_update((frame.kind, frame.sender) for frame in frames.read())
            return not missing

        with contextlib.suppress(DeadlineExceeded):
            Deadline(ANNOUNCED_S, "announcements").poll(all_announced, 0.02)
    return [f"no {kind.upper()} from {mac}" for kind, mac in sorted(missing)]


def send_single_packets(guest: OperatedGuest) -> list[str]:
    """One packet at a time on each flow of each NIC, and its answer: each needs its own kick and interrupt."""
    found = []
    for number, probes in enumerate(guest.probes):
        lost = 0
        for flow in range(probes.count):
            lost += not probes.round_trip(flow, Deadline(ALONE_S, "an answer"), quiet_s=QUIET_S)
            if lost == MOST_LOST:
                break
        if lost:
            found.append(f"eth{number}: {lost} or more single packets or their answers did not arrive")
    return found


def exchange_tcp(guest: OperatedGuest) -> list[str]:
    """TCP connections in both directions, until each queue pair in use of the first NIC has carried some."""
    before = guest.nics()[0]
    idle: list[int] = []
    for number in range(TCP_ROUNDS):
        if found := _tcp_round(guest, TCP_PORT + CONNECTIONS * number):
            return found
        now = guest.nics()[0]
        names = [(queue, f"{way}{queue}") for queue in range(guest.used) for way in ("rx", "tx")]
        idle = [q for q, name in names if now.queue_packets.get(name, 1) == before.queue_packets.get(name, 0)]
        if not idle:
            return []
    return [f"queue pairs {sorted(set(idle))} carried no TCP of {TCP_ROUNDS * CONNECTIONS} connections"]


def _tcp_round(guest: OperatedGuest, first_port: int) -> list[str]:
    """Some connections at once, half of them in each direction; returns their errors."""
    agent, roles = guest.agent, itertools.cycle(TcpRole)
    agent.reset_tcp()
    with contextlib.ExitStack() as stack:
        indexes, ends = [], []
        for port, role in zip(range(first_port, first_port + CONNECTIONS), roles, strict=False):
            rate, count = (0, 0) if role is TcpRole.SOURCE else (TCP_RATE, TCP_BYTES)
            indexes.append(agent.start_tcp(role.opposite, port, rate=rate, byte_count=count))
            with guest.topology.station.entered():
                settings = TcpEndpointSettings(role, port, GUEST.ipv4, rate=TCP_RATE, byte_count=TCP_BYTES)
                ends.append(stack.enter_context(TcpEndpoint(settings)))
        deadline = Deadline(TCP_S, "TCP connections to end", Awaited.GUEST)
        results = [agent.finished_tcp(index, deadline) for index in indexes]
        reports = [end.finish(Deadline(TCP_S, "a connection to be closed")) for end in ends]
    return [
        f"TCP {'to' if report.role is TcpRole.SOURCE else 'from'} the guest: {error}"
        for report, result in zip(reports, results, strict=True)
        for error in content_errors(report, result.byte_count, result.crc32, result.error)
    ]


STOP = Operation(
    "stop-cont", "paused, then running; packets that came in the pause are answered after it", stop_and_continue
)
LINK = Operation("set-link", "the guest sees the link down and up; nothing passes while it is down", switch_link)
TAP = Operation("tap-down-up", "nothing passes while the tap is down", switch_tap)
PLUG = Operation("hot-plug", "the NIC goes and returns; netdev_del closes its descriptors", plug_again)
REBOOT = Operation("reboot", "the guest boots again in the same QEMU", reboot)
MIGRATION = Operation("migration-to-file", "completed, with QEMU's magic in the file; cont resumes", migrate_to_file)
ANNOUNCE = Operation(
    "announce-self", "RARP from QEMU for each NIC, and ARP from a guest that has the feature", announce
)
SINGLE_PACKETS = Operation("single-packet", "each single packet and its answer arrive", send_single_packets)
TCP = Operation("tcp", "equal content at both ends in both directions, on each queue pair", exchange_tcp)
