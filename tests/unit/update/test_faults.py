"""Faults are data that makes sense, and settings of a target that does not fit differ in one thing."""

import errno
import os
import subprocess
import sys
from dataclasses import fields

import pytest

from cprlib.errors import InstrumentError, UsageError
from cprlib.linux.descriptors import exhaust_descriptors, read_table
from cprlib.update import faults
from cprlib.update.fault_injection import changed_settings
from cprlib.update.faults import Action, Actor, Fault, Phase, Survivor
from cprlib.update.mechanism import Mode

from ..qemu.samples import machine_settings

ALL = [fault for table in faults.TABLES for fault in table]


def test_names_are_unique_and_every_phase_is_used() -> None:
    names = [fault.name for fault in ALL]
    assert len(names) == len(set(names))
    assert {fault.phase for fault in ALL} == set(Phase)
    assert {fault.actor for fault in ALL} == set(Actor)
    assert {fault.action for fault in ALL} == set(Action)


def test_an_ordinary_migration_has_the_closest_faults_of_its_own_once() -> None:
    assert faults.faults_in(Mode.CPR_TRANSFER, faults.CANCELS) == faults.CANCELS
    names = [fault.name for fault in faults.faults_in(Mode.NORMAL, faults.CANCELS)]
    assert names == ["cancel-before-migrate", "cancel-before-switchover", "cancel-too-late"]
    named = faults.faults_named(*faults.IN_ORDINARY_MIGRATION)
    without_cpr = {Phase.CPR_READY, Phase.BEFORE_SWITCHOVER, Phase.MAIN_CONNECTED}
    assert {fault.phase for fault in faults.faults_in(Mode.NORMAL, named)} == without_cpr
    assert [fault.survivor for fault in faults.faults_in(Mode.NORMAL, named)][-1] is Survivor.NEITHER


def test_a_source_that_was_killed_survives_nothing() -> None:
    for fault in ALL:
        if (fault.actor, fault.action) == (Actor.SOURCE, Action.KILL):
            assert fault.survivor is not Survivor.SOURCE


@pytest.mark.parametrize(
    ("phase", "actor", "action"),
    [
        (Phase.TARGET_RESUMED, Actor.MANAGEMENT, Action.CLOSE_CPR),
        (Phase.FDS_SENT, Actor.MANAGEMENT, Action.GARBAGE_MAIN),
        (Phase.FDS_SENT, Actor.TARGET, Action.OTHER_QUEUES),
        (Phase.FDS_SENT, Actor.MANAGEMENT, Action.KILL),
    ],
)
def test_nonsense_is_refused(phase: Phase, actor: Actor, action: Action) -> None:
    with pytest.raises(UsageError):
        Fault("nonsense", phase, actor, action)


@pytest.mark.parametrize("queues", [1, 4])
@pytest.mark.parametrize("action", list(Action))
def test_a_target_that_does_not_fit_differs_as_its_name_says(action: Action, queues: int) -> None:
    ours = machine_settings(queues)
    theirs = changed_settings(ours, action)
    different = {item.name for item in fields(ours) if getattr(ours, item.name) != getattr(theirs, item.name)}
    expected = {
        Action.OTHER_QUEUES: {"netdevs", "nics"},
        Action.OTHER_VHOST: {"netdevs"},
        Action.OTHER_NETDEV: {"netdevs", "nics"},
        Action.NO_NETDEV: {"netdevs", "nics"},
        Action.OTHER_MEMORY: {"memory_mib"},
        Action.OTHER_MACHINE: {"machine"},
        Action.OTHER_VERSION: {"machine"},
        Action.OTHER_FEATURES: {"extra"},
        Action.OTHER_NIC: {"extra"},
        Action.OTHER_ROM: {"extra"},
        Action.NO_SPACE: {"extra"},
        Action.NO_NET_ADMIN: {"prefix"},
    }
    assert different == expected.get(action, set())


@pytest.mark.parametrize("machine", ["q35", "pc-q35-10.0", "pc", "pc-i440fx-10.0"])
def test_another_machine_is_no_alias_of_the_source_s(machine: str) -> None:
    other = changed_settings(machine_settings(machine=machine), Action.OTHER_MACHINE).machine
    assert other == ("pc" if "q35" in machine else "q35")


def test_the_machine_version_of_another_distribution_is_one_that_no_qemu_has() -> None:
    assert changed_settings(machine_settings(), Action.OTHER_VERSION).machine == "pc-q35-cprlib-0.0"


@pytest.mark.parametrize(
    ("given", "other"), [("", "on"), ("mq=on", "on"), ("disable-modern=off", "on"), ("disable-modern=on", "off")]
)
def test_other_options_of_the_nic_differ_from_those_of_the_run(given: str, other: str) -> None:
    extra = ("-global", f"virtio-net-pci.{given}") if given else ()
    theirs = changed_settings(machine_settings(extra=extra), Action.OTHER_NIC)
    assert theirs.extra == (*extra, "-global", f"virtio-net-pci.disable-modern={other}")


def test_faults_are_found_by_name() -> None:
    assert faults.faults_named("cpr-garbage", "no-fault") == (faults.CPR_CHANNEL[4], faults.PLAIN)
    assert faults.faults_named(*(fault.name for fault in ALL)) == tuple(ALL)
    with pytest.raises(UsageError):
        faults.faults_named("no-such-fault")


OPENS = """
import errno, os, socket, sys

held = os.open("/dev/null", os.O_RDONLY)
print("ready", flush=True)
sys.stdin.readline()
pair = socket.socketpair()
if "hole" in sys.argv:
    os.close(held)
print("opened", flush=True)
sys.stdin.readline()
got = 0
if "closes" in sys.argv:
    for one in pair:
        one.close()
try:
    while True:
        os.open("/", os.O_RDONLY)
        got += 1
except OSError as error:
    print(got, errno.errorcode[error.errno])
"""


@pytest.mark.parametrize(
    ("words", "looked", "got"),
    [
        ((), False, 0),
        (("closes",), True, 2),  # what it opened since, and closed
        (("hole", "closes"), False, 0),  # what is closed lies above the limit, which is at the hole
        (("hole", "closes"), True, 3),
    ],
)
def test_an_exhausted_process_opens_no_more_than_it_closes(words: tuple[str, ...], looked: bool, got: int) -> None:
    command = [sys.executable, "-c", OPENS, *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        before = read_table(child.pid)
        child.stdin.write("go\n")
        child.stdin.flush()
        assert child.stdout.readline() == "opened\n"
        exhaust_descriptors(child.pid, earlier=before if looked else None)
        said, _ = child.communicate("go\n")
    assert said == f"{got} EMFILE\n"


def test_a_limit_that_the_kernel_refuses_is_an_error_of_the_instrument(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ProcessLookupError(errno.ESRCH, "No such process")

    monkeypatch.setattr("resource.prlimit", refuse)
    with pytest.raises(InstrumentError, match="cannot limit the descriptors of process"):
        exhaust_descriptors(os.getpid())
