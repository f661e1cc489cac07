"""The guest's files and what the snapshot of its state reads of them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from cprlib.errors import GuestFailed, InstrumentError
from cprlib.guest import state
from cprlib.guest.agent import AgentConnection
from cprlib.guest.console import Console
from cprlib.guest.files import GuestFile, parse_files
from cprlib.guest.replies import Reply
from cprlib.guest.state import read_guest_state, total_memory_kib

from .conftest import NativeAgent

FILES = {
    "/sys/bus/virtio/devices/virtio1/status": "0x0000000f\n",
    "/sys/bus/pci/devices/0000:00:02.0/config": "\x1a\x04\x41\x10\x07\x05\x10\x00",
    "/sys/class/net/eth0/mtu": "1500\n",
    "/sys/class/net/eth0/carrier": "1\n",
    "/proc/interrupts": "      CPU0  CPU1\n 27:   12   3   PCI-MSIX-0000:00:02.0   1-edge      virtio1-input.0\n"
    "LOC:   100  200  Local timer interrupts\nERR:      0\nSPU:   1   0   Spurious interrupts\n",
    "/proc/timer_list": "Timer List Version: v0.10\n cpu: 0\n clock 0:\n  .offset:     0 nsecs\n clock 1:\n"
    "  .offset:     1795725883154645237 nsecs\nTick Device: mode:     1\nClock Event Device: lapic\n"
    " mult:           268336671\n next_event:     1 nsecs\n",
    "/proc/meminfo": "MemTotal:         89356 kB\nMemFree:           1 kB\n",
    "/proc/net/arp": "IP address  HW type Flags HW address Mask Device\n"
    "10.75.0.1 0x1 0x2 52:54:00:75:00:01 * eth0\n10.75.0.9 0x1 0x6 52:54:00:75:00:09 * eth0\n",
    "/proc/net/if_inet6": "fe80000000000000505400fffe750002 02 40 20 80     eth0\n",
    "/dev/kmsg": "6,1,0,-;tsc: Detected 2099.999 MHz processor\n6,2,9,-;nothing of interest\n"
    "4,3,18637804,-;hrtimer: interrupt took 8243826 ns\n4,4,18637805,-;hrtimer: interrupt took 9 ns\n SUBSYSTEM=pci\n",
}


class FakeAgent:
    """An agent with these files and without NICs."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self._files = files

    def network(self) -> SimpleNamespace:
        return SimpleNamespace(nics=())

    def files(self, _patterns: Iterable[str]) -> Mapping[str, GuestFile]:
        return {path: GuestFile(text.encode("latin-1")) for path, text in self._files.items()}


def state_of(files: Mapping[str, str]) -> Mapping[str, str]:
    return read_guest_state(cast(AgentConnection, FakeAgent(files)))


@pytest.mark.fast
def test_state_has_what_does_not_change_by_itself() -> None:
    assert state_of(FILES) == {
        "sys/bus/virtio/devices/virtio1/status": "0x0000000f",
        "sys/bus/pci/devices/0000:00:02.0/config/000": "1a 04 41 10",
        "sys/bus/pci/devices/0000:00:02.0/config/004": "07 05 10 00",
        "sys/class/net/eth0/mtu": "1500",
        "sys/class/net/eth0/carrier": "1",
        "interrupts/27": "PCI-MSIX-0000:00:02.0 1-edge virtio1-input.0",
        "interrupts/ERR": "0",
        "interrupts/SPU": "1 0",
        "clocks/clock 0/offset-ns": "0",
        "clocks/clock 1/offset-ns": "1795725883154645237",
        "clocks/lapic/mult": "268336671",
        "memory-kib": "89356",
        "neighbours/10.75.0.9": "52:54:00:75:00:09 eth0",
        "proc/net/if_inet6/0": "fe80000000000000505400fffe750002 02 40 20 80     eth0",
        "kernel/tsc: Detected #.# MHz processor": "1: tsc: Detected 2099.999 MHz processor",
        "kernel/hrtimer: interrupt took # ns": "2: hrtimer: interrupt took 9 ns",
    }


@pytest.mark.fast
def test_processor_time_that_is_missing_is_no_change_of_the_guest() -> None:
    """It has a check of its own, which knows whether this machine may be the cause."""
    before = {"/proc/sys/kernel/tainted": "0\n", "/dev/kmsg": "4,1,9,-;clock: early\n"}
    report = "0,2,900000000,-;watchdog: BUG: soft lockup - CPU#0 stuck for 26s!\n4,3,900000100,-;Call Trace:\n"
    after = {"/proc/sys/kernel/tainted": "16384\n", "/dev/kmsg": before["/dev/kmsg"] + report}
    assert state_of(after) == state_of(before)
    after["/dev/kmsg"] += "4,4,902000000,-;virtio_net: too late for the report\n"
    after["/proc/sys/kernel/tainted"] = "16896\n"
    assert len(state_of(after).items() - state_of(before).items()) == 2


@pytest.mark.fast
@pytest.mark.parametrize(
    "message",
    [
        "rcu: INFO: rcu_preempt self-detected stall on CPU",
        "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
        "rcu: rcu_preempt kthread starved for 2502 jiffies! g-1123 f0x0 RCU_GP_WAIT_FQS(5) ->state=0x0 ->cpu=0",
        "rcu: rcu_preempt kthread timer wakeup didn't happen for 2505 jiffies! g-1123 f0x0",
    ],
)
def test_a_stall_of_rcu_is_processor_time_that_is_missing(message: str, tmp_path: Path) -> None:
    before = {"/dev/kmsg": "4,1,9,-;clock: early\n"}
    report = f"3,2,900000000,-;{message}\n3,3,900000100,-;rcu: \t0-....: (21 ticks this GP) idle=abc\n"
    assert state_of({"/dev/kmsg": before["/dev/kmsg"] + report}) == state_of(before)
    (tmp_path / "console").write_text(f"[  900.0] {message}\n")
    console = Console(tmp_path / "console")
    console.check()
    assert message in console.starved()


@pytest.mark.fast
def test_a_slow_first_answer_leaves_the_guest_time_to_settle(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock settles after the first answer, which takes longer than the guest has to settle."""
    monkeypatch.setattr(state, "SETTLE_S", 0.2)
    clock = f"{state.CLOCKSOURCE}current_clocksource"
    answers: list[bytes] = []

    class SlowAgent(FakeAgent):
        def files(self, _patterns: Iterable[str]) -> Mapping[str, GuestFile]:
            if not answers:
                time.sleep(0.3)
            answers.append(b"tsc-early\n" if len(answers) < 2 else b"tsc\n")
            return {clock: GuestFile(answers[-1])}

    found = read_guest_state(cast(AgentConnection, SlowAgent({})))
    assert found[clock.removeprefix("/")] == "tsc"


@pytest.mark.fast
@pytest.mark.parametrize(
    "path", ["/proc/interrupts", "/proc/timer_list", "/proc/net/arp", "/dev/kmsg", "/proc/x/config"]
)
@pytest.mark.parametrize("text", ["", "\n\n", ";\n,,,,;\n", "a:\n 1:\n", "\xff\x00\x1b[2J 0x 0xzz 0x4 b c d e f\n" * 3])
def test_malformed_files_are_no_error(path: str, text: str) -> None:
    values = state_of({"/sys/class/net/eth0/mtu": "1500", path: text})
    assert all(isinstance(value, str) for value in values.values())
    assert not any("\x1b" in item for pair in values.items() for item in pair)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/dev/cpu/0/msr@zz", "1"),
        ("/proc/net/arp", "h\na b 0xzz d e f"),
        ("/proc/sys/kernel/tainted", "9" * 5000),
        ("/dev/kmsg", "9" * 5000 + ",1,1,-;x"),
        ("/sys/class/net/eth0/carrier", "007"),
    ],
)
def test_numbers_that_are_none_are_an_instrument_error(path: str, text: str) -> None:
    with pytest.raises(InstrumentError, match=r"invalid literal|Exceeds the limit"):
        state_of({"/sys/class/net/eth0/mtu": "1500", path: text})


@pytest.mark.fast
def test_a_log_without_its_newest_messages_says_nothing() -> None:
    record = "6,1,0,-;nothing of interest\n"
    assert state_of({"/dev/kmsg": record * (120_000 // len(record))}) == {}
    with pytest.raises(InstrumentError, match="newest messages"):
        state_of({"/dev/kmsg": record * (130_000 // len(record))})


@pytest.mark.fast
def test_a_memory_of_too_many_digits_is_unknown() -> None:
    assert total_memory_kib(GuestFile(b"MemTotal: " + b"9" * 5000 + b" kB\n")) is None


@pytest.mark.fast
@pytest.mark.parametrize(
    "payload",
    [
        b"/a",
        b"/a\n",
        b"/a\n5\nabc",
        b"/a\n-\n",
        b"/a\nx\n",
        b"/a\n--1\n",
        b"\n1\na",
        b"/\x1b\n1\na",
        b"/a\n999999999\n",
        b"x" * 500,
    ],
)
def test_an_answer_with_another_layout_is_refused(payload: bytes) -> None:
    with pytest.raises(InstrumentError, match="files"):
        parse_files(Reply({}, "files", payload))


def test_files_of_this_machine(agent: NativeAgent, tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(b"x" * 200_000)
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    (tmp_path / "folder").mkdir()
    files = agent.connection.files([f"{tmp_path}/*", "/proc/sys/kernel/{osrelease,nosuch}", "/nosuch/*"])
    assert set(files) == {f"{tmp_path}/long", f"{tmp_path}/binary", "/proc/sys/kernel/osrelease"}
    assert files["/proc/sys/kernel/osrelease"].text == os.uname().release
    assert files[f"{tmp_path}/binary"].content == bytes(range(256))
    assert len(files[f"{tmp_path}/long"].content) == 1 << 17


def test_a_file_that_cannot_be_read_has_its_error(agent: NativeAgent) -> None:
    assert agent.connection.files(["/proc/self/mem"])["/proc/self/mem"].text == "EIO"


def test_too_many_files_are_refused(agent: NativeAgent, tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / str(number)).write_bytes(b"x" * 150_000)
    with pytest.raises(GuestFailed, match="longer than"):
        agent.connection.files([f"{tmp_path}/*"])
