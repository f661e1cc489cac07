"""Options of a tap netdev from each tap source, on a source and on a CPR target, and the descriptors passed to it."""

import os
from dataclasses import replace

import pytest

from cprlib.errors import EnvironmentFailure, UsageError
from cprlib.linux.namespace import NetworkNamespace
from cprlib.qemu.facts import LocalNames
from cprlib.qemu.netdev import FdSyntax, TapNetdev, TapSource, VirtioNet, opened_fds

pytestmark = pytest.mark.fast


def test_tap_is_opened_by_name() -> None:
    assert TapNetdev().options() == {
        "type": "tap",
        "id": "net0",
        "ifname": "tap0",
        "script": "no",
        "downscript": "no",
        "vhost": False,
    }


def test_queues_are_given_unless_descriptors_imply_them() -> None:
    assert TapNetdev(queues=4).options()["queues"] == 4
    options = TapNetdev(queues=2, tap_source=TapSource.FDS).options(["5", "6"])
    assert options["fds"] == "5:6"
    assert not {"queues", "ifname", "script", "downscript"} & set(options)
    assert TapNetdev(queues=2, tap_source=TapSource.MACVTAP).options(["5", "6"]) == options


@pytest.mark.parametrize(
    ("tap_source", "tap", "vhost"), [(TapSource.FD, "fd", "vhostfd"), (TapSource.FDS, "fds", "vhostfds")]
)
def test_vhost_descriptors_are_named_as_the_taps_are(tap_source: TapSource, tap: str, vhost: str) -> None:
    options = TapNetdev(tap_source=tap_source, vhost=True, vhost_passed=True).options(["a"], ["b"])
    assert (options[tap], options[vhost], options["vhost"]) == ("a", "b", True)


def test_unset_options_are_omitted() -> None:
    netdev = TapNetdev(vhost=True, send_buffer=262144, poll_us=50, cpr=True)
    options = netdev.options()
    assert (options["sndbuf"], options["poll-us"]) == (262144, 50)
    assert netdev.handed_over_options() == options
    assert not {"sndbuf", "poll-us"} & set(TapNetdev(vhost=True).options())


def test_helper_gets_the_bridge() -> None:
    options = TapNetdev(tap_source=TapSource.HELPER, helper="/h", bridge="br7").options()
    assert (options["helper"], options["br"]) == ("/h", "br7")
    assert "ifname" not in options


def test_unnamed_tap_has_no_name() -> None:
    assert "ifname" not in TapNetdev(tap_source=TapSource.UNNAMED).options()


def test_target_has_minus_one_for_each_descriptor() -> None:
    netdev = TapNetdev(queues=2, vhost=True, vhost_passed=True, cpr=True, tap_source=TapSource.FDS)
    options = netdev.handed_over_options()
    assert (options["fds"], options["vhostfds"], options["cpr"]) == ("-1:-1", "-1:-1", True)


def test_target_without_descriptors_still_has_queues_and_vhost() -> None:
    netdev = TapNetdev(
        queues=2, vhost=True, vhost_passed=True, cpr=True, tap_source=TapSource.FDS, fd_syntax=FdSyntax.LEFT_OUT
    )
    assert netdev.handed_over_options() == {
        "type": "tap",
        "id": "net0",
        "vhost": True,
        "cpr": True,
        "queues": 2,
    }
    opened = TapNetdev(queues=2, cpr=True, fd_syntax=FdSyntax.LEFT_OUT).handed_over_options()
    assert (opened["script"], opened["downscript"]) == ("no", "no")


def test_local_target_gets_no_tap_of_its_own() -> None:
    netdev = TapNetdev(queues=2, vhost=True, poll_us=50, local=LocalNames("local", "x-permit-local-migration"))
    assert netdev.options()["x-permit-local-migration"] is True
    assert netdev.options(incoming=True) == {
        "type": "tap",
        "id": "net0",
        "script": "",
        "downscript": "",
        "vhost": True,
        "poll-us": 50,
        "queues": 2,
        "x-permit-local-migration": True,
    }
    older = replace(netdev, local=LocalNames("local", "local-migration-supported", "incoming-fds"))
    assert older.options(incoming=True)["incoming-fds"] is True
    assert "incoming-fds" not in older.options()


@pytest.mark.parametrize(("queues", "vhost", "expected"), [(1, False, 1), (4, False, 4), (4, True, 8)])
def test_vhost_doubles_the_descriptors_of_each_queue(queues: int, vhost: bool, expected: int) -> None:
    assert TapNetdev(queues=queues, vhost=vhost).descriptors == expected


@pytest.mark.parametrize(
    "wrong",
    [
        {"queues": 2, "tap_source": TapSource.FD},
        {"queues": 2, "tap_source": TapSource.HELPER, "helper": "/h"},
        {"vhost_passed": True},
        {"poll_us": 50},
        {"tap_source": TapSource.HELPER},
        {"helper": "/h"},
        {"queues": 0},
        {"identifier": "1st"},
    ],
)
def test_contradictory_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        TapNetdev(**wrong)  # type: ignore[arg-type]


def test_nic_has_two_vectors_per_queue_pair_and_two_more() -> None:
    options = VirtioNet("52:54:00:00:00:01", queues=4).options()
    assert (options["vectors"], options["mq"]) == (10, True)


def test_nothing_is_opened_when_qemu_opens_the_tap() -> None:
    with opened_fds(TapNetdev(queues=4)) as files:
        assert files.all == ()


def test_passed_taps_are_closed_after_the_body() -> None:
    try:
        with NetworkNamespace("taps") as namespace, namespace.entered():
            with opened_fds(TapNetdev(queues=3, tap_source=TapSource.FDS)) as files:
                assert len(files.tap) == 3
                assert all(os.fstat(number) for number in files.tap)
            for number in files.tap:
                with pytest.raises(OSError, match="Bad file descriptor"):
                    os.fstat(number)
    except EnvironmentFailure as error:
        pytest.skip(error.one_line())
