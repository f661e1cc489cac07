"""The namespaces of a test, on the real kernel."""

import errno
import os
from pathlib import Path

import pytest
from pyroute2.netlink.exceptions import NetlinkError

from cprlib.errors import EnvironmentFailure
from cprlib.linux.counters import read_counters
from cprlib.linux.namespace import NetworkNamespace
from cprlib.linux.topology import GUEST, build_topology

pytestmark = pytest.mark.fast

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/dev/net/tun").exists(), reason="needs root and /dev/net/tun: run as root"
)


def host_links() -> str:
    return Path("/proc/net/dev").read_text(encoding="utf-8").replace(" ", "")


@needs_root
def test_tap_is_made_inside_and_nothing_is_left_outside() -> None:
    before = {line.split(":")[0] for line in host_links().splitlines()}
    with build_topology() as topology:
        topology.add_tap("tap0", queues=4, queue_length=10)
        message = topology.switch.netlink.link("get", index=topology.switch.index("tap0"))[0]
        assert message.get("txqlen") == 10
        assert message.get("master") == topology.switch.index("br0")
        assert read_counters(topology.switch, "tap0").tx_packets == 0
    assert {line.split(":")[0] for line in host_links().splitlines()} == before


@needs_root
def test_missing_link_is_an_error() -> None:
    with NetworkNamespace("empty") as namespace, pytest.raises(EnvironmentFailure, match="no such link"):
        namespace.index("eth7")


@needs_root
def test_namespace_is_left_again_after_an_error() -> None:
    own = os.readlink("/proc/thread-self/ns/net")
    with NetworkNamespace("other") as namespace:
        with pytest.raises(RuntimeError), namespace.entered():
            assert os.readlink("/proc/thread-self/ns/net") != own
            raise RuntimeError
        assert os.readlink("/proc/thread-self/ns/net") == own


@needs_root
def test_a_link_that_the_kernel_refuses_is_an_error() -> None:
    with build_topology() as topology, pytest.raises(EnvironmentFailure, match="cannot make macvtap br0: "):
        topology.add_macvtap("br0", GUEST.mac)  # the name is taken


@needs_root
def test_a_namespace_that_fails_to_open_leaves_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise NetlinkError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("pyroute2.IPRoute", refuse)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(EnvironmentFailure, match="not permitted"), NetworkNamespace("refused"):
        pass
    assert os.listdir("/proc/self/fd") == before
