"""Command lines: options that a target shares with its source, and names that cannot inject options."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cprlib.errors import UsageError
from cprlib.qemu.command_line import MachineFiles, MigrationChannels, command_line
from cprlib.qemu.netdev import TapNetdev

from .samples import machine_settings

pytestmark = pytest.mark.fast


def test_memory_is_a_shared_memfd_and_auxiliary_ram_too() -> None:
    line = " ".join(command_line(machine_settings(), MachineFiles(Path("/e"), "source"), 5, 6))
    assert "memory-backend-memfd,id=ram0,share=on" in line
    assert "aux-ram-share=on" in line
    assert "socket,id=qmp,fd=5" in line


def test_netdev_is_json_with_cpr() -> None:
    command = command_line(machine_settings(), MachineFiles(Path("/e"), "source"), 5, 6)
    netdev = json.loads(command[command.index("-netdev") + 1])
    assert (netdev["cpr"], netdev["queues"], netdev["vhost"]) == (True, 4, True)


def test_netdev_omits_cpr_when_unset() -> None:
    assert "cpr" not in TapNetdev().options()


@pytest.mark.parametrize("name", ["../x", "a b", "tap0;rm", "", "x" * 16, "tap0\n"])
def test_names_cannot_inject_options(name: str) -> None:
    with pytest.raises(UsageError):
        TapNetdev(interface=name)


def test_unknown_accelerator_is_refused() -> None:
    with pytest.raises(UsageError):
        machine_settings(accelerator="hax")


def test_target_waits_on_both_channels_cpr_first() -> None:
    arguments = MigrationChannels("c", "m").incoming_arguments()
    assert [json.loads(value)["channel-type"] for value in arguments[1::2]] == ["cpr", "main"]


def test_ordinary_migration_has_one_channel_and_its_memory_in_a_file() -> None:
    channels = MigrationChannels("", "m")
    assert replace(channels, deferred=True).incoming_arguments() == ["-incoming", "defer"]
    assert replace(channels, waits_for_cont=True).incoming_arguments()[:2] == ["-S", "-incoming"]
    assert [item["channel-type"] for item in channels.descriptions()] == ["main"]
    line = " ".join(command_line(machine_settings(memory_file=7), MachineFiles(Path("/e"), "source"), 5, 6))
    assert "memory-backend-file,mem-path=/proc/self/fd/7,id=ram0,share=on" in line
