"""Which files an update must send: those of the netdevs with cpr=on, each once, under their names."""

from __future__ import annotations

import pytest

from cprlib.evidence.records import Outcome
from cprlib.evidence.sent_files import sent_files_check
from cprlib.linux.descriptors import parse_descriptor
from cprlib.qemu.netdev import TapNetdev
from cprlib.update.hooks import SentFd

pytestmark = pytest.mark.fast

NETDEVS = (TapNetdev(cpr=True), TapNetdev("other", "tap1", cpr=False))


def tap(name: str, interface: str, number: int = 0, copies: int = 1) -> SentFd:
    file = parse_descriptor(30, "/dev/net/tun", 5, 7, f"flags: 0104002\niff:\t{interface}\n")
    return SentFd(name, number, file, tuple(range(copies)))


def test_the_files_of_the_netdevs_with_cpr_are_expected() -> None:
    assert sent_files_check(NETDEVS, [tap("net0", "tap0")]).outcome is Outcome.PASS


@pytest.mark.parametrize(
    ("sent", "problem"),
    [
        ([], "net0: nothing instead of {'tap': 1}"),
        ([tap("net0", "tap0"), tap("other", "tap1")], "other/0 (tap tap1) belongs to no netdev"),
        ([tap("net0", "tap1")], "net0/0 (tap tap1) is not tap0"),
        ([tap("net0", "tap0", copies=2)], "net0/0 (tap tap0) is 2 descriptors of the source"),
        ([tap("net0", "tap0"), tap("net0", "tap0")], "net0/0 was sent twice"),
        ([tap("net0", "tap0"), tap("", "tap0", -1)], "a descriptor (tap) has no name"),
    ],
)
def test_other_files_are_a_problem(sent: list[SentFd], problem: str) -> None:
    assert problem in sent_files_check(NETDEVS, sent).message


def test_a_state_without_any_name_has_a_layout_that_is_not_known() -> None:
    assert sent_files_check(NETDEVS, [tap("", "tap0", -1)]).outcome is Outcome.INCONCLUSIVE


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        (b"\0\0\0\5net0\0\0\0\0\0\0\1\0\0\0\5net0\0\0", ""),  # a descriptor and a value
        (b"\5net0\0\5net0\0\5net0\0", "net0 is 3 times in the CPR state, with 1 descriptors"),
        (b"\5net0\0\5gone\0", "gone is 1 times in the CPR state, with 0 descriptors"),
        (b"\5net0\0\x07gone-2\0", ""),
    ],
)
def test_what_is_left_of_removed_netdevs_is_a_problem(state: bytes, problem: str) -> None:
    check = sent_files_check(NETDEVS, [tap("net0", "tap0")], state, {"gone"})
    assert check.outcome is (Outcome.FAIL if problem else Outcome.PASS)
    assert problem in check.message
