"""A target is given netdevs that are not what the source has sent under their ids."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Sequence
from dataclasses import replace

from cprlib.errors import QmpRefused
from cprlib.linux.descriptors import read_table
from cprlib.process import kill_group
from cprlib.qemu.command_line import MEMORY
from cprlib.qemu.machine import Machine
from cprlib.qemu.netdev import FdSyntax, TapNetdev
from cprlib.testing.measured_case import MeasuredCase
from cprlib.update.live_update import LiveUpdate, UpdateHook
from refusal_tester import NO_REASON

NO_TAP = "TUNGETIFF"  # of a descriptor that is no tap


class PlugUnfit(UpdateHook):
    """Netdevs that do not fit what the source sent are added to the target, each with the right one after it.

    Then the target ends.

    :ivar said: the answers to both, by id.
    """

    expects_failure = plugs_target = True

    def __init__(self, unfit: Sequence[TapNetdev], sent: Sequence[TapNetdev]) -> None:
        self._unfit = unfit
        self._sent = {netdev.identifier: netdev for netdev in sent}
        self.said: dict[str, tuple[str, str]] = {}

    def after_migrate(self, update: LiveUpdate) -> None:
        """Add them one after the other."""
        update.target.wait_ready()
        for netdev in self._unfit:
            sent, unfit = self._sent[netdev.identifier], self._plug(update.target, netdev)
            self._fill_gaps(update.target, sent)
            self.said[netdev.identifier] = unfit, self._plug(update.target, sent)
        self.said[MEMORY] = self._plug(update.target, TapNetdev(MEMORY, "memory0", cpr=True)), ""
        kill_group(update.target.process)

    @staticmethod
    def _fill_gaps(target: Machine, sent: TapNetdev) -> None:
        """Pass as many files as were sent: they get the numbers that the target has closed, and must stay open."""
        with open(os.devnull, "rb") as file:
            for number in range(sent.descriptors):
                target.qmp.pass_descriptor(f"{sent.identifier}-{number}", file.fileno())

    def _plug(self, target: Machine, netdev: TapNetdev) -> str:
        """What the target does with a netdev; what it closes is compared with what was sent under this id."""
        before = len(read_table(target.pid).rows)
        try:
            target.plug(netdev)
        except QmpRefused as error:
            closed = before - len(read_table(target.pid).rows)
            sent = self._sent[netdev.identifier].descriptors if netdev.identifier in self._sent else 1
            other = f"vhost={'off' if netdev.vhost else 'on'}"
            refused = f"refused as {other}" if other in error.happened else "refused"
            reason = " without a reason" if NO_REASON in error.happened else ""
            reason += " as a descriptor of another kind" if NO_TAP in error.happened else ""
            stale = " for a descriptor that it had closed" if os.strerror(errno.EBADF) in error.happened else ""
            return f"{refused}{reason}{stale}, {'all' if closed == sent else closed} closed"
        return "accepted"


def expect_unfit_netdevs_refused(case: MeasuredCase) -> None:
    """A target refuses a netdev that is not what was sent under its id, by its own options, and closes what was sent.

    With each syntax of a tap, vhost is off where the source has it on, and the other way round. A netdev without
    ``cpr=on``, whose tap the source has, takes nothing of what was sent: the right one is accepted after it. Nor does
    one under the id of the guest's memory.
    """
    source = case.guest.machine
    chosen = ("onefd", "fds", "helper", "scripts")
    sent = [replace(item, fd_syntax=FdSyntax.MINUS_ONE) for item in source.settings.netdevs]
    unfit = [replace(item, vhost=not item.vhost, vhost_passed=False) for item in sent if item.identifier in chosen]
    # as many descriptors as were sent, of other kinds
    unfit += [replace(item, queues=2 * item.queues, vhost=False) for item in sent if item.identifier == "net0"]
    unfit += [replace(item, queues=1, vhost=True) for item in sent if item.identifier == "pair"]
    own = [replace(item, cpr=False) for item in sent if item.identifier == "ifname-vhostfd"]
    hook = PlugUnfit([*unfit, *own], sent)
    with contextlib.ExitStack() as stack:
        case.guest.plan_update([hook], stack=stack, target_name="target-unfit").begin()
        source.wait_status("running")
    expected = {item.identifier: ("refused, all closed", "refused, 0 closed") for item in unfit}
    expected |= {item.identifier: ("refused, 0 closed", "accepted") for item in own}
    expected |= {MEMORY: ("refused, 0 closed", "")}
    case.expect_equal("unfit-netdevs-are-refused", hook.said, expected, "a target took another netdev than was sent")
    case.expect_answers("after-unfit-netdevs")
