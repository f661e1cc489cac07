"""The state of a process and of the host's links as flat mappings, on the real kernel."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cprlib.errors import InstrumentError
from cprlib.linux import host_state
from cprlib.linux.host_state import read_memory, read_network_state, read_process_state, tap_queue_values
from cprlib.linux.tap import TapQueue, read_tap_queues
from cprlib.linux.topology import build_topology

pytestmark = pytest.mark.fast

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/dev/net/tun").exists(), reason="needs root and /dev/net/tun: run as root"
)


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}


def test_process_shows_a_leaked_eventfd_and_a_flag_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "console-source.log"
    with path.open("wb") as file:
        before = read_process_state(os.getpid(), "source")
        leaked = os.eventfd(0)
        os.set_inheritable(file.fileno(), True)
        try:
            found = changed(before, read_process_state(os.getpid(), "source"))
        finally:
            os.close(leaked)
    assert {item.rpartition("/")[0] for item in found} == {"descriptors/eventfd", "descriptors/console-QEMU.log"}


def test_a_process_that_ends_while_it_is_read_is_an_instrument_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:

        def end(_folder: Path) -> Iterator[str]:
            process.kill()
            process.wait()
            return iter(())

        monkeypatch.setattr(host_state, "_children", end)
        with pytest.raises(InstrumentError, match="No such file"):
            read_process_state(process.pid)


def test_process_shows_advice_about_shared_memory() -> None:
    size = 1 << 20
    file = os.memfd_create("guest-memory")
    os.ftruncate(file, size)
    with mmap.mmap(file, size) as memory:
        before = read_process_state(os.getpid(), "source")
        memory.madvise(mmap.MADV_DONTDUMP)
        found = changed(before, read_process_state(os.getpid(), "source"))
    os.close(file)
    assert sorted(item.partition(" KiB ")[2] for item in found) == ["rw-s", "rw-s dd"]


def test_memory_shows_a_byte_that_changed_and_leaves_holes() -> None:
    mib = 1 << 20
    file = os.memfd_create("guest-memory")
    os.ftruncate(file, 8 * mib)
    os.pwrite(file, b"first", 0)
    os.pwrite(file, b"second", 5 * mib + 7)
    blocks = os.fstat(file).st_blocks
    before = read_memory(os.getpid())
    os.pwrite(file, b"S", 5 * mib + 7)
    found = changed(before, read_memory(os.getpid()))
    assert os.fstat(file).st_blocks == blocks
    name = "guest-memory 1"
    os.close(file)
    assert {path for path in before if path.startswith(name)} == {f"{name}/page 0x0", f"{name}/page 0x500000"}
    assert found == {f"{name}/page 0x500000"}


def test_memory_of_another_file_with_this_name_has_a_number() -> None:
    files = [os.memfd_create("twice") for _ in range(2)]
    for number, file in enumerate(files):
        os.pwrite(file, b"x", 4096 * number)
    found = {path for path in read_memory(os.getpid()) if path.startswith("twice")}
    for file in files:
        os.close(file)
    assert found == {"twice 1/page 0x0", "twice 2/page 0x1000"}


def test_process_shows_a_signal_mask_and_a_child() -> None:
    before = read_process_state(os.getpid(), "source")
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    try:
        found = changed(before, read_process_state(os.getpid(), "source"))
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2])
    assert any("SigBlk" in item for item in found)
    assert any(item.startswith("children/") for item in found)


def test_a_process_that_is_gone_cannot_be_read() -> None:
    with pytest.raises(InstrumentError):
        read_process_state(2**22 - 1, "source")


@needs_root
def test_links_show_a_changed_attribute() -> None:
    with build_topology() as topology:
        topology.add_tap("tap0", queues=4)

        def read() -> dict[str, str]:
            return read_network_state(topology.switch, topology.station, ["tap0"])

        before = read()
        assert before["link/tap0/IFLA_LINKINFO/IFLA_INFO_DATA/IFLA_TUN_VNET_HDR"] == "1"
        assert "errors/station/UdpInCsumErrors" in before
        later = changed(before, read())
        assert {path for path in later if not path.startswith("fdb/")} == set()  # the bridge learns at its own time
        topology.switch.netlink.link("set", index=topology.switch.index("tap0"), mtu=1400)
        assert "link/tap0/IFLA_MTU" in changed(before, read())


@needs_root
def test_a_tap_that_is_gone_hides_no_other_link() -> None:
    with build_topology() as topology:
        values = read_network_state(topology.switch, topology.station, ["tap0"])
    assert values["offloads/tap0"] == "refused: ENODEV"
    assert any(path.startswith("link/br0/") for path in values)


@needs_root
def test_a_tap_descriptor_without_an_interface_is_a_queue() -> None:
    opened = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        values = tap_queue_values(read_tap_queues(os.getpid()))
    finally:
        os.close(opened)
    assert values["queues/none/interface: none"] == "1"


def test_tap_queues_are_counted_by_their_state() -> None:
    queue = TapQueue(5, "tap0", False, 12, ("tap", "vnet_hdr"), 2**20, "native")
    values = tap_queue_values([queue, queue])
    assert values["queues/tap0/vnet header: 12 bytes"] == "2"
    assert values["queues/tap0/queue: attached"] == "2"
