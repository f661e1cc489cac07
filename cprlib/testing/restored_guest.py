"""Whether the guest of a case is restored from a template, and making the template where there is none."""

from __future__ import annotations

import os
from pathlib import Path

from cprlib.build.guest_template import FOLDER, STATE, GuestTemplate, complete_template, find_template, read_template
from cprlib.build.guest_template import template_key as key_of
from cprlib.guest.state import read_guest_state
from cprlib.qemu.binary import QemuBinary
from cprlib.qemu.command_line import MachineSettings
from cprlib.qemu.wrapper import is_script
from cprlib.testing.equivalence import wait_filters_settled
from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.parameters import Boot, SuiteParameters
from cprlib.update.running_guest import running_guest
from cprlib.update.saved_guest import save_guest


def may_restore(spec: GuestSpec, run: SuiteParameters, qemu: QemuBinary) -> bool:
    """Whether a guest may come from a template: an ordinary one, under TCG, where a boot takes seconds.

    :param qemu: a script may start another QEMU than the one that has saved a template.
    """
    handling = spec.mechanism.handling
    own_netdevs = spec.netdevs or run.macvtap or handling.shares_fds
    if spec.boots or own_netdevs or spec.plugged or handling.plugged or is_script(qemu.path):
        return False
    ordinary_run = run.boot is Boot.TEMPLATE and not run.mutant and run.accelerator == "tcg"
    return ordinary_run and in_user_mode_lab()


def in_user_mode_lab() -> bool:
    """Whether this is a lab that shares the store and the results with its host."""
    return os.environ.get("CPRLIB_LAB") == "uml"


def template_for(settings: MachineSettings, spec: GuestSpec, case: Path, queue_length: int) -> GuestTemplate | None:
    """The template of a guest; it is made when there is none.

    :param case: folder of the case, from which the host takes a new template.
    :raises QemuFailed, GuestFailed, DeadlineExceeded: the guest did not boot or could not be saved.
    """
    key = key_of(settings)
    if found := find_template(key):
        return found
    folder = case / FOLDER
    folder.mkdir()
    with running_guest(settings, spec.mechanism, folder, queue_length) as guest:
        wait_filters_settled(guest.machine)
        read_guest_state(guest.agent)  # waits until addresses and clock have settled
        save_guest(guest.machine, folder / STATE)
    complete_template(folder, key, settings)
    return read_template(folder)
