"""Faults of a live update, as data: in which phase who does what, and who must be left to run the guest.

:mod:`cprlib.update.faulted_update` carries them out.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from cprlib.errors import UsageError


class Phase(enum.StrEnum):
    """How far an update has come when the fault is put in; each is held by an event or a gate, never by time."""

    TARGET_STARTED = "target started"  # it reads its configuration and listens nowhere yet
    CPR_READY = "cpr socket ready"
    MODE_SET = "mode set"
    VM_STOPPED = "VM stopped"  # the source waits to be let into the cpr channel
    FDS_SENT = "fds sent"  # all of the CPR state has left the source, the target has seen nothing of it
    FDS_RECEIVED = "fds received"  # the target has the CPR state and has made nothing of it
    CREATING_DEVICES = "target creating devices"  # its netdevs exist and own vhost, its devices do not
    MAIN_CONNECTED = "main channel connected"
    BEFORE_SWITCHOVER = "before switchover"  # source and target are connected, the device state is not yet being sent
    STATE_LOADING = "state loading"  # the target has the beginning of the device state
    TARGET_RESUMED = "target resumed"
    SOURCE_QUITS = "source told to quit"


class Actor(enum.StrEnum):
    """Who does it, or to whom it is done."""

    SOURCE = "source"
    TARGET = "target"
    MANAGEMENT = "management"


class Action(enum.StrEnum):
    """What is done."""

    NOTHING = "nothing"
    KILL = "kill -9"
    PAUSE = "SIGSTOP for a while"
    CANCEL = "migrate_cancel"
    MIGRATE_AGAIN = "a second migrate"
    NOBODY_LISTENS = "nobody listens"
    CLOSE_CPR = "close the cpr channel"
    CLOSE_MAIN = "close the main channel"
    GARBAGE_CPR = "garbage on the cpr channel"
    GARBAGE_MAIN = "garbage on the main channel"
    TRUNCATE_CPR = "half a message on the cpr channel"
    TRUNCATE_MAIN = "half a message on the main channel"
    WITHOUT_FDS = "the CPR state without its descriptors"
    FULL_TABLE = "a full descriptor table"
    OTHER_QUEUES = "another number of queues"
    OTHER_MACHINE = "another machine type"
    OTHER_MEMORY = "another memory size"
    OTHER_NETDEV = "another netdev id"
    NO_NETDEV = "no netdev"
    NO_SPACE = "no space for its log"
    NO_NET_ADMIN = "without CAP_NET_ADMIN"


class Survivor(enum.StrEnum):
    """Who has to run the guest afterwards."""

    SOURCE = "source"
    TARGET = "target"
    ONE = "source or target"
    NOBODY = "nobody"


SETTINGS = (
    Action.OTHER_QUEUES,
    Action.OTHER_MACHINE,
    Action.OTHER_MEMORY,
    Action.OTHER_NETDEV,
    Action.NO_NETDEV,
    Action.NO_SPACE,
    Action.NO_NET_ADMIN,
)
"""Actions that are a target started in another way."""

_WHERE: dict[Action, tuple[Phase, ...]] = {
    Action.CLOSE_CPR: (Phase.VM_STOPPED, Phase.FDS_SENT),
    Action.GARBAGE_CPR: (Phase.FDS_SENT,),
    Action.TRUNCATE_CPR: (Phase.FDS_SENT,),
    Action.WITHOUT_FDS: (Phase.FDS_SENT,),
    Action.CLOSE_MAIN: (Phase.MAIN_CONNECTED, Phase.STATE_LOADING),
    Action.GARBAGE_MAIN: (Phase.MAIN_CONNECTED, Phase.STATE_LOADING),
    Action.TRUNCATE_MAIN: (Phase.STATE_LOADING,),
    Action.NOBODY_LISTENS: (Phase.MODE_SET,),
    **dict.fromkeys(SETTINGS, (Phase.TARGET_STARTED,)),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    :param name: in kebab-case, first word of its checks' names.
    :param survivor: who has to run the guest afterwards.
    :param refusal: whether a live target has to end by itself, with an error and not by a signal.
    :param return_path: the migration has a return path, by which the source hears of the target's failure.
    :param unnoticed: the source, without a return path, takes the update for complete; management tells it to go on.
    :raises UsageError: the action cannot be put into that phase.
    """

    name: str
    phase: Phase
    actor: Actor
    action: Action
    survivor: Survivor = Survivor.SOURCE
    refusal: bool = False
    return_path: bool = False
    unnoticed: bool = False

    def __post_init__(self) -> None:
        phases = _WHERE.get(self.action, tuple(Phase))
        if self.phase not in phases:
            raise UsageError(
                f"put {self.action} into phase {self.phase}", "it can only be done in: " + ", ".join(phases)
            )
        if self.action in (Action.KILL, Action.PAUSE) and self.actor is Actor.MANAGEMENT:
            raise UsageError(f"{self.action} the management", "it is source or target")


SENDING = (
    Fault("nobody-listens", Phase.MODE_SET, Actor.TARGET, Action.NOBODY_LISTENS),
    Fault("cpr-closed-before-fds", Phase.VM_STOPPED, Actor.MANAGEMENT, Action.CLOSE_CPR),
    Fault("cpr-closed-with-fds", Phase.FDS_SENT, Actor.MANAGEMENT, Action.CLOSE_CPR, refusal=False),
    Fault("cpr-garbage", Phase.FDS_SENT, Actor.MANAGEMENT, Action.GARBAGE_CPR, refusal=True),
    Fault("cpr-truncated", Phase.FDS_SENT, Actor.MANAGEMENT, Action.TRUNCATE_CPR, refusal=True),
    Fault("cpr-without-fds", Phase.FDS_SENT, Actor.MANAGEMENT, Action.WITHOUT_FDS, refusal=True),
)
"""Sending the CPR state fails."""

DEATHS = (
    Fault("target-killed-at-start", Phase.TARGET_STARTED, Actor.TARGET, Action.KILL),
    Fault("target-killed-when-ready", Phase.CPR_READY, Actor.TARGET, Action.KILL),
    Fault("target-killed-mode-set", Phase.MODE_SET, Actor.TARGET, Action.KILL),
    Fault("target-killed-vm-stopped", Phase.VM_STOPPED, Actor.TARGET, Action.KILL),
    Fault("target-killed-before-fds", Phase.FDS_SENT, Actor.TARGET, Action.KILL),
    Fault("target-killed-with-fds", Phase.FDS_RECEIVED, Actor.TARGET, Action.KILL),
    Fault("target-killed-with-devices", Phase.CREATING_DEVICES, Actor.TARGET, Action.KILL),
    Fault("target-killed-before-switchover", Phase.BEFORE_SWITCHOVER, Actor.TARGET, Action.KILL, return_path=True),
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
"""``migrate_cancel`` in each phase; before ``migrate``, and after the source has sent all, it has nothing to cancel."""

LATE_CANCELS = (
    Fault(
        "cancel-main-connected", Phase.MAIN_CONNECTED, Actor.MANAGEMENT, Action.CANCEL, Survivor.ONE, return_path=True
    ),
    Fault("cancel-state-loading", Phase.STATE_LOADING, Actor.MANAGEMENT, Action.CANCEL, Survivor.ONE, return_path=True),
)
"""``migrate_cancel`` while the source waits for the target's word on the device state, all of which it has sent."""

TARGETS = (
    Fault("other-queues", Phase.TARGET_STARTED, Actor.TARGET, Action.OTHER_QUEUES, refusal=True),
    Fault("other-netdev-id", Phase.TARGET_STARTED, Actor.TARGET, Action.OTHER_NETDEV, refusal=True),
    Fault("other-memory", Phase.TARGET_STARTED, Actor.TARGET, Action.OTHER_MEMORY, refusal=True),
    Fault("full-fd-table", Phase.FDS_SENT, Actor.TARGET, Action.FULL_TABLE, refusal=True),
)
"""A target that does not fit."""

STREAM = (
    Fault("main-closed", Phase.MAIN_CONNECTED, Actor.MANAGEMENT, Action.CLOSE_MAIN, return_path=True),
    Fault("main-garbage", Phase.MAIN_CONNECTED, Actor.MANAGEMENT, Action.GARBAGE_MAIN, refusal=True, return_path=True),
    Fault("main-closed-loading", Phase.STATE_LOADING, Actor.MANAGEMENT, Action.CLOSE_MAIN, return_path=True),
    Fault(
        "main-truncated", Phase.STATE_LOADING, Actor.MANAGEMENT, Action.TRUNCATE_MAIN, refusal=True, return_path=True
    ),
    Fault("no-netdev", Phase.TARGET_STARTED, Actor.TARGET, Action.NO_NETDEV, refusal=True, return_path=True),
    Fault("other-machine", Phase.TARGET_STARTED, Actor.TARGET, Action.OTHER_MACHINE, refusal=True, return_path=True),
)
"""The device state is spoilt on its way, or the target cannot load it; the source hears of it by the return path."""

UNNOTICED = (
    Fault("unnoticed-no-netdev", Phase.TARGET_STARTED, Actor.TARGET, Action.NO_NETDEV, refusal=True, unnoticed=True),
    Fault("unnoticed-death", Phase.STATE_LOADING, Actor.TARGET, Action.KILL, unnoticed=True),
)
"""The same without a return path: the source is in postmigrate and management lets it go on with ``cont``."""

PLAIN = Fault("no-fault", Phase.MODE_SET, Actor.MANAGEMENT, Action.NOTHING, Survivor.TARGET)
"""An update without a fault, of a guest that need not run."""

HARMLESS = (
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
"""A process stands still for a while: the update has to succeed nevertheless."""

POOR = (
    Fault("source-full-fd-table", Phase.CREATING_DEVICES, Actor.SOURCE, Action.FULL_TABLE, Survivor.TARGET),
    Fault("target-without-space", Phase.TARGET_STARTED, Actor.TARGET, Action.NO_SPACE, Survivor.TARGET),
    Fault("target-without-net-admin", Phase.TARGET_STARTED, Actor.TARGET, Action.NO_NET_ADMIN, Survivor.TARGET),
)
"""Lacking what is not needed: a source that stops its VM and closes its cpr channel gets numbers back for the main one,
and a target whose descriptors are handed over has to make no tap."""

REFUSED = (
    Fault("second-migrate-fds-sent", Phase.FDS_SENT, Actor.MANAGEMENT, Action.MIGRATE_AGAIN, Survivor.TARGET),
    Fault("second-migrate", Phase.CREATING_DEVICES, Actor.MANAGEMENT, Action.MIGRATE_AGAIN, Survivor.TARGET),
    Fault("second-migrate-at-main", Phase.MAIN_CONNECTED, Actor.MANAGEMENT, Action.MIGRATE_AGAIN, Survivor.TARGET),
    Fault("cancel-after-resume", Phase.TARGET_RESUMED, Actor.MANAGEMENT, Action.CANCEL, Survivor.TARGET),
    Fault("source-killed-after-resume", Phase.TARGET_RESUMED, Actor.SOURCE, Action.KILL, Survivor.TARGET),
    Fault("source-killed-quitting", Phase.SOURCE_QUITS, Actor.SOURCE, Action.KILL, Survivor.TARGET),
)
"""Commands that come at the wrong time, and a source that dies when the guest has left it: the update succeeds."""

FATAL = (
    Fault("source-killed-fds-sent", Phase.FDS_SENT, Actor.SOURCE, Action.KILL, Survivor.NOBODY),
    Fault("source-killed-fds-received", Phase.FDS_RECEIVED, Actor.SOURCE, Action.KILL, Survivor.NOBODY),
    Fault("source-killed-main", Phase.MAIN_CONNECTED, Actor.SOURCE, Action.KILL, Survivor.NOBODY),
    Fault("target-killed-after-resume", Phase.TARGET_RESUMED, Actor.TARGET, Action.KILL, Survivor.NOBODY),
)
"""Nobody can survive: the guest is gone with the one that had it, and no other QEMU may run it."""

_TABLES = (
    SENDING,
    DEATHS,
    CANCELS,
    LATE_CANCELS,
    TARGETS,
    STREAM,
    UNNOTICED,
    (PLAIN,),
    HARMLESS,
    POOR,
    REFUSED,
    FATAL,
)


def named(*names: str) -> tuple[Fault, ...]:
    """Faults of the tables above, by name and in that order.

    :raises UsageError: there is none of that name.
    """
    known = {fault.name: fault for table in _TABLES for fault in table}
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise UsageError(f"put in fault {unknown[0]!r}", "there is none of that name", "see cprlib/update/faults.py")
    return tuple(known[name] for name in names)
