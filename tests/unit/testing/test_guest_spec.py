"""The QEMU that a test's guest is booted with, and the ports of a case."""

from __future__ import annotations

from pathlib import Path

import pytest

from cprlib.errors import InstrumentError
from cprlib.guest.image import GuestImage
from cprlib.qemu.binary import QemuBinary
from cprlib.qemu.command_line import MachineSettings
from cprlib.qemu.netdev import TapNetdev
from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.parameters import SuiteParameters
from cprlib.traffic.flow import FIRST_PORT, LAST_PORT, PortAllocator
from cprlib.update.mechanism import Mechanism

pytestmark = pytest.mark.fast

QEMU = QemuBinary(Path("/q"), Path("/share"))
IMAGE = GuestImage(Path("/k"), Path("/i"), "x")


def settings(spec: GuestSpec, **parameters: object) -> MachineSettings:
    return spec.settings(SuiteParameters(**parameters), QEMU, IMAGE)  # type: ignore[arg-type]


def test_parameter_queues_replaces_those_of_the_test() -> None:
    assert settings(GuestSpec(queues=4)).netdevs[0].queues == 4
    assert settings(GuestSpec(queues=4), queues=2).netdevs[0].queues == 2
    assert settings(GuestSpec(netdevs=(TapNetdev(queues=3),)), queues=2).netdevs[0].queues == 3


def test_netdevs_get_what_the_mechanism_needs() -> None:
    assert settings(GuestSpec()).netdevs[0].cpr is True
    assert settings(GuestSpec(Mechanism.LINK_SWITCH)).netdevs[0].cpr is None


def test_nics_that_can_be_plugged_need_machine_pc() -> None:
    assert settings(GuestSpec()).machine == "q35"
    for spec in (GuestSpec(plugged=True), GuestSpec(pluggable=True)):
        for machine in ("q35", "pc", "pc-q35-10.0"):
            assert settings(spec, machine=machine).machine == "pc"
        assert settings(spec, machine="pc-i440fx-10.0").machine == "pc-i440fx-10.0"
    assert settings(GuestSpec(machine="pc-q35-10.0"), machine="pc").machine == "pc-q35-10.0"


def test_legacy_nics_are_behind_no_port() -> None:
    """PCIe ports of QEMU take no legacy device."""

    def port(**parameters: object) -> str:
        return settings(GuestSpec(root_ports=True), **parameters).nics[0].port

    assert port() == port(nic={"disable-modern": "off"}) == "port0"
    assert port(machine="pc") == port(nic={"disable-modern": "on"}) == ""
    assert port(qemu_args="-global virtio-net-pci.disable-modern=on") == ""


def test_each_further_nic_adds_memory() -> None:
    netdevs = (TapNetdev(), TapNetdev("other", "tap1", queues=4))
    assert settings(GuestSpec(netdevs=netdevs), memory=256).memory_mib == 256 + 8
    assert [nic.netdev for nic in settings(GuestSpec(netdevs=netdevs)).nics] == ["net0", "other"]


def test_memory_follows_what_the_nic_needs() -> None:
    assert settings(GuestSpec()).memory_mib == 128
    assert settings(GuestSpec(), nic={"mrg_rxbuf": "off"}).memory_mib == 128 + 74
    assert settings(GuestSpec(queues=4), qemu_args="-global virtio-net-pci.mrg_rxbuf=off").memory_mib == 128 + 4 * 74
    assert settings(GuestSpec(), vcpus=4).memory_mib == 128 + 3 * 16
    assert settings(GuestSpec(), nic={"mrg_rxbuf": "off"}, memory=100).memory_mib == 100


def test_options_of_the_run_come_before_those_of_the_test() -> None:
    spec = GuestSpec(arguments=("-global", "virtio-net-pci.rss=on"))
    found = settings(spec, nic={"packed": "on"}, qemu_args="-sandbox 'on'", vcpus=2, mtu=9000)
    nic = ("-global", "virtio-net-pci.host_mtu=9000", "-global", "virtio-net-pci.packed=on")
    assert found.extra == (*nic, "-sandbox", "on", *spec.arguments)
    assert found.vcpus == 2


def test_old_machine_types_boot_a_bz_image(tmp_path: Path) -> None:
    (tmp_path / "bzImage").touch()
    image = GuestImage(tmp_path / "vmlinuz", Path("/i"), "x")
    assert image.kernel_for("pc-i440fx-2.6").name == "bzImage"
    assert {image.kernel_for(name).name for name in ("pc", "q35", "pc-q35-4.0", "pc-q35-rhel9.6.0")} == {"vmlinuz"}
    assert IMAGE.kernel_for("pc-i440fx-2.6") == IMAGE.kernel


def test_a_qemu_becomes_parameters_and_back() -> None:
    for qemu in (QEMU, QemuBinary(Path("/q"))):
        for prefix in ("", "target_"):
            given = qemu.parameters(prefix)
            assert set(given) <= {f"{prefix}qemu", f"{prefix}firmware"}
            assert QemuBinary.from_parameters(given, prefix) == qemu
    assert QemuBinary.from_parameters({"qemu": "", "firmware": "/share"}) is None


def test_no_port_is_given_twice() -> None:
    ports = PortAllocator()
    assert (ports.take(), ports.take(3), ports.take()) == (FIRST_PORT, FIRST_PORT + 1, FIRST_PORT + 4)
    ports.take(LAST_PORT - FIRST_PORT - 4)
    with pytest.raises(InstrumentError, match="0 are left"):
        ports.take()


@pytest.mark.parametrize(("rate", "measured"), [(1000, 500), (100, 50), (80, 50), (50, 50), (20, 20)])
def test_a_shared_rate_is_high_enough_for_the_packets_of_the_policy(rate: float, measured: float) -> None:
    assert GuestSpec(rate_share=0.5).rate_in(SuiteParameters(rate=rate), packets=500) == measured
    assert GuestSpec().rate_in(SuiteParameters(rate=rate), packets=500) == rate
