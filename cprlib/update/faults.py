"""Faults of a live update as data: phase, actor, action, and the QEMU that must run the guest afterwards.

:mod:`cprlib.update.fault_injection` carries them out.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cprlib.errors import UsageError
from cprlib.update.mechanism import Mode


class Phase(enum.StrEnum):
    """Progress of an update at the time of the fault: held by an event, proxy or start-up barrier, never by time."""

    TARGET_STARTED = "target started"  # it reads its configuration and does not listen yet
    CPR_READY = "cpr socket ready"
    MODE_SET = "mode set"
    VM_STOPPED = "VM stopped"  # the source waits for its CPR channel to be accepted
    FDS_SENT = "fds sent"  # the source has sent its CPR state, the target has read none of it
    FDS_RECEIVED = "fds received"  # the target has read the CPR state and has created nothing
    CREATING_DEVICES = "target creating devices"  # its netdevs exist and own vhost, its devices do not exist
    MAIN_CONNECTED = "main channel connected"
    BEFORE_SWITCHOVER = "before switchover"  # the main channel is connected, the device state is not sent yet
    STATE_LOADING = "state loading"  # the target has the beginning of the device state
    TARGET_RESUMED = "target resumed"
    SOURCE_QUITS = "source quits"


class Actor(enum.StrEnum):
    """Who acts, or is acted on."""

    SOURCE = "source"
    TARGET = "target"
    MANAGEMENT = "management"


class Action(enum.StrEnum):
    """The action."""

    NOTHING = "nothing"
    KILL = "kill -9"
    TERMINATE = "SIGTERM"
    PAUSE = "SIGSTOP, then SIGCONT"
    CANCEL = "migrate_cancel"
    HMP_CANCEL = "migrate_cancel of HMP"
    YANK = "yank of the migration"
    MIGRATE_AGAIN = "a second migrate"
    CONTINUE = "cont"
    UNPLUG = "device_del of the NIC"
    PLUG = "device_add of a serial port"
    RESET = "system_reset"
    STOP_TARGET = "stop of the target"
    NO_LISTENER = "no listener"
    NO_CPR_CHANNEL = "migrate without a cpr channel"
    CLOSE_CPR = "close the cpr channel"
    CLOSE_MAIN = "close the main channel"
    GARBAGE_CPR = "garbage on the cpr channel"
    GARBAGE_MAIN = "garbage on the main channel"
    TRUNCATE_CPR = "half a message on the cpr channel"
    TRUNCATE_MAIN = "end of stream on the main channel"  # after the first 4 KiB, or what was read with them
    WITHOUT_FDS = "the CPR state without its descriptors"
    EXHAUST_DESCRIPTORS = "descriptor exhaustion"
    OTHER_QUEUES = "another number of queues"
    OTHER_VHOST = "vhost off instead of on, or the reverse"
    OTHER_MACHINE = "another machine type"
    OTHER_VERSION = "a machine version of another distribution"
    OTHER_FEATURES = "fewer features of the NIC"
    OTHER_NIC = "other options of the NIC"
    OTHER_ROM = "an option ROM of another size"
    OTHER_MEMORY = "another memory size"
    OTHER_NETDEV = "another netdev id"
    NO_NETDEV = "no netdev"
    NO_SPACE = "no space for its log"
    NO_NET_ADMIN = "without CAP_NET_ADMIN"


class Survivor(enum.StrEnum):
    """The QEMU that must run the guest afterwards."""

    SOURCE = "source"
    TARGET = "target"
    EITHER = "source or target"
    NEITHER = "neither"


ROM_DEVICE, ROM_BYTES = "virtio-serial-pci", 65536  # the device that has an option ROM; QEMU loads a file of that size
FEWER_FEATURES = ("mrg_rxbuf", "guest_tso4", "host_tso4", "guest_uso4", "guest_uso6", "host_uso")  # of a virtio NIC

TARGET_SETTINGS = (
    Action.OTHER_QUEUES,
    Action.OTHER_VHOST,
    Action.OTHER_MACHINE,
    Action.OTHER_VERSION,
    Action.OTHER_FEATURES,
    Action.OTHER_NIC,
    Action.OTHER_ROM,
    Action.OTHER_MEMORY,
    Action.OTHER_NETDEV,
    Action.NO_NETDEV,
    Action.NO_SPACE,
    Action.NO_NET_ADMIN,
)
"""Actions that are different settings of the target."""

_PHASES: dict[Action, tuple[Phase, ...]] = {
    Action.CLOSE_CPR: (Phase.VM_STOPPED, Phase.FDS_SENT),
    Action.GARBAGE_CPR: (Phase.FDS_SENT,),
    Action.TRUNCATE_CPR: (Phase.FDS_SENT,),
    Action.WITHOUT_FDS: (Phase.FDS_SENT,),
    Action.CLOSE_MAIN: (Phase.MAIN_CONNECTED, Phase.STATE_LOADING),
    Action.GARBAGE_MAIN: (Phase.MAIN_CONNECTED, Phase.STATE_LOADING),
    Action.TRUNCATE_MAIN: (Phase.STATE_LOADING,),
    Action.NO_LISTENER: (Phase.MODE_SET,),
    Action.NO_CPR_CHANNEL: (Phase.MODE_SET,),
    **dict.fromkeys(TARGET_SETTINGS, (Phase.TARGET_STARTED,)),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    :param name: in kebab-case; the names of its checks begin with it.
    :param exits: whether the target must end by itself with an error status, not by a signal.
    :param return_path: the migration has a return path, on which the target reports a failure to the source.
    :param unnoticed: the fault comes when the source has completed the migration, or the source has no return path and
        completes it all the same. If the source has to survive, management resumes it by ``cont``.
    :raises UsageError: the action is impossible in that phase, or for that actor.
    """

    name: str
    phase: Phase
    actor: Actor
    action: Action
    survivor: Survivor = Survivor.SOURCE
    exits: bool = False
    return_path: bool = False
    unnoticed: bool = False

    def __post_init__(self) -> None:
        phases = _PHASES.get(self.action, tuple(Phase))
        if self.phase not in phases:
            raise UsageError(
                f"inject {self.action} in phase {self.phase}", "it is only possible in: " + ", ".join(phases)
            )
        if self.action in (Action.KILL, Action.TERMINATE, Action.PAUSE) and self.actor is Actor.MANAGEMENT:
            raise UsageError(f"inject {self.action}", "its actor must be source or target, not management")


CPR_CHANNEL = (
    Fault("no-cpr-channel", Phase.MODE_SET, Actor.MANAGEMENT, Action.NO_CPR_CHANNEL),
    Fault("no-listener", Phase.MODE_SET, Actor.TARGET, Action.NO_LISTENER),
    Fault("cpr-closed-before-fds", Phase.VM_STOPPED, Actor.MANAGEMENT, Action.CLOSE_CPR),
    Fault("cpr-closed-with-fds", Phase.FDS_SENT, Actor.MANAGEMENT, Action.CLOSE_CPR),
    Fault("cpr-garbage", Phase.FDS_SENT, Actor.MANAGEMENT, Action.GARBAGE_CPR, exits=True),
    Fault("cpr-truncated", Phase.FDS_SENT, Actor.MANAGEMENT, Action.TRUNCATE_CPR, exits=True),
    Fault("cpr-without-fds", Phase.FDS_SENT, Actor.MANAGEMENT, Action.WITHOUT_FDS, exits=True),
)
"""Sending the CPR state fails."""

DEATHS = (
    Fault("target-killed-at-start", Phase.TARGET_STARTED, Actor.TARGET, Action.KILL),
    Fault("target-killed-when-ready", Phase.CPR_READY, Actor.TARGET, Action.KILL),
    Fault("target-terminated-when-ready", Phase.CPR_READY, Actor.TARGET, Action.TERMINATE),
    Fault("target-killed-mode-set", Phase.MODE_SET, Actor.TARGET, Action.KILL),
    Fault("target-killed-vm-stopped", Phase.VM_STOPPED, Actor.TARGET, Action.KILL),
    Fault("target-killed-before-fds", Phase.FDS_SENT, Actor.TARGET, Action.KILL),
    Fault("target-killed-with-fds", Phase.FDS_RECEIVED, Actor.TARGET, Action.KILL),
    Fault("target-killed-with-devices", Phase.CREATING_DEVICES, Actor.TARGET, Action.KILL),
    Fault("target-killed-before-switchover", Phase.BEFORE_SWITCHOVER, Actor.TARGET, Action.KILL, return_path=True),
    Fault(
        "target-terminated-before-switchover",
        Phase.BEFORE_SWITCHOVER,
        Actor.TARGET,
        Action.TERMINATE,
        return_path=True,
    ),
    Fault("target-killed-at-main", Phase.MAIN_CONNECTED, Actor.TARGET, Action.KILL, return_path=True),
    Fault("target-killed-loading", Phase.STATE_LOADING, Actor.TARGET, Action.KILL, return_path=True),
)
"""The target dies."""

CANCELS = (
    Fault("cancel-before-migrate", Phase.MODE_SET, Actor.MANAGEMENT, Action.CANCEL, Survivor.TARGET),
    Fault("cancel-fds-sent", Phase.FDS_SENT, Actor.MANAGEMENT, Action.CANCEL),
    Fault("cancel-fds-received", Phase.FDS_RECEIVED, Actor.MANAGEMENT, Action.CANCEL),
    Fault("cancel-creating-devices", Phase.CREATING_DEVICES, Actor.MANAGEMENT, Action.CANCEL),
    Fault("cancel-before-switchover", Phase.BEFORE_SWITCHOVER, Actor.MANAGEMENT, Action.CANCEL, return_path=True),
    Fault("cancel-too-late", Phase.STATE_LOADING, Actor.MANAGEMENT, Action.CANCEL, Survivor.TARGET, unnoticed=True),
)
"""``migrate_cancel`` in each phase; before ``migrate``, and after the source has sent everything, it has no effect."""

LATE_CANCELS = (
    Fault(
        "cancel-main-connected",
        Phase.MAIN_CONNECTED,
        Actor.MANAGEMENT,
        Action.HMP_CANCEL,
        Survivor.EITHER,
        return_path=True,
    ),
    Fault(
        "cancel-state-loading", Phase.STATE_LOADING, Actor.MANAGEMENT, Action.CANCEL, Survivor.EITHER, return_path=True
    ),
    Fault("yank-state-loading", Phase.STATE_LOADING, Actor.MANAGEMENT, Action.YANK, Survivor.EITHER, return_path=True),
)
"""``migrate_cancel``, or ``yank``, when the source has sent the device state and waits for the target's answer."""

UNFIT_TARGETS = (
    Fault("other-queues", Phase.TARGET_STARTED, Actor.TARGET, Action.OTHER_QUEUES, exits=True),
    Fault("other-vhost", Phase.TARGET_STARTED, Actor.TARGET, Action.OTHER_VHOST, exits=True),
    Fault("other-netdev-id", Phase.TARGET_STARTED, Actor.TARGET, Action.OTHER_NETDEV, exits=True),
    Fault("other-memory", Phase.TARGET_STARTED, Actor.TARGET, Action.OTHER_MEMORY, exits=True),
    Fault("target-descriptor-exhaustion", Phase.FDS_SENT, Actor.TARGET, Action.EXHAUST_DESCRIPTORS, exits=True),
    Fault("other-machine-version", Phase.TARGET_STARTED, Actor.TARGET, Action.OTHER_VERSION, exits=True),
    Fault("other-rom-size", Phase.TARGET_STARTED, Actor.TARGET, Action.OTHER_ROM, exits=True, return_path=True),
    Fault("other-features", Phase.TARGET_STARTED, Actor.TARGET, Action.OTHER_FEATURES, exits=True, return_path=True),
    Fault("other-nic-options", Phase.TARGET_STARTED, Actor.TARGET, Action.OTHER_NIC, exits=True, return_path=True),
)
"""A target whose settings or resources do not fit. ``other-rom-size`` needs a guest :func:`with_rom`."""

MAIN_CHANNEL = (
    Fault("main-closed", Phase.MAIN_CONNECTED, Actor.MANAGEMENT, Action.CLOSE_MAIN, return_path=True),
    Fault("main-garbage", Phase.MAIN_CONNECTED, Actor.MANAGEMENT, Action.GARBAGE_MAIN, exits=True, return_path=True),
    Fault("main-closed-loading", Phase.STATE_LOADING, Actor.MANAGEMENT, Action.CLOSE_MAIN, return_path=True),
    Fault("main-truncated", Phase.STATE_LOADING, Actor.MANAGEMENT, Action.TRUNCATE_MAIN, exits=True, return_path=True),
    Fault("no-netdev", Phase.TARGET_STARTED, Actor.TARGET, Action.NO_NETDEV, exits=True, return_path=True),
    Fault("other-machine", Phase.TARGET_STARTED, Actor.TARGET, Action.OTHER_MACHINE, exits=True, return_path=True),
)
"""The main channel breaks, or the target cannot load the device state; the return path reports it to the source."""

UNNOTICED = (
    Fault("unnoticed-no-netdev", Phase.TARGET_STARTED, Actor.TARGET, Action.NO_NETDEV, exits=True, unnoticed=True),
    Fault("unnoticed-death", Phase.STATE_LOADING, Actor.TARGET, Action.KILL, unnoticed=True),
)
"""The same without a return path: the source is in postmigrate and management resumes it by ``cont``."""

PLAIN = Fault("no-fault", Phase.MODE_SET, Actor.MANAGEMENT, Action.NOTHING, Survivor.TARGET)
"""An update without a fault; the guest may be paused."""

PAUSES = (
    Fault("target-paused-when-ready", Phase.CPR_READY, Actor.TARGET, Action.PAUSE, Survivor.TARGET),
    Fault("target-paused-before-fds", Phase.FDS_SENT, Actor.TARGET, Action.PAUSE, Survivor.TARGET),
    Fault("target-paused-with-fds", Phase.FDS_RECEIVED, Actor.TARGET, Action.PAUSE, Survivor.TARGET),
    Fault("target-paused-with-devices", Phase.CREATING_DEVICES, Actor.TARGET, Action.PAUSE, Survivor.TARGET),
    Fault("target-paused-at-main", Phase.MAIN_CONNECTED, Actor.TARGET, Action.PAUSE, Survivor.TARGET),
    Fault("target-paused-loading", Phase.STATE_LOADING, Actor.TARGET, Action.PAUSE, Survivor.TARGET),
    Fault("source-paused-mode-set", Phase.MODE_SET, Actor.SOURCE, Action.PAUSE, Survivor.TARGET),
    Fault("source-paused-fds-sent", Phase.FDS_SENT, Actor.SOURCE, Action.PAUSE, Survivor.TARGET),
    Fault("source-paused-fds-received", Phase.FDS_RECEIVED, Actor.SOURCE, Action.PAUSE, Survivor.TARGET),
    Fault("source-paused-at-main", Phase.MAIN_CONNECTED, Actor.SOURCE, Action.PAUSE, Survivor.TARGET),
    Fault("source-paused-loading", Phase.STATE_LOADING, Actor.SOURCE, Action.PAUSE, Survivor.TARGET),
)
"""A process is stopped for a while: the update must succeed."""

MISSING_RESOURCES = (
    Fault(
        "source-descriptor-exhaustion",
        Phase.CREATING_DEVICES,
        Actor.SOURCE,
        Action.EXHAUST_DESCRIPTORS,
        Survivor.TARGET,
    ),
    Fault("target-without-space", Phase.TARGET_STARTED, Actor.TARGET, Action.NO_SPACE, Survivor.TARGET),
    Fault("target-without-net-admin", Phase.TARGET_STARTED, Actor.TARGET, Action.NO_NET_ADMIN, Survivor.TARGET),
)
"""A resource is missing that the update does not need: the source opens one descriptor more, that of the main channel
(qmp_migrate_finish_cb(), migration/migration.c), and the target creates no tap."""

LATE_COMMANDS = (
    Fault("second-migrate-fds-sent", Phase.FDS_SENT, Actor.MANAGEMENT, Action.MIGRATE_AGAIN, Survivor.TARGET),
    Fault("second-migrate", Phase.CREATING_DEVICES, Actor.MANAGEMENT, Action.MIGRATE_AGAIN, Survivor.TARGET),
    Fault("cont-fds-sent", Phase.FDS_SENT, Actor.MANAGEMENT, Action.CONTINUE, Survivor.TARGET),
    Fault("cont-creating-devices", Phase.CREATING_DEVICES, Actor.MANAGEMENT, Action.CONTINUE, Survivor.TARGET),
    Fault("unplug-fds-sent", Phase.FDS_SENT, Actor.MANAGEMENT, Action.UNPLUG, Survivor.TARGET),
    Fault("plug-fds-sent", Phase.FDS_SENT, Actor.MANAGEMENT, Action.PLUG, Survivor.TARGET),
    Fault(  # the source waits for the target's answer: without a return path it may have completed by then
        "second-migrate-at-main",
        Phase.MAIN_CONNECTED,
        Actor.MANAGEMENT,
        Action.MIGRATE_AGAIN,
        Survivor.TARGET,
        return_path=True,
    ),
    Fault("target-stopped-at-main", Phase.MAIN_CONNECTED, Actor.MANAGEMENT, Action.STOP_TARGET, Survivor.TARGET),
    Fault("cancel-after-resume", Phase.TARGET_RESUMED, Actor.MANAGEMENT, Action.CANCEL, Survivor.TARGET),
    Fault("source-killed-after-resume", Phase.TARGET_RESUMED, Actor.SOURCE, Action.KILL, Survivor.TARGET),
    Fault("source-killed-quitting", Phase.SOURCE_QUITS, Actor.SOURCE, Action.KILL, Survivor.TARGET),
)
"""Commands at the wrong time, and a source that dies after the guest has left it: the update succeeds."""

RESETS = (
    Fault(
        "reset-before-switchover",
        Phase.BEFORE_SWITCHOVER,
        Actor.MANAGEMENT,
        Action.RESET,
        Survivor.TARGET,
        return_path=True,
    ),
)
"""The source is reset during the update: the guest boots in the target."""

EARLY_QUITS = (
    Fault(
        "source-quits-unanswered",
        Phase.SOURCE_QUITS,
        Actor.SOURCE,
        Action.NOTHING,
        Survivor.TARGET,
        return_path=True,
    ),
)
"""The source quits when the target runs the guest, and does not know that: see hook ``HoldAnswers``."""

FATAL = (
    Fault("source-killed-fds-sent", Phase.FDS_SENT, Actor.SOURCE, Action.KILL, Survivor.NEITHER),
    Fault("source-killed-fds-received", Phase.FDS_RECEIVED, Actor.SOURCE, Action.KILL, Survivor.NEITHER),
    Fault("source-killed-main", Phase.MAIN_CONNECTED, Actor.SOURCE, Action.KILL, Survivor.NEITHER),
    Fault("target-killed-after-resume", Phase.TARGET_RESUMED, Actor.TARGET, Action.KILL, Survivor.NEITHER),
)
"""The guest is lost with the QEMU that had it, and no other QEMU may run it."""

TABLES = (
    CPR_CHANNEL,
    DEATHS,
    CANCELS,
    LATE_CANCELS,
    UNFIT_TARGETS,
    MAIN_CHANNEL,
    UNNOTICED,
    (PLAIN,),
    PAUSES,
    MISSING_RESOURCES,
    LATE_COMMANDS,
    RESETS,
    EARLY_QUITS,
    FATAL,
)


IN_ORDINARY_MIGRATION = {
    "no-listener": "main-closed",
    "cpr-closed-with-fds": "main-garbage",
    "target-killed-with-fds": "target-killed-when-ready",
    "target-killed-with-devices": "target-killed-before-switchover",
    **dict.fromkeys(("cancel-fds-sent", "cancel-fds-received", "cancel-creating-devices"), "cancel-before-switchover"),
    "source-killed-fds-received": "source-killed-main",
}
"""Faults of the CPR channel, and of a target that waits for its CPR state: an ordinary migration has neither. By name,
with the fault that comes closest there."""


def make_rom(folder: Path) -> Path:
    """Write the file of an option ROM; it has :data:`ROM_BYTES` bytes and no content, so that no firmware runs it."""
    path = folder / "option.rom"
    path.write_bytes(bytes(ROM_BYTES))
    return path


def with_rom(path: Path) -> tuple[str, ...]:
    """Arguments of a QEMU whose guest has an option ROM.

    :param path: of a file by :func:`make_rom`; may have commas (qemu_global_option(), system/qdev-monitor.c).
    """
    return ("-global", f"{ROM_DEVICE}.romfile={path}")


def faults_named(*names: str) -> tuple[Fault, ...]:
    """Faults of the tables above by name, in the given order.

    :raises UsageError: there is none of that name.
    """
    known = {fault.name: fault for table in TABLES for fault in table}
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise UsageError(f"inject fault {unknown[0]!r}", "there is none of that name", "see cprlib/update/faults.py")
    return tuple(known[name] for name in names)


def faults_in(mode: Mode, faults: Iterable[Fault]) -> tuple[Fault, ...]:
    """Faults of updates in a mode; for an ordinary migration with those of :data:`IN_ORDINARY_MIGRATION`, each once."""
    if mode is not Mode.NORMAL:
        return tuple(faults)
    others = {fault.name: fault for table in TABLES for fault in table}
    chosen = (others.get(IN_ORDINARY_MIGRATION.get(fault.name, ""), fault) for fault in faults)
    return tuple(dict.fromkeys(chosen))
