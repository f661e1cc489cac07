"""Without ``cpr=on`` nothing changes: nothing is saved, nothing is sent, descriptors are treated as ever."""

from __future__ import annotations

import os

from cprlib.evidence.case import Role
from cprlib.linux.descriptors import read_table
from cprlib.qemu.netdev import TapNetdev, TapSource
from cprlib.testing.checks import listed
from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.live_update_test import LiveUpdateTest
from cprlib.testing.netdev_checks import expect_answers, observe_update
from cprlib.update.mechanism import Mechanism
from ordinary_migration import migrate_ordinarily
from tap_sources import Programs


class CprOff(LiveUpdateTest):
    """Mechanism ``link-switch``, which is how an update goes without the series, and an ordinary migration."""

    def test_nothing_is_sent_with_cpr_off(self) -> None:
        """With ``cpr=off``, which is the default, nothing of a netdev is saved or sent, and scripts run as ever.

        Three netdevs, with ``cpr`` left out and off, by name, with scripts, and with a manager's descriptor; the update
        is with new taps. The target's up script and the source's down script run, and packets flow afterwards.
        Patch 6 (tap: cpr support), 8 (tap: cpr fixes).

        :avocado: tags=patch:tap-cpr,patch:6,patch:cpr-fixes,patch:8,mechanism:link-switch,vhost:on,queues:2
        """
        programs = Programs.made_in(self.outputdir)
        up, down = programs.script("up"), programs.script("down")
        netdevs = [
            TapNetdev(queues=2, vhost=True),
            TapNetdev("scripts", "alt0", cpr=False if self.facts.netdev_cpr else None, script=up, down_script=down),
            TapNetdev("onefd", "man0", tap_source=TapSource.FD),
        ]
        with self.given_guest(GuestSpec(Mechanism.LINK_SWITCH, netdevs=tuple(netdevs), role=Role.CHECKS)) as case:
            saved = case.guest.machine.trace.all_of("cpr_save_fd")
            names = {item.identifier for item in netdevs}
            of_netdevs = [item.text for item in saved if item.text.split(",")[0] in names]
            case.expect(
                "nothing-saved",
                not of_netdevs,
                "no trace record cpr_save_fd of a netdev",
                f"{len(saved)} records" + (f": {listed(of_netdevs)}" if of_netdevs else ""),
                f"with cpr=off, QEMU saved {listed(of_netdevs)}",
            )
            observed = observe_update(case, "link-switch")
            if observed.result is None:
                return
            result, sent = observed.result, observed.sent
            extra = [str(item) for item in sent if item.file.kind != "memfd"]
            case.expect(
                "nothing-sent",
                not extra,
                "no descriptor but those of memory in the CPR state",
                f"{len(sent)} descriptors" + (f": {listed(extra)}" if extra else ""),
                f"with cpr=off, the CPR state has {listed(extra)}",
            )
            shared = [item for item in result.pairings if item.paired]
            case.expect(
                "files-of-its-own",
                not shared,
                "no tap or vhost file is open in both QEMUs",
                f"{len(shared)} are",
                f"with cpr=off, {len(shared)} descriptors were handed over",
            )
            expect_answers(case, "link-switch", netdevs)
            ran = programs.runs()
            case.expect(
                "scripts-as-ever",
                ran == ("up alt0", "up alt1", "down alt0"),
                "up script in source and target, down script when the source quits",
                ", ".join(ran),
                f"with cpr=off, ran: {', '.join(ran)}",
            )

    def test_passed_descriptors_are_treated_as_by_stock_qemu(self) -> None:
        """An ordinary migration with descriptors of a manager leaves their blocking mode as stock QEMU does.

        The control for patch 8 (tap: cpr fixes), which must keep O_NONBLOCK of descriptors that come with CPR state,
        and of those only: stock QEMU clears it on any other that it receives (io/channel-socket.c), and sets it on
        taps. In review a version of the series changed it for all descriptors received.

        :avocado: tags=patch:cpr-fixes,patch:8,mechanism:none,vhost:off,queues:2
        """
        netdev = TapNetdev(queues=2, tap_source=TapSource.FDS)
        with self.given_guest(
            GuestSpec(Mechanism.LINK_SWITCH, netdevs=(netdev,), pluggable=True, role=Role.CHECKS)
        ) as case:
            for label, flags in (("blocking", 0), ("nonblocking", os.O_NONBLOCK)):
                reader, writer = os.pipe2(os.O_CLOEXEC | flags)
                try:
                    before = {row.number for row in read_table(case.guest.machine.pid).rows}
                    case.guest.machine.qmp.pass_descriptor(label, reader)
                    rows = [row for row in read_table(case.guest.machine.pid).rows if row.number not in before]
                    case.expect(
                        f"{label}-pipe-by-getfd",
                        len(rows) == 1 and not rows[0].nonblocking,
                        "one descriptor more, and O_NONBLOCK cleared, as stock QEMU does",
                        f"{len(rows)} more, O_NONBLOCK {'set' if rows and rows[0].nonblocking else 'clear'}",
                        "QEMU treats the blocking mode of a descriptor received by QMP otherwise than stock QEMU",
                    )
                finally:
                    os.close(reader)
                    os.close(writer)
            result = migrate_ordinarily(case.guest)
            seen = {result.before, result.source, result.target}
            case.expect(
                "nonblocking-taps",
                seen == {(True, True)},
                "O_NONBLOCK on both queues: before, and after in source and target",
                f"before {result.before}, after {result.source} in the source, {result.target} in the target",
                "an ordinary migration changed the blocking mode of taps that a manager passed",
            )
            expect_answers(case, "migrated", [netdev])
