"""Bad parameters are refused in one line, with exit status 2, before anything is built or booted."""

from __future__ import annotations

from pathlib import Path

import pytest

from cprlib.cli.main import main
from cprlib.cli.options import check_nic_properties, read_parameters
from cprlib.errors import ExitStatus, UsageError
from cprlib.lab.engines import absolute_policy
from cprlib.qemu import binary
from cprlib.testing.parameters import SuiteParameters, check_parameters, shared_parameters
from cprlib.testing.parameters import read_parameters as read_parameters_of_test

pytestmark = pytest.mark.fast

BAD = {
    "rate=0": "above 0",
    "rate=-5": "above 0",
    "rate=nan": "above 0",
    "rate=inf": "above 0",
    "rate=1e9": "1 to 1e",
    "rate=fast": "has to be a number",
    "size=43": "44 to 1472",
    "size=1473": "44 to 1472",
    "size=-1": "44 to 1472",
    "size=big": "has to be a whole number",
    "queues=0": "above 0",
    "queue_length=0": "above 0",
    "control_run=0.5": "1 to 3600",
    "before=-1": "above 0",
    "memory=1": "64 to",
    "ip_version=5": "4 or 6",
    "mechanism=none": "has to be cpr or link-switch or fd-share or local",
    "mechanism=teleport": "has to be cpr or",
    "mode=postcopy": "has to be cpr-transfer or cpr-exec or normal",
    "situation=reboot": "has to be update or",
    "boot=warm": "has to be template or fresh",
    "dscp=64": "0 to 63",
    "fault_repeats=0": "above 0",
    "ratte=1000": "no such parameter",
    "rate": "not NAME=VALUE",
    "vcpus=0": "above 0",
    "vcpus=33": "1 to 32",
    "mtu=9001": "1280 to 9000",
    "nic.host_mtu=much": "1280 to 9000",
    "nic.=on": "not NAME=VALUE",
    "nic.packed=": "nic.PROPERTY=VALUE",
    "nic.mac=52:54:00:00:00:01": "the suite sets mac",
    "qemu_args='-smp": "No closing quotation",
    "qemu_args=-m 512": "the suite gives -m itself; give -p memory=",
    "qemu_args=-nodefaults -smp 2,sockets=1": "give -p vcpus=",
    "qemu_args=--machine q35,usb=off": "give -p machine=",
    "qemu_args=-accel kvm": "give -p accelerator=",
    "qemu_args=-global virtio-net-pci.mq=on": "the suite sets mq itself",
    "qemu_args=-global virtio-net-pci.mac=52:54:00:00:00:01": "the suite sets mac itself",
    "qemu=/q": "give --qemu",
    "firmware=/f": "give --firmware",
    "target_qemu=/q": "give --target-qemu",
    "target_firmware=/f": "give --target-firmware",
    "policy=strict": "give --policy",
}


@pytest.fixture(autouse=True)
def nothing_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*_: object, **__: object) -> None:
        raise AssertionError("something was built")

    monkeypatch.setattr("cprlib.build.assets.build_assets", build)


@pytest.mark.parametrize(("given", "why"), BAD.items())
def test_bad_parameter_is_a_usage_error_in_one_line(given: str, why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--lab", "-p", given]) == ExitStatus.USAGE
    printed = capsys.readouterr()
    lines = printed.err.strip().splitlines()
    assert len(lines) == 1
    assert why in lines[0]
    assert given.partition("=")[0] in lines[0]


FIRMWARE_ALONE = (
    "run --firmware /f",
    "run --target-firmware /f",
    "compare --b /q --a-firmware /f",
    "soak --hours 1 --firmware /f",
)


@pytest.mark.parametrize("line", FIRMWARE_ALONE)
def test_firmware_without_its_qemu_is_a_usage_error(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == ExitStatus.USAGE
    assert "no QEMU is given for it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "kept"),
    [("strict", "strict"), ("./gate", "/here/gate"), ("g.toml", "/here/g.toml"), ("/x/gate", "/x/gate")],
)
def test_a_policy_file_is_found_from_another_folder(given: str, kept: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "resolve", lambda path: Path("/here") / path)
    assert absolute_policy(given) == kept


def test_largest_packet_is_smaller_over_ipv6() -> None:
    check_parameters({"ip_version": "6", "size": "1452"})
    with pytest.raises(UsageError, match="44 to 1452"):
        check_parameters({"ip_version": "6", "size": "1453"})


def test_packet_may_be_as_large_as_the_path_carries() -> None:
    for way in ({"mtu": "9000"}, {"nic.host_mtu": "9000"}, {"qemu_args": "-global virtio-net-pci.host_mtu=9000"}):
        check_parameters({"size": "8972", **way})
    with pytest.raises(UsageError, match="44 to 8972"):
        check_parameters({"size": "8973", "mtu": "9000"})


@pytest.mark.parametrize("other", [{"nic.host_mtu": "9000"}, {"qemu_args": "-global virtio-net-pci.host_mtu=9000"}])
def test_two_different_mtus_are_refused(other: dict[str, str]) -> None:
    check_parameters({"mtu": "9000", **other})
    with pytest.raises(UsageError, match=r"run with mtu=1500.*the NIC.* host_mtu=9000.*leave one of them out"):
        check_parameters({"mtu": "1500", **other})


def test_defaults_are_valid() -> None:
    check_parameters({"policy": "default"})
    assert SuiteParameters().fault_repeats == 1


@pytest.mark.parametrize(
    ("rate", "answered", "wanted", "packets"),
    [
        (1000, 900, 500, 1000),  # enough packets: only the time "after"
        (200, 250, 500, 250),  # time for the missing packets
        (200, 450, 500, 200),  # at least the time "after"
        (10, 12, 500, 100),  # limited
    ],
)
def test_traffic_lasts_until_the_policy_has_its_packets(rate: float, answered: int, wanted: int, packets: int) -> None:
    assert SuiteParameters(rate=rate).packets_after(answered, wanted) == packets


def test_arguments_of_qemu_become_one_parameter() -> None:
    given = read_parameters(("nic.packed=on", "qemu_args=-nodefaults"), ("-sandbox on", "-name 'a b'"))
    assert given == {"nic.packed": "on", "qemu_args": "-nodefaults -sandbox on -name 'a b'"}
    assert SuiteParameters(qemu_args=given["qemu_args"]).arguments == ("-nodefaults", "-sandbox", "on", "-name", "a b")


@pytest.mark.parametrize("words", ["-m slots=2,maxmem=4G", "-machine usb=off", "-M hmat=on", "-object iothread,id=m"])
def test_arguments_that_add_to_those_of_the_suite_are_taken(words: str) -> None:
    assert SuiteParameters(qemu_args=words).arguments == tuple(words.split())


def test_a_property_that_the_nic_lacks_is_refused_with_one_like_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binary, "nic_properties", lambda _qemu: {"packed", "event_idx"})
    monkeypatch.setattr(binary, "require_nic", lambda *_: None)
    qemu = binary.QemuBinary(Path("/q"))
    check_nic_properties([qemu], {"nic.packed": "on", "rate": "50"})
    with pytest.raises(UsageError, match=r"run with nic\.packd.*/q has no such property; did you mean packed"):
        check_nic_properties([qemu], {"nic.packed": "on"}, ["nic.packd"])


def test_parameters_of_the_run_are_given_again() -> None:
    items = [("/", "nic.packed", "on"), ("/", "qemu", "/q"), ("/run", "rate", 500), ("/run/x", "queues", 4)]
    assert shared_parameters(items) == {"nic.packed": "on", "rate": "500"}
    read = read_parameters_of_test({"nic.packed": True, "rate": "500"}.get, ["nic.packed", "rate"])
    assert (read.nic, read.rate) == ({"packed": "on"}, 500)
