"""Moments at which a guest is updated: each brings the guest into a state, updates it, and ends the state.

They are operations (operations.py): one that fails is repeated on a guest that is not updated in between.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from cprlib.deadline import Deadline
from cprlib.errors import Awaited
from cprlib.guest.image import BZ_IMAGE
from cprlib.testing.nic_view import set_link
from cprlib.update.outcome import wait_run_state
from host_operations import EVENT_S, set_tap_state, start_reboot, wait_booted, while_down
from operated_guest import OperatedGuest
from operations import Operation

UPDATES_IN_A_BOOT = 5
WAYS_TO_SUSPEND = "/sys/power/mem_sleep"  # "deep" is ACPI S3


def interface_down(subject: OperatedGuest) -> list[str]:
    """``ip link set eth0 down`` in the guest; after the update up, with the addresses that the kernel has removed."""
    subject.guest.agent.set_interface(up=False)
    subject.update("interface-down")
    found = subject.answers_while("the interface was down")
    subject.wait_nic()
    return found


def driver_unbound(subject: OperatedGuest) -> list[str]:
    """The NIC has no driver in the guest: no features are negotiated, and vhost does not run."""
    agent, before = subject.guest.agent, subject.nics()[0]
    bound = agent.unbind_driver()
    subject.update("driver-unbound")
    found = subject.answers_while("the NIC had no driver")
    agent.bind_driver(bound)
    subject.wait_nic()
    now = subject.nics()[0]
    return found + [
        f"{name} were {getattr(before, name)}, are {getattr(now, name)}"
        for name in ("virtio_features", "features", "channels")
        if getattr(before, name) != getattr(now, name)
    ]


def link_down(subject: OperatedGuest) -> list[str]:
    """QMP ``set_link`` down: QEMU has stopped vhost; it starts in the target when the link is up again."""
    return while_down(subject, "link", set_link, updated=True)


def tap_down(subject: OperatedGuest) -> list[str]:
    """``ip link set tap0 down`` on the host while vhost or QEMU has it open."""
    return while_down(subject, "tap", set_tap_state, updated=True)


def paused_and_updated_twice(subject: OperatedGuest) -> list[str]:
    """A paused guest is updated, and its target again, before it runs; packets that came meanwhile are answered.

    The target takes a further netdev then.
    """
    probes = subject.probes[0]
    subject.guest.machine.qmp.execute("stop")
    sent = probes.send()
    subject.update("paused")
    subject.update("paused-again")
    subject.guest.machine.qmp.execute("cont")
    lost = probes.count_missing(Deadline(EVENT_S, "answers to the packets that waited"))
    machine = subject.guest.machine
    machine.plug(replace(machine.settings.netdevs[0], identifier="further", interface="further"))
    machine.remove_netdev("further")
    return [f"{lost} of {sent} packets that came during the pause were lost"] if lost else []


def not_started(subject: OperatedGuest) -> list[str]:
    """A paused guest is reset, and so not started (run state prelaunch), in an update that fails and in one that works.

    Then it boots.
    """
    boot, machine = subject.guest.agent.identity().boot_id, subject.guest.machine
    machine.qmp.execute("stop")
    machine.qmp.execute("system_reset")
    deadline = Deadline(EVENT_S, "the machine to be reset", Awaited.QEMU)
    wait_run_state(machine, lambda state: state == "prelaunch", deadline)
    subject.fails("not-started-fails")
    subject.update("not-started")
    subject.guest.machine.qmp.execute("cont")
    wait_booted(subject, boot)
    return []


def unplug_pending(subject: OperatedGuest) -> list[str]:
    """``device_del`` of a paused guest, which has not released its NIC when it is updated; it does in the target.

    Then the netdev is removed, and both are added again.
    """
    machine = subject.guest.machine
    before, netdev, nic = machine.settings, machine.settings.netdevs[0], machine.settings.nics[0]
    machine.qmp.execute("stop")
    machine.qmp.execute("device_del", {"id": nic.identifier})
    subject.update("unplug-pending")
    machine = subject.guest.machine
    seen = len(machine.qmp.events)
    machine.qmp.execute("cont")
    machine.wait_removed(nic.identifier, after=seen)
    machine.remove_netdev(netdev.identifier)
    subject.wait_others()
    machine.plug(netdev, nic)
    machine.settings = replace(machine.settings, netdevs=before.netdevs, nics=before.nics)  # a target has them in order
    subject.wait_nic()
    return []


def reboot(subject: OperatedGuest) -> list[str]:
    """The guest reboots, and is updated when it has just been reset, and on until it has booted: five times."""
    boot = subject.guest.agent.identity().boot_id
    subject.update("rebooting-1", lambda: start_reboot(subject))
    for number in range(2, UPDATES_IN_A_BOOT + 1):
        subject.update(f"rebooting-{number}")
    wait_booted(subject, boot)
    return []


def can_suspend(subject: OperatedGuest) -> bool:
    """Whether the guest has suspend to RAM, and can be woken: its kernel is a bzImage (GuestSpec.suspends)."""
    ways = subject.guest.agent.files([WAYS_TO_SUSPEND]).get(WAYS_TO_SUSPEND)
    return subject.guest.machine.settings.kernel.name == BZ_IMAGE and ways is not None and "deep" in ways.text


def suspended(subject: OperatedGuest) -> list[str]:
    """The guest is suspended to RAM (ACPI S3) in an update that fails, and in one that works, and woken after each."""
    boot = subject.guest.agent.identity().boot_id
    found = _while_suspended(subject, lambda: subject.fails("suspended-fails"))
    subject.wait_answers()
    found += _while_suspended(subject, lambda: subject.update("suspended"))
    same = subject.guest.agent.identity().boot_id == boot
    return found if same else [*found, "the guest has booted instead of waking up"]


def _while_suspended(subject: OperatedGuest, act: Callable[[], None]) -> list[str]:
    machine = subject.guest.machine
    seen = len(machine.qmp.events)
    subject.guest.agent.suspend()
    machine.qmp.wait_event("SUSPEND", deadline=Deadline(EVENT_S, "the guest to suspend", Awaited.GUEST), after=seen)
    act()
    found = subject.answers_while("the guest was suspended")
    machine = subject.guest.machine
    machine.qmp.execute("system_wakeup")
    wait_run_state(machine, lambda state: state == "running", Deadline(EVENT_S, "the guest to wake up", Awaited.QEMU))
    return found


INTERFACE_DOWN = Operation("interface-down", "no answer until the interface is up again", interface_down)
DRIVER_UNBOUND = Operation("driver-unbound", "a driver that is bound finds the same NIC", driver_unbound)
LINK_DOWN = Operation("link-down", "the guest sees the link down, and up again; no packet in between", link_down)
TAP_DOWN = Operation("tap-down", "no packet until the tap is up again", tap_down)
PAUSED = Operation("paused-twice", "the guest stays paused; packets that waited are answered", paused_and_updated_twice)
NOT_STARTED = Operation("not-started", "the guest is not started before cont; then it boots", not_started)
SUSPENDED = Operation("suspended", "the guest stays suspended until it is woken", suspended, can_suspend)
UNPLUG = Operation("unplug-pending", "the guest releases the NIC in the target, and finds it again", unplug_pending)
REBOOT = Operation("rebooting", "the guest boots", reboot)
MOMENTS = (INTERFACE_DOWN, DRIVER_UNBOUND, LINK_DOWN, TAP_DOWN, PAUSED, SUSPENDED, UNPLUG, NOT_STARTED, REBOOT)
