"""Moments at which a guest does not run, or is about to stop: paused, suspended, powered off, reset, rebooting.

Each brings the guest there, updates it, and ends the state. See nic_moments.py.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from cprlib.deadline import Deadline
from cprlib.errors import Awaited, InstrumentError, QmpRefused
from cprlib.guest.image import BZ_IMAGE
from cprlib.qemu.binary import QemuBinary, device_types
from cprlib.testing.nic_view import read_tap_view
from cprlib.update.events import Step
from host_operations import EVENT_S, start_reboot, wait_booted
from nic_moments import OFFLOADS, further_netdev
from operated_guest import OperatedGuest
from operations import Operation

UPDATES_IN_A_BOOT = 5
WATCHDOG = "ib700"  # which a write to an I/O port starts, for as long as the value says: 0 s (hw/watchdog/wdt_ib700.c)
START_WATCHDOG = "o/b 0x443 0xf"  # a command of QEMU's monitor
SPURIOUS = "/sys/firmware/acpi/interrupts/sci_not"  # ACPI interrupts (SCI) with nothing to handle
MOST_SPURIOUS = 3  # one may come again before it is acknowledged
POWER_BUTTON = "/sys/firmware/acpi/interrupts/ff_pwr_btn"  # how often it was pressed, and the state of the event
ALARM, ALARM_S = "/sys/class/rtc/rtc0/wakealarm", 3  # empty without an alarm that is to come; it comes up to 1 s early
WAYS_TO_SUSPEND = "/sys/power/mem_sleep"  # "deep" is ACPI S3


def paused_and_updated_twice(guest: OperatedGuest) -> list[str]:
    """A paused guest is updated, and its target again, before it runs; packets that came meanwhile are answered.

    Another netdev is added before it runs, and removed later, to show that the target accepts one.
    """
    probes = guest.probes[0]
    guest.machine.qmp.execute("stop")
    sent = probes.send()
    guest.updater.live_update("paused")
    guest.updater.live_update("paused-again")
    machine = guest.machine
    netdev = further_netdev(machine)
    machine.plug(netdev)
    machine.qmp.execute("cont")
    lost = probes.count_missing(Deadline(EVENT_S, "answers to the packets that waited"))
    machine.remove_netdev(netdev.identifier)
    return [f"{lost} of {sent} packets that came during the pause were lost"] if lost else []


def not_started(guest: OperatedGuest) -> list[str]:
    """A paused guest is updated, and reset in the target: then the tap is as for a NIC without a driver.

    Not started (run state prelaunch), it is updated again, first in vain, and boots.
    """
    boot = guest.agent.identity().boot_id
    guest.machine.qmp.execute("stop")
    guest.updater.live_update("before-reset")
    machine = guest.machine
    machine.qmp.execute("system_reset")
    machine.wait_status("prelaunch", seconds=EVENT_S)
    found, tap = [], read_tap_view(guest.topology, machine)
    if tap.attached is not None and tap.attached > 1:
        found.append(f"after a reset {tap.attached} queues are attached")
    if on := [name for name in OFFLOADS if tap.offloads.get(name) == "on"]:
        found.append(f"after a reset the tap has {', '.join(on)}")
    guest.updater.fail_update("not-started-fails")
    guest.updater.live_update("not-started")
    guest.machine.qmp.execute("cont")
    wait_booted(guest, boot)
    return found


def powered_off(guest: OperatedGuest) -> list[str]:
    """The guest powers off, and QEMU stays (``-no-shutdown``); an update keeps the state, in which ``cont`` is refused.

    A reset brings it back to life.
    """
    agent, machine = guest.agent, guest.machine
    boot, seen = agent.identity().boot_id, len(machine.qmp.events)
    machine.qmp.execute("set-action", {"shutdown": "pause"})
    agent.power_off()
    machine.qmp.wait_event("SHUTDOWN", deadline=Deadline(EVENT_S, "the guest to power off", Awaited.GUEST), after=seen)
    machine.wait_status("shutdown", seconds=EVENT_S)
    guest.updater.live_update("powered-off")
    machine, found = guest.machine, []
    with contextlib.suppress(QmpRefused):
        machine.qmp.execute("cont")
        found.append("cont was not refused")
    machine.qmp.execute("system_reset")
    machine.wait_status("prelaunch", seconds=EVENT_S)
    machine.qmp.execute("cont")
    wait_booted(guest, boot)
    return found


def has_watchdog(guest: OperatedGuest) -> bool:
    """Whether the guest has the watchdog; it has when QEMU knows one (:func:`watchdog_arguments`)."""
    return WATCHDOG in guest.machine.settings.extra


def watchdog_arguments(qemu: QemuBinary) -> tuple[str, ...]:
    """QEMU's options for the watchdog; none when it has no such device."""
    return ("-device", WATCHDOG) if WATCHDOG in device_types(qemu) else ()


def stopped_by_watchdog(guest: OperatedGuest) -> list[str]:
    """The guest's watchdog expires, and QEMU stops the guest, as ``set-action`` says (run state watchdog).

    An update that fails keeps that, and so does one that works; then management continues the guest.
    """
    machine = guest.machine
    machine.qmp.execute("set-action", {"watchdog": "pause"})
    machine.qmp.execute("human-monitor-command", {"command-line": START_WATCHDOG})
    machine.wait_status("watchdog", seconds=EVENT_S)
    guest.updater.fail_update("watchdog-fails")
    guest.updater.live_update("watchdog")
    guest.machine.qmp.execute("cont")
    return []


def alarm_set(guest: OperatedGuest) -> list[str]:
    """The guest has set the alarm of its real-time clock, which comes in the target.

    :raises InstrumentError: the source ran the guest for so long that it may have come there.
    """
    asked_ns = time.time_ns()

    def set_alarm() -> None:
        nonlocal asked_ns
        asked_ns = time.time_ns()
        guest.agent.set_alarm(ALARM_S)

    guest.updater.live_update("alarm-set", set_alarm)
    came = Deadline(ALARM_S + EVENT_S, "the alarm of the guest's real-time clock", Awaited.GUEST)
    came.poll(lambda: not guest.agent.files([ALARM])[ALARM].text.strip(), 0.05)
    stops_ns = (update.times_ns.get(Step.STOP, 0) for update in guest.running_guest.updates[-1:])
    if (ran_s := (max(stops_ns, default=0) - asked_ns) / 1e9) > ALARM_S - 1:
        raise InstrumentError("see the alarm in the target", f"the source still ran the guest for {ran_s:.1f} s")
    return []


def power_button(guest: OperatedGuest) -> list[str]:
    """QMP ``system_powerdown``, the power button, of a paused guest, which sees it in the target; then again there.

    The interrupt (SCI) ends when the guest has handled it.
    """
    pressed, spurious = _count(guest, POWER_BUTTON), _count(guest, SPURIOUS)
    guest.machine.qmp.execute("stop")
    guest.machine.qmp.execute("system_powerdown")
    guest.updater.live_update("power-button")
    guest.machine.qmp.execute("cont")
    _wait_pressed(guest, pressed + 1)
    more = _count(guest, SPURIOUS) - spurious
    guest.machine.qmp.execute("system_powerdown")
    _wait_pressed(guest, pressed + 2)
    return [f"{more} ACPI interrupts (SCI) with nothing to handle"] if more > MOST_SPURIOUS else []


def _wait_pressed(guest: OperatedGuest, times: int) -> None:
    seen = Deadline(EVENT_S, "the guest to see its power button", Awaited.GUEST)
    seen.poll(lambda: _count(guest, POWER_BUTTON) == times, 0.05)


def _count(guest: OperatedGuest, path: str) -> int:
    return int(guest.agent.files([path])[path].text.split()[0])


def reboot(guest: OperatedGuest) -> list[str]:
    """The guest reboots, and is updated when it has just been reset, and on until it has booted: five times."""
    boot = guest.agent.identity().boot_id
    guest.updater.live_update("rebooting-1", lambda: start_reboot(guest))
    for number in range(2, UPDATES_IN_A_BOOT + 1):
        guest.updater.live_update(f"rebooting-{number}")
    wait_booted(guest, boot)
    return []


def can_suspend(guest: OperatedGuest) -> bool:
    """Whether the guest has suspend to RAM, and can be woken: its kernel is a bzImage (GuestSpec.suspends)."""
    ways = guest.agent.files([WAYS_TO_SUSPEND]).get(WAYS_TO_SUSPEND)
    return guest.machine.settings.kernel.name == BZ_IMAGE and ways is not None and "deep" in ways.text


def suspended(guest: OperatedGuest) -> list[str]:
    """The guest is suspended to RAM (ACPI S3) in an update that fails and in one that works; it is woken after each."""
    found = _while_suspended(guest, lambda: guest.updater.fail_update("suspended-fails"))
    guest.wait_answers()
    return found + _while_suspended(guest, lambda: guest.updater.live_update("suspended"))


def suspended_and_stopped(guest: OperatedGuest) -> list[str]:
    """The guest is suspended to RAM, and management stops it, in an update."""
    return _while_suspended(guest, lambda: _update_stopped(guest))


def _update_stopped(guest: OperatedGuest) -> None:
    """Update a suspended guest that management has stopped; ``cont`` in the target does not wake it up."""
    guest.machine.qmp.execute("stop")
    guest.updater.live_update("suspended-and-stopped")
    guest.machine.qmp.execute("cont")
    guest.machine.wait_status("suspended", seconds=EVENT_S)


def _while_suspended(guest: OperatedGuest, act: Callable[[], None]) -> list[str]:
    boot, machine = guest.agent.identity().boot_id, guest.machine
    seen = len(machine.qmp.events)
    guest.agent.suspend()
    machine.qmp.wait_event("SUSPEND", deadline=Deadline(EVENT_S, "the guest to suspend", Awaited.GUEST), after=seen)
    act()
    found = guest.answers_while("the guest was suspended")
    machine = guest.machine
    machine.qmp.execute("system_wakeup")
    machine.wait_status("running", seconds=EVENT_S)
    guest.configure_queues()  # the driver has mapped queues to CPUs again (virtnet_set_affinity(), virtio_net.c)
    same = guest.agent.identity().boot_id == boot
    return found if same else [*found, "the guest has booted instead of waking up"]


PAUSED = Operation("paused-twice", "the guest stays paused; packets that waited are answered", paused_and_updated_twice)
NOT_STARTED = Operation("not-started", "the guest is not started before cont; then it boots", not_started)
SUSPENDED = Operation("suspended", "the guest stays suspended until it is woken", suspended, can_suspend)
SUSPENDED_AND_STOPPED = Operation(
    "suspended-and-stopped", "cont does not wake the guest; it is woken", suspended_and_stopped, can_suspend
)
POWERED_OFF = Operation("powered-off", "the guest stays powered off until it is reset; then it boots", powered_off)
ALARM_SET = Operation("alarm-set", "the alarm of the guest's real-time clock comes", alarm_set)
BUTTON = Operation("power-button", "the guest sees its power button pressed, before and after the update", power_button)
STOPPED_BY_WATCHDOG = Operation(
    "stopped-by-watchdog", "the guest stays stopped by its watchdog until cont", stopped_by_watchdog, has_watchdog
)
REBOOT = Operation("rebooting", "the guest boots", reboot)
