"""System calls of vhost and tap that fail: the source keeps running, and nothing is left behind."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cprlib.errors import QmpRefused
from cprlib.evidence.records import Role
from cprlib.linux.descriptors import read_table
from cprlib.linux.ioctls import (
    TUNGETIFF,
    TUNSETSNDBUF,
    VHOST_RESET_OWNER,
    VHOST_SET_OWNER,
    VHOST_SET_VRING_BUSYLOOP_TIMEOUT,
    VHOST_SET_VRING_CALL,
    VHOST_SET_VRING_ERR,
)
from cprlib.linux.supervised_calls import (
    DUP3,
    FCNTL,
    IOCTL,
    OPEN_VHOST_AGAIN,
    OPENAT,
    SENDMSG,
    FailingCall,
    SupervisedCalls,
    SystemCall,
)
from cprlib.qemu.netdev import TapNetdev
from cprlib.qemu.nic_state import vhost_started
from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.hand_over import VHOST_FAILED
from cprlib.testing.live_update_test import LiveUpdateTest
from cprlib.testing.measured_case import MeasuredCase
from cprlib.update.faults import Action, Actor, Fault, Phase, Survivor, faults_named
from cprlib.update.outcome import query_migration
from failed_update import FaultSequence, failed_updates
from main_channel_faults import CancelWhileConnecting, MissingProgram, StayingTarget, fail_main_channel
from netdev_refusals import NetdevAttempt, Refusal
from refusal_tester import RefusalTester

QUEUES = 4
SET_OWNER, RESET_OWNER = SystemCall(IOCTL, VHOST_SET_OWNER), SystemCall(IOCTL, VHOST_RESET_OWNER)
SET_VRING_CALL, SET_VRING_ERR = SystemCall(IOCTL, VHOST_SET_VRING_CALL), SystemCall(IOCTL, VHOST_SET_VRING_ERR)
SET_BUSYLOOP_TIMEOUT = SystemCall(IOCTL, VHOST_SET_VRING_BUSYLOOP_TIMEOUT)
SET_SEND_BUFFER, GET_INTERFACE = SystemCall(IOCTL, TUNSETSNDBUF), SystemCall(IOCTL, TUNGETIFF)
GET_FLAGS, SET_FLAGS = SystemCall(FCNTL, 3), SystemCall(FCNTL, 4)  # F_GETFL, F_SETFL
OPEN_DEVICE = SystemCall(OPENAT, 2, 2)  # O_RDWR
DUPLICATE = SystemCall(DUP3)
SEND_MESSAGE = SystemCall(SENDMSG, 0, 2)  # qio_channel_socket_writev(), io/channel-socket.c: without flags
CALLS = (
    *(SET_OWNER, RESET_OWNER, SET_VRING_CALL, SET_VRING_ERR, SET_BUSYLOOP_TIMEOUT, SET_SEND_BUFFER, GET_INTERFACE),
    *(GET_FLAGS, SET_FLAGS, OPEN_VHOST_AGAIN, OPEN_DEVICE, DUPLICATE, SEND_MESSAGE),
)


@dataclass(slots=True)
class Failure(FailingCall):
    """A call that fails on a descriptor that is known when the update begins.

    :param on_vhost: only on the vhost descriptor of the queue with this number.
    :param on_new: only on sockets that QEMU opens in the update.
    """

    on_vhost: int | None = None
    on_new: bool = False


@dataclass(frozen=True, slots=True)
class UpdateWithFailingCalls:
    """An update that fails while system calls of the source fail.

    :param said: pattern of what QEMU says; empty when it need not say anything.
    :param messages: how often at least: each of the queues has a vhost device of its own.
    """

    fault: Fault
    failures: tuple[Failure, ...]
    said: str
    messages: int = 1


def _fault(name: str, phase: Phase = Phase.MODE_SET, action: Action = Action.NOTHING) -> Fault:
    actor = Actor.TARGET if action is Action.KILL else Actor.MANAGEMENT
    return Fault(name, phase, actor, action)


UPDATES = (
    UpdateWithFailingCalls(_fault("vhost-is-not-released"), (Failure(RESET_OWNER),), VHOST_FAILED),
    UpdateWithFailingCalls(  # the target cannot become the owner of a device that the source has kept
        _fault("vhost-cannot-be-released"), (Failure(RESET_OWNER, errno.ENOTTY, times=QUEUES),), ""
    ),
    UpdateWithFailingCalls(  # the channel's first bytes, and the first descriptor; the source has to close it
        _fault("cpr-state-is-not-sent"), (Failure(SEND_MESSAGE, errno.EPIPE, times=2, on_new=True),), ""
    ),
    UpdateWithFailingCalls(  # a call of each queue's device: the first one fails, and ends the work on that device
        _fault("vhost-is-not-taken-back", Phase.FDS_SENT, Action.CLOSE_CPR),
        (
            Failure(SET_OWNER),
            Failure(SET_VRING_CALL, errno.ENOSPC, since=RESET_OWNER),
            Failure(SET_VRING_ERR, errno.E2BIG),
            Failure(SET_BUSYLOOP_TIMEOUT, errno.EDOM),
        ),
        VHOST_FAILED,
        QUEUES,
    ),
    UpdateWithFailingCalls(  # the target was the owner and is dead, so that each device is opened again
        _fault("vhost-is-not-reopened", Phase.CREATING_DEVICES, Action.KILL),
        (Failure(GET_FLAGS, on_vhost=0), Failure(OPEN_VHOST_AGAIN, errno.ENOSPC), Failure(DUPLICATE, errno.E2BIG)),
        VHOST_FAILED,
        3,
    ),
)
REFUSALS: tuple[tuple[SystemCall, int, str, dict[str, object]], ...] = (
    (SET_SEND_BUFFER, 0, "TUNSETSNDBUF", {"ifname": "{tap}", "sndbuf": 100000}),
    (OPEN_DEVICE, 1, "open vhost char device", {"ifname": "{tap}"}),  # after /dev/net/tun
    (SET_FLAGS, 1, "blocking", {"ifname": "{tap}"}),  # after the flags of the tap
    (GET_INTERFACE, 0, "ifname", {"queues": 2}),
)
WITHOUT_PROGRAMS: dict[str, object] = {"script": "no", "downscript": "no"}


class FailingSystemCalls(LiveUpdateTest):
    """Mechanism ``cpr``; a guest whose QEMU runs under a filter that lets chosen system calls fail."""

    def test_failing_calls_leave_the_source_running(self) -> None:
        """Calls of vhost and tap that fail in an update or in ``netdev_add`` are reported and leave all as before.

        A vhost device that is not released, not taken back or not opened again; a CPR state that is not sent; a VM that
        cannot be stopped; a main channel that cannot be made, or is cancelled before it is; a tap without its send
        buffer, its name or its vhost device. Patches 1, 3, 5, 6 and 11.

        :avocado: tags=patch:stop-early,patch:1,patch:vhost-reset,patch:3,patch:tap-cleanup,patch:5
        :avocado: tags=patch:tap-cpr,patch:6,patch:unnoticed-failure,patch:11,mechanism:cpr,vhost:on,queues:4
        """
        netdev = TapNetdev(queues=QUEUES, vhost=True, poll_us=1)
        with (
            SupervisedCalls(CALLS) as calls,
            self.given_guest(GuestSpec(netdevs=(netdev,), role=Role.CHECKS)) as case,
        ):
            own = case.guest.machine.settings
            case.live_update(label="under-filter", target=replace(own, prefix=calls.prefix))
            case.guest.machine.settings = own  # the targets are to run without the filter
            with failed_updates(case) as updates:
                updates.calls_fail = True
                for item in UPDATES:
                    if not fail_update(case, calls, updates, item, more=item is not UPDATES[-1]):
                        return
                fail_to_stop(case, updates)
            fall_back(case, calls)
            fail_main_channel(case, "main-does-not-exist", MissingProgram(), "failed")
            cancelled = CancelWhileConnecting()
            fail_main_channel(case, "cancelled-while-connecting", cancelled, "cancelled")
            meaning = "after migrate_cancel the source began to migrate: bytes on the main channel"
            case.expect_equal("cancelled-while-connecting-sends-nothing", cancelled.sent_bytes, 0, meaning)
            fail_main_channel(case, "target-stays", StayingTarget(), "failed", target_status="failed")
            refuse_netdevs(case, calls)
            case.compares_states = False  # the target has no filter
            case.live_update(label="afterwards")
            case.expect_answers("afterwards")


def fail_update(
    case: MeasuredCase, calls: SupervisedCalls, updates: FaultSequence, item: UpdateWithFailingCalls, *, more: bool
) -> bool:
    """Inject a fault while calls fail, and check that QEMU reports it; returns whether the guest answers.

    :param more: as for :meth:`FaultSequence.inject`.
    """
    machine, name = case.guest.machine, item.fault.name
    before, table = machine.mark_messages(), read_table(machine.pid)
    vhost = [row.number for row in table.of_kind("vhost")]
    sockets = [row.number for row in table.of_kind("socket")]
    for failure in item.failures:
        descriptor = failure.descriptor if failure.on_vhost is None else vhost[failure.on_vhost]
        calls.arm(replace(failure, descriptor=descriptor, other_than=sockets if failure.on_new else ()))
    answers = updates.inject([item.fault], more=more)
    made = all_made(case, name, calls)
    if item.said and made and case.guest.machine is machine:
        said = "\n".join([machine.messages_since(before), query_migration(machine).error])
        with case.after_fault(name):
            expect_reported(case, "reported", said, item.said, item.messages)
            expect_errors_named(case, said, item.failures)
    return answers


def all_made(case: MeasuredCase, name: str, calls: SupervisedCalls) -> bool:
    """Whether every call that was to fail was made: another implementation of the series may need none of them."""
    missing = calls.disarm()
    if missing:
        case.skip_check(f"{name}-calls-fail", "each call that is to fail is made", f"{len(missing)} were not made")
    return not missing


def expect_reported(case: MeasuredCase, name: str, said: str, pattern: str, messages: int = 1) -> None:
    """Check that QEMU's messages fit a pattern so often."""
    count = len(re.findall(pattern, said))
    case.expect(
        name,
        count >= messages,
        f"{messages} messages that fit {pattern!r}",
        f"{count} of them",
        f"QEMU said: {said.strip()[-400:] or 'nothing'}",
    )


def expect_errors_named(case: MeasuredCase, said: str, failures: Sequence[Failure]) -> None:
    """Check that QEMU names the errors of the calls that failed, if it names errors of vhost: else one was ignored.

    Another error shows that QEMU has used a device after its call had failed.
    """
    text = "\n".join(line for line in said.splitlines() if re.search(VHOST_FAILED, line))
    named = {error for number in errno.errorcode if (error := os.strerror(number)) in text}
    made = {os.strerror(failure.error) for failure in failures}
    problems = [f"not named: {error}" for error in sorted(made - named)]
    problems += [f"of no call that failed: {error}" for error in sorted(named - made)]
    expected = "QEMU names the errors of the calls that failed"
    case.expect_empty("errors-are-named", problems if named else (), expected, "errors")


def fall_back(case: MeasuredCase, calls: SupervisedCalls) -> None:
    """Without its vhost devices the guest runs on; they are taken back before the next update, or it is refused."""
    machine = case.guest.machine
    steps = (
        ("vhost-stays-lost", "cpr-closed-with-fds", QUEUES + 1),
        ("vhost-is-still-lost", "no-fault", 1),
    )
    for name, fault, times in steps:
        before, failure = machine.mark_messages(), Failure(SET_OWNER, times=times)
        calls.arm(failure)
        result = case.inject_fault(replace(*faults_named(fault), survivor=Survivor.SOURCE), name=name)
        made = all_made(case, name, calls)
        if result.completed_without_fault:
            return
        if made:
            said = f"{machine.messages_since(before)}\n{result.error}"
            with case.after_fault(name):
                expect_reported(case, "reported", said, VHOST_FAILED, times)
                expect_errors_named(case, said, [failure])
        case.expect_answers(name)
    meaning = "whether vhost carries the packets after its devices could be taken back"
    case.expect_equal("vhost-is-taken-back", vhost_started(machine.qmp), True, meaning)


def fail_to_stop(case: MeasuredCase, updates: FaultSequence) -> None:
    """A VM whose disk cannot be flushed does not stop, so the update is refused before anything is released."""
    qmp = case.guest.machine.qmp
    disk: dict[str, object] = {"driver": "blkdebug", "node-name": "disk", "image": {"driver": "null-co"}}
    try:
        qmp.execute("blockdev-add", disk | {"inject-error": [{"event": "none", "iotype": "flush", "errno": errno.EIO}]})
    except QmpRefused as error:
        case.skip_check("vm-cannot-be-stopped", "an update of a VM that does not stop is refused", error.happened)
        return
    qmp.execute("human-monitor-command", {"command-line": 'qemu-io disk "write 0 512"'})  # else nothing is flushed
    updates.inject([_fault("vm-cannot-be-stopped")])
    with case.after_fault("vm-cannot-be-stopped"):
        expect_reported(case, "reported", query_migration(case.guest.machine).error, "stop")
    qmp.execute("blockdev-del", {"node-name": "disk"})


def refuse_netdevs(case: MeasuredCase, calls: SupervisedCalls) -> None:
    """A ``netdev_add`` that fails in a system call leaves nothing behind."""
    refuser = RefusalTester(case.guest.machine)
    for number, (call, after, because, options) in enumerate(REFUSALS):
        calls.arm(FailingCall(call, after=after))
        row = Refusal(f"{because} that fails", options | WITHOUT_PROGRAMS, because)
        refuser.attempt(NetdevAttempt(row, number, vhost=True, cpr=True))
        all_made(case, row.name, calls)
    refuser.expect_nothing_left(case, len(REFUSALS))
