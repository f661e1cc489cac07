"""Real guests whose kernel dies: reported at once, with the kernel's message; under TCG, where assets are built."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cprlib.build.assets import Assets, find_assets
from cprlib.deadline import Deadline
from cprlib.errors import CprlibError, DeadlineExceeded, GuestFailed
from cprlib.evidence.guest_checks import death_checks
from cprlib.evidence.records import Outcome
from cprlib.guest.agent import AgentConnection
from cprlib.guest.console import Console
from cprlib.linux.topology import build_topology
from cprlib.qemu.machine import Machine
from cprlib.qemu.start import start_machine
from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.parameters import SuiteParameters
from cprlib.update.running_guest import show_blocked_tasks


@pytest.fixture(scope="module")
def assets() -> Assets:
    try:
        return find_assets()
    except (CprlibError, ImportError) as error:
        pytest.skip(f"nothing is built: {error}")


@contextlib.contextmanager
def booting(assets: Assets, folder: Path, parameters: str) -> Iterator[Machine]:
    """A guest with additional parameters on its kernel's command line."""
    settings = GuestSpec().settings(SuiteParameters(), assets.qemu, assets.guest)
    settings = replace(settings, kernel_arguments=f"{settings.kernel_arguments} {parameters}")
    with contextlib.ExitStack() as stack:
        try:
            topology = stack.enter_context(build_topology())
            topology.add_tap("tap0", queues=1)
        except CprlibError as error:
            pytest.skip(error.one_line())
        machine = stack.enter_context(start_machine("source", settings, folder, topology.switch))
        machine.wait_ready()
        yield machine


def test_an_init_that_is_missing_is_a_panic_and_no_time_out(assets: Assets, tmp_path: Path) -> None:
    begun = time.monotonic()
    with (
        pytest.raises(GuestFailed, match=r"its kernel died: .*Kernel panic") as caught,
        booting(assets, tmp_path, "rdinit=/nowhere init=/nowhere root=none") as machine,
    ):
        Console(machine.files.console, lambda: machine.check_alive("boot the guest")).wait_ready(60)
    assert "Kernel panic" in caught.value.details
    assert time.monotonic() - begun < 50
    assert [check.outcome for check in death_checks(tmp_path, counts_against_qemu=False)] == [Outcome.INCONCLUSIVE]


def test_a_guest_that_panics_later_fails_its_case_whatever_was_waited_for(assets: Assets, tmp_path: Path) -> None:
    with booting(assets, tmp_path, "unknown_nmi_panic panic=0") as machine:
        Console(machine.files.console, lambda: machine.check_alive("boot the guest")).wait_ready(60)
        agent = AgentConnection(machine.agent)
        agent.ping()
        assert death_checks(tmp_path, counts_against_qemu=True) == ()
        show_blocked_tasks(machine)
        assert "sysrq: Show Blocked State" in machine.files.console.read_text(errors="replace")
        machine.qmp.execute("inject-nmi")
        with pytest.raises(GuestFailed, match="its kernel died"):
            Console(machine.files.console).wait_for(re.compile("never"), Deadline(20, "a line that never comes"))
        with pytest.raises((DeadlineExceeded, GuestFailed)):
            agent.ping(seconds=1)
    (check,) = death_checks(tmp_path, counts_against_qemu=True)
    assert (check.name, check.outcome) == ("guest-lives", Outcome.FAIL)
    assert "Kernel panic" in check.message
