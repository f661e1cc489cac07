"""Templates of guests: the state of a guest that has booted, saved once and restored instead of a boot.

A template belongs to one QEMU, one machine with its NICs, and one guest image; the clocks, the random numbers and the
addresses of all guests that are restored from it are those of the template. The test makes it in the lab, which cannot
write the store; so the host takes it from the results of the test.

Layout of an entry, and of the folder in the results::

    state           QEMU's migration stream
    template.json   key and kernel command line
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from cprlib.build import store
from cprlib.codec import BadValue, load_json
from cprlib.errors import CprlibError
from cprlib.files import write_json
from cprlib.guest.image import host_tsc_khz
from cprlib.qemu.command_line import MachineSettings

KIND, FOLDER, STATE, RECORD = "guest-template", "guest-template", "state", "template.json"
TSC_WORD = re.compile(r" ?tsc_early_khz=(\d+)")
TSC_ERROR = 0.0005  # of the host's rate, which is measured for each guest
KEPT_S = 3 * 24 * 3600.0  # a template has 65 MB, and each QEMU that is tested has its own


@dataclass(frozen=True, slots=True)
class GuestTemplate:
    """A template.

    :param state: file with QEMU's migration stream.
    :param kernel_arguments: those of the guest that was saved; a QEMU that restores it has the same.
    """

    key: str
    state: Path
    kernel_arguments: str


def template_key(settings: MachineSettings) -> str:
    """The key of a guest with these settings, which differs in everything that its state depends on.

    Programs and images are named by path, size and time, since reading them takes long.
    """
    firmware = settings.qemu.firmware
    files = [settings.qemu.path, settings.kernel, settings.initramfs, *(sorted(firmware.iterdir()) if firmware else ())]
    states = [(path, path.stat()) for path in files]
    content = {
        "files": [f"{path} {state.st_size} {state.st_mtime_ns}" for path, state in states],
        "kernel": TSC_WORD.sub("", settings.kernel_arguments),
        "netdevs": [repr(netdev) for netdev in settings.netdevs],
        "nics": [nic.options() for nic in settings.nics],
        "machine": [settings.machine, settings.accelerator, settings.memory_mib, settings.vcpus, *settings.extra],
    }
    return store.key_of(guest=json.dumps(content, sort_keys=True))


def find_template(key: str) -> GuestTemplate | None:
    """The template in the store; None when there is none, or its guest would count this host's TSC wrongly."""
    entry = store.lookup(KIND, key)
    return read_template(entry) if entry else None


def read_template(folder: Path) -> GuestTemplate | None:
    """The template in a folder; None when it is not complete."""
    try:
        record = load_json(dict[str, str], (folder / RECORD).read_bytes())
        template = GuestTemplate(record["key"], folder / STATE, record["kernel_arguments"])
    except (OSError, BadValue, KeyError):
        return None
    known, rate = TSC_WORD.search(template.kernel_arguments), host_tsc_khz()
    if known and (rate is None or abs(int(known[1]) / rate - 1) > TSC_ERROR):
        return None
    return template


def complete_template(folder: Path, key: str, settings: MachineSettings) -> None:
    """Mark a folder with a saved state as a template."""
    write_json(folder / RECORD, {"key": key, "kernel_arguments": settings.kernel_arguments})


def store_templates(results: Path) -> None:
    """Move the templates that a test has made from its results into the store; without space there, remove them.

    A template replaces one with the same key that no longer fits this host's TSC.

    :param results: folder of the test.
    """
    for folder in results.glob(f"data/cases/*/{FOLDER}"):
        if (template := read_template(folder)) and re.fullmatch(r"[0-9a-f]{40}", template.key):
            store.remove_older(KIND, KEPT_S)
            with contextlib.suppress(CprlibError, OSError):
                if find_template(template.key) is None:  # there may be one for another rate of the TSC
                    store.discard(KIND, template.key)
                store.entry(KIND, template.key, lambda entry, folder=folder: _move(folder, entry))  # type: ignore[misc]
        shutil.rmtree(folder, ignore_errors=True)


def _move(folder: Path, entry: Path) -> None:
    for name in (STATE, RECORD):
        shutil.move(folder / name, entry / name)
