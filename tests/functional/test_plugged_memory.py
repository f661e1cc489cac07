"""Memory that is plugged into a running guest: vhost reads and writes it, and an update keeps it."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace

from cprlib.deadline import Deadline
from cprlib.errors import Awaited, DeadlineExceeded, GuestFailed, NotSupported, SkipWord
from cprlib.evidence.records import Role
from cprlib.guest.agent import AgentConnection
from cprlib.guest.state import total_memory_kib
from cprlib.qemu.machine import Machine
from cprlib.qemu.netdev import TapNetdev
from cprlib.testing.guest_spec import MIB_PER_QUEUE_PAIR, GuestSpec, mib_per_queue_pair
from cprlib.testing.live_update_test import LiveUpdateTest
from cprlib.testing.measured_case import MeasuredCase
from cprlib.testing.nic_frames import exchange_packets, expect_none_lost
from cprlib.traffic.flow import StreamSettings, flows_between
from cprlib.traffic.probes import TRAFFIC_ANSWER_S, warm_up
from cprlib.traffic.session import TrafficSession

DIMM = "pc-dimm"
DIMM_MIB = 128  # a memory block of a guest on x86-64 (sparse_init(), mm/sparse.c)
MEMORY_INFO = "/proc/meminfo"
PLUGGED_S = SENT_S = 20.0
PACKETS, RATE = 4000, 3000.0  # several MiB of the guest's buffers; packets/s
BUFFER = 32 << 20  # of the socket, in bytes


class PluggedMemory(LiveUpdateTest):
    """Mechanism ``cpr``; a guest with room for a DIMM."""

    def test_plugged_memory_carries_packets(self) -> None:
        """A guest whose memory grows after an update exchanges all packets, also after the next update.

        Linux takes new pages from new memory first, because it lies above 4 GiB, in a zone of its own. Packets that
        wait in a socket use up the buffers that are free before. The target has to give the memory to the vhost device
        that it has inherited, and the next target needs it, too. Patches 3 (vhost: reset vhost devices for cpr) and 6
        (tap: cpr support).

        :avocado: tags=patch:vhost-reset,patch:3,patch:tap-cpr,patch:6
        :avocado: tags=mechanism:cpr,mode:cpr-exec,mechanism:local,vhost:on,queues:1,plug:hot
        """
        run = self.parameters
        large = run.vcpus > 1 or mib_per_queue_pair(run.nic_properties) > MIB_PER_QUEUE_PAIR
        more_mib = 64 if large else 0  # else such a guest, with room for more, does not boot
        spec = GuestSpec(netdevs=(TapNetdev(vhost=True),), role=Role.CHECKS, more_mib=more_mib)
        room = f"slots=1,maxmem={spec.memory_mib(run) + DIMM_MIB}M"
        with self.given_guest(replace(spec, arguments=("-m", room))) as case:
            if not case.guest.machine.qmp.execute("qom-list-types", {"implements": DIMM}):
                happened = f"this QEMU has no device {DIMM}"
                raise NotSupported("give a guest more memory", happened, "build it in", word=SkipWord.NO_DEVICE)
            case.live_update(label="first")
            with case.qemu_step():
                plug_memory(case.guest.machine, case.guest.agent)
                add_and_remove_memory(case.guest.machine)
            fill_memory(case)
            exchange_packets(case, 1, "with-plugged-memory")
            case.live_update(label="second")
            exchange_packets(case, 1, "after-second-update")


def fill_memory(case: MeasuredCase) -> None:
    """Let packets wait in the socket of the guest's reflector, and check that all are answered in the end."""
    guest, flows = case.guest, flows_between(count=1, first_port=case.ports.take())
    settings = StreamSettings(rate=RATE, count=PACKETS)
    guest.topology.set_tap_queue_length(guest.tap, PACKETS)  # none is lost in the tap if the guest stands still
    # else the guest resolves the station's address first, and its kernel drops answers if that takes long
    warm_up(guest.topology.station, flows, Deadline(TRAFFIC_ANSWER_S, "the guest to answer", Awaited.GUEST))
    guest.agent.pause_reflector(receive_buffer=BUFFER)
    with TrafficSession(guest.topology.station, flows, settings, keep_frames=0) as session:
        session.wait_sent(Deadline(SENT_S, "packets to be sent"))
        guest.agent.pause_reflector(paused=False)
        with contextlib.suppress(DeadlineExceeded):  # what is missing is counted below
            session.wait_for_answers(PACKETS, Deadline(SENT_S, "the answers"))
        session.finish()
    guest.topology.set_tap_queue_length(guest.tap, case.parameters.queue_length)
    meaning = f"packets lost of {PACKETS} that waited in the guest"
    expect_none_lost(case, "packets-in-plugged-memory", session.result(), meaning)


def add_and_remove_memory(machine: Machine) -> None:
    """Add a memory backend and remove it again: the next update must not send its descriptor."""
    machine.qmp.execute("object-add", backend_of("removed"))
    machine.qmp.execute("object-del", {"id": "removed"})


def backend_of(identifier: str) -> dict[str, object]:
    """Arguments of ``object-add`` for shared memory of the size of the DIMM."""
    return {"qom-type": "memory-backend-memfd", "id": identifier, "size": DIMM_MIB << 20, "share": True}


def memory_size(agent: AgentConnection) -> int:
    """MemTotal of the guest in KiB.

    :raises GuestFailed: the guest does not have it.
    """
    total = total_memory_kib(agent.files([MEMORY_INFO])[MEMORY_INFO])
    if total is None:
        raise GuestFailed("read the guest's memory", f"no MemTotal in {MEMORY_INFO}")
    return total


def plug_memory(machine: Machine, agent: AgentConnection) -> None:
    """Plug a DIMM, and wait until the guest uses it; QEMU's settings then include it.

    :raises DeadlineExceeded: the guest does not use it.
    """
    before = memory_size(agent)
    backend = backend_of("ram1")
    dimm = {"driver": DIMM, "id": "dimm0", "memdev": backend["id"]}
    machine.qmp.execute("object-add", backend)
    machine.qmp.execute("device_add", dimm)
    deadline = Deadline(PLUGGED_S, "the guest to use more memory", Awaited.GUEST)
    deadline.poll(lambda: memory_size(agent) - before > DIMM_MIB * 1024 // 2)
    words = ("-object", json.dumps(backend), "-device", json.dumps(dimm))
    machine.settings = replace(machine.settings, extra=(*machine.settings.extra, *words))
