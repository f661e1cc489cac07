"""QEMU's common header, compiled once for all objects: a quarter of the time of a first build.

Every C file of QEMU includes ``qemu/osdep.h`` first, which includes 290 files. gcc uses a compiled header in
``qemu/osdep.h.gch/`` of the build folder, the first folder in which it looks, when the flags of the header and of the
file agree, and the original otherwise (gcc(1), Using Precompiled Headers). The objects are the same byte by byte. gcc
does not compare the compiled header with its sources; this module does.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cprlib.build.source_tree import SourceTree
from cprlib.files import write_json

HEADER = "include/qemu/osdep.h"
GENERATED = "config-poison.h"  # that it includes
FOLDER = "qemu/osdep.h.gch"  # in the build folder
RECORD = "precompiled.json"  # in the folder of the tree: the files that the header consists of, with their digests
LIKE = ("libcommon.a.p/", "libqemuutil.a.p/", "libqemu-x86_64-softmmu.a.p/")  # objects that differ in their flags
WITH_VALUE = ("-MQ", "-MF", "-o", "-c")


def ensure_precompiled(tree: SourceTree, run: Callable[[Sequence[str]], None]) -> None:
    """Compile the common header of a configured tree, unless that was done with the same sources.

    Objects made with another header are removed: their dependencies do not name the files that it consists of.

    :param run: runs a command in the build folder.
    """
    record = tree.folder / RECORD
    ninja = ["ninja", "-C", str(tree.build)]
    run([*ninja, GENERATED])  # also configures again when a patch requires it
    try:
        known = json.loads(record.read_bytes())
        if known == _digests(tree.build, known):
            return
        run([*ninja, "-t", "clean"])
        run([*ninja, GENERATED])
    except FileNotFoundError:
        pass
    discard_precompiled(tree)
    (tree.build / FOLDER).mkdir(parents=True)
    # Where a file includes the header twice, gcc finds this folder again and then needs the original in it.
    (tree.build / FOLDER).with_suffix("").symlink_to(tree.source / HEADER)
    names: set[str] = set()
    for number, command in enumerate(_commands(tree)):
        listing = tree.build / f"precompiled-{number}.d"
        made = ["-x", "c-header", str(tree.source / HEADER), "-o", f"{FOLDER}/{number}"]
        run([*command, "-MD", "-MF", listing.name, *made])
        names.update(listing.read_text(encoding="utf-8").partition(":")[2].replace("\\\n", " ").split())
    write_json(record, _digests(tree.build, names))


def discard_precompiled(tree: SourceTree) -> None:
    """Remove the compiled header; objects made with it must not stay."""
    (tree.folder / RECORD).unlink(missing_ok=True)
    shutil.rmtree((tree.build / FOLDER).parent, ignore_errors=True)


def _commands(tree: SourceTree) -> list[list[str]]:
    """One compiler command of each kind of objects, without its file."""
    found: dict[str, list[str]] = {}
    for command in tree.compile_commands():
        kind = next((prefix for prefix in LIKE if command.output.startswith(prefix)), None)
        if kind and kind not in found:
            words = command.words
            values = {index + 1 for index, word in enumerate(words) if word in WITH_VALUE}
            found[kind] = [
                word for index, word in enumerate(words) if index not in values and word not in (*WITH_VALUE, "-MD")
            ]
    return list(found.values())


def _digests(build: Path, names: Mapping[str, str] | set[str]) -> dict[str, str]:
    """Digests of files, by their names relative to the build folder; empty for one that is missing."""
    digests = {}
    for name in sorted(names):
        path = build / name
        digests[name] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    return digests
