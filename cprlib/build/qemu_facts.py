"""Version and features of a QEMU binary, kept in the store: a lab takes half a second to find them out."""

from __future__ import annotations

import contextlib
import inspect
from dataclasses import asdict
from pathlib import Path

from cprlib.build import store
from cprlib.codec import BadValue, load_json
from cprlib.errors import CprlibError
from cprlib.files import write_json
from cprlib.qemu.binary import QemuBinary, probe
from cprlib.qemu.facts import QemuFacts
from cprlib.qemu.wrapper import is_script

KIND, FILE = "qemu-facts", "facts.json"
PROBING = (Path(inspect.getfile(QemuBinary)), Path(inspect.getfile(QemuFacts)))  # a better probe has other answers


def known_facts(qemu: QemuBinary) -> QemuFacts:
    """The version and features of a QEMU, from the store or from :func:`probe`.

    A binary is recognised by path, size and time. A script is always asked: it may start another QEMU than before.

    :raises UsageError: see :func:`probe`.
    """
    if not qemu.path.is_file() or is_script(qemu.path):
        return probe(qemu)
    state = qemu.path.stat()
    file = f"{qemu.path} {state.st_size} {state.st_mtime_ns}"
    key = store.key_of(qemu=file, **{path.stem: path for path in PROBING})
    with contextlib.suppress(OSError, BadValue):
        if entry := store.lookup(KIND, key):
            return load_json(QemuFacts, (entry / FILE).read_bytes())
    facts = probe(qemu)

    def write(folder: Path) -> None:
        write_json(folder / FILE, asdict(facts))

    with contextlib.suppress(CprlibError, OSError):  # a cache that cannot be written
        store.entry(KIND, key, write)
    return facts
