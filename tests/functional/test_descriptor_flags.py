"""O_NONBLOCK belongs to the open file: clearing it on a received descriptor changes it for the sender too."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import replace

from cprlib.errors import InstrumentError, QmpRefused
from cprlib.evidence.records import Role
from cprlib.linux.descriptors import Descriptor, DescriptorTable, pair_tables, read_table
from cprlib.qemu.command_line import file_channel
from cprlib.qemu.machine import Machine
from cprlib.qemu.netdev import TapNetdev
from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.live_update_test import LiveUpdateTest
from cprlib.testing.measured_case import MeasuredCase
from cprlib.testing.nic_frames import use_queue_pairs
from cprlib.testing.nic_view import TapView, expect_same_queues, handed_over_queues, read_tap_view
from cprlib.update.live_update import LiveUpdate, UpdateHook
from cprlib.update.plugged_target import name_main_channel

KINDS = ("tap", "vhost", "memfd")
QUEUES = 2


class PauseWhenTargetReady(UpdateHook):
    """Pause when the target has its descriptors and devices, and has not loaded their state.

    The target learns the name of its main channel last (``-incoming defer``). Until then the source waits with its
    guest stopped, and both QEMUs serve QMP.

    :param action: called with the source and the target.
    """

    def __init__(self, action: Callable[[Machine, Machine], None]) -> None:
        self._action = action

    def before_target(self, update: LiveUpdate) -> None:
        update.channels = replace(update.channels, deferred=True)

    def after_stop(self, update: LiveUpdate) -> None:
        update.target.wait_ready()
        update.mark("TARGET_READY")
        self._action(update.source, update.target)
        name_main_channel(update.target, update.channels)


class DescriptorFlags(LiveUpdateTest):
    """Mechanism ``cpr`` with vhost and two queue pairs, of which the guest uses one."""

    def test_descriptors_stay_nonblocking(self) -> None:
        """Every descriptor handed over is as blocking or non-blocking as before, on both sides and at each moment.

        Checked: O_NONBLOCK of tap, vhost and memfd descriptors in the source before the update; in source and target
        when the target has received them, made its devices and not loaded their state, where the tap's queues and
        header also have to be as they were; and in the target afterwards. The source's other descriptors keep theirs
        too. Control: a descriptor passed by QMP (getfd) becomes blocking, as in QEMU without the series.
        Origin: patch 8 of the series; QEMU 10.0 made descriptors of the CPR state blocking, and a first fix did so, or
        did not, for all descriptors that come over any socket. Meanwhile a main channel of the wrong kind is refused.

        :avocado: tags=patch:cpr-fixes,patch:8,mechanism:cpr,vhost:on,queues:2
        """
        with self.given_guest(GuestSpec(netdevs=(TapNetdev(queues=QUEUES, vhost=True),), role=Role.CHECKS)) as case:
            guest = case.guest
            use_queue_pairs(case, 1, "before-update")
            before, tap = read_table(guest.machine.pid), read_tap_view(guest.topology, guest.machine)

            def when_ready(source: Machine, target: Machine) -> None:
                self._expect_handed_over(case, before, source, target)
                self._expect_own(case, before, read_table(source.pid))
                self._expect_queues(case, tap, source, target)
                self._expect_file_refused(case, target)

            case.live_update(hooks=[PauseWhenTargetReady(when_ready)])
            self._expect_after(case, before)
            self._expect_getfd_blocks(case)

    def _expect_handed_over(
        self, case: MeasuredCase, before: DescriptorTable, source: Machine, target: Machine
    ) -> None:
        pairs = pair_tables(read_table(source.pid), read_table(target.pid), KINDS)
        earlier = {row.number: row for row in before.rows}
        changed = [
            f"{row.kind} {row.number} of {whose} is {_mode(row)}, was {_mode(earlier[old.number])}"
            for old, new in ((pair.source, pair.target) for pair in pairs)
            if old is not None and new is not None and old.number in earlier
            for whose, row in (("the source", old), ("the target", new))
            if row.nonblocking != earlier[old.number].nonblocking
        ]
        kinds = [pair.kind for pair in pairs if pair.paired]
        case.expect(
            "handed-over-flags-when-received",
            not changed and all(kind in kinds for kind in KINDS),
            f"O_NONBLOCK as before on both sides: {_modes(before)}",
            "; ".join(changed) or ", ".join(f"{kinds.count(kind)} {kind}" for kind in KINDS) + " as before",
            f"O_NONBLOCK changed when the descriptors were received: {'; '.join(changed)}",
        )

    def _expect_file_refused(self, case: MeasuredCase, target: Machine) -> None:
        """A main channel that CPR cannot use is refused, and the target takes another one afterwards."""
        try:
            target.qmp.execute("migrate-incoming", {"channels": [file_channel(case.folder / "state")]})
            answer = "accepted"
        except QmpRefused as error:
            answer = error.happened
        case.expect("file-is-refused", answer != "accepted", "refused", answer, "migrate-incoming accepted a file")

    def _expect_own(self, case: MeasuredCase, before: DescriptorTable, after: DescriptorTable) -> None:
        """The source's other descriptors: sockets, eventfds, its log."""
        later = {(row.number, row.inode): row for row in after.rows}
        same = [(row, later[row.number, row.inode]) for row in before.rows if (row.number, row.inode) in later]
        changed = [
            f"{old.kind} {old.number} was {_mode(old)}" for old, new in same if old.nonblocking != new.nonblocking
        ]
        case.expect_empty(
            "source-flags-when-received",
            changed,
            f"O_NONBLOCK of the source's {len(same)} descriptors as before",
            "O_NONBLOCK of descriptors of the source changed during the update",
        )

    def _expect_queues(self, case: MeasuredCase, before: TapView, source: Machine, target: Machine) -> None:
        """The source may have to keep using the tap: its queues and header are unchanged."""
        pairs = pair_tables(read_table(source.pid), read_table(target.pid), ("tap",))
        after = read_tap_view(case.guest.topology, target)
        expect_same_queues(case, before, after, handed_over_queues(pairs), "when-received")

    def _expect_after(self, case: MeasuredCase, before: DescriptorTable) -> None:
        """In the target that runs the guest; by kind only, because the source has ended."""
        after = read_table(case.guest.machine.pid)
        case.expect_equal(
            "handed-over-flags-after-update",
            _modes(after),
            _modes(before),
            "descriptors of the NIC and the guest's memory changed",
        )

    def _expect_getfd_blocks(self, case: MeasuredCase) -> None:
        """Any other descriptor that QEMU receives becomes blocking, as without the series."""
        machine = case.guest.machine
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.setblocking(False)
            inode = os.fstat(theirs.fileno()).st_ino
            machine.qmp.pass_descriptor("control", theirs.fileno())
            found = [row for row in read_table(machine.pid).of_kind("socket") if row.inode == inode]
            if not found:
                raise InstrumentError("look at a descriptor passed with getfd", "the target does not have it")
            meaning = "descriptors received outside of CPR stay non-blocking: the series changes other users"
            case.expect_equal("getfd-as-without-series", _mode(found[0]), "blocking", meaning)
            machine.qmp.execute("closefd", {"fdname": "control"})


def _mode(row: Descriptor) -> str:
    return "non-blocking" if row.nonblocking else "blocking"


def _modes(table: DescriptorTable) -> str:
    """How many descriptors of each kind that is handed over are in which mode."""
    counts: dict[str, int] = {}
    for kind in KINDS:
        for row in table.of_kind(kind):
            word = f"{_mode(row)} {kind}"
            counts[word] = counts.get(word, 0) + 1
    return ", ".join(f"{count} {word}" for word, count in sorted(counts.items()))
