"""Build the QEMU that has all generated mutants of a series in it, and read their list."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from cprlib import codec, files
from cprlib.build import store
from cprlib.build.command import build_environment, run_logged
from cprlib.build.generated_mutants import HEADER, MutantSet, Weaver
from cprlib.build.progress import Progress
from cprlib.build.qemu import COMPILE_SECONDS, TARGET, Instrumentation, build_qemu
from cprlib.build.series import Series
from cprlib.build.source_tree import SourceTree
from cprlib.errors import BuildFailed, EnvironmentFailure
from cprlib.linux.cgroup import usable_jobs
from cprlib.qemu.binary import QemuBinary

LIST_FILE = "mutants.json"
GENERATOR = ("added_lines.py", "c_mutants.py", "generated_mutants.py")


@dataclass(frozen=True, slots=True)
class MutatedQemu:
    """A QEMU with generated mutants, one of which is chosen when it starts: images/qemu/cprlib-mutant.h."""

    qemu: QemuBinary
    set: MutantSet


def build_mutated(base: str, progress: Progress, functions: Collection[str] = ()) -> MutatedQemu:
    """Build the QEMU of a base with all generated mutants of its series, or return the build that the store has.

    :param functions: names of functions of QEMU that have the mutants, instead of the lines that the series adds.
    :raises UsageError: there is no such base, no series for it, or no function of a name.
    :raises DownloadFailed: packages could not be fetched.
    :raises BuildFailed: the series does not apply, or the compiler refuses more than single mutants.
    """
    here = files.import_folder() / "cprlib" / "build"
    key = store.key_of(
        grammar=version("tree-sitter-c"),
        header=files.project_folder() / "images" / "qemu" / HEADER,
        functions=" ".join(sorted(functions)),
        **{Path(name).stem: here / name for name in GENERATOR},
    )
    link = functools.partial(_compile, functions)
    qemu = build_qemu(base, True, progress, instrumentation=Instrumentation(key, link))
    path = qemu.path.parent.parent / LIST_FILE
    try:
        return MutatedQemu(qemu, codec.load_json(MutantSet, path.read_bytes()))
    except (OSError, codec.BadValue) as error:
        advice = f"run: rm -r {shlex.quote(str(path.parent))}; then build again"
        raise EnvironmentFailure(f"read {path}", str(error), advice) from error


def _compile(functions: Collection[str], tree: SourceTree, series: Series, entry: Path, progress: Progress) -> Path:
    """Compile the sources of the series with mutants in them, and write the list of the mutants."""
    compiled = {item.file for item in tree.compile_commands()}
    if functions:
        weaver = Weaver.of_functions(functions, tree.source, compiled)
    else:
        weaver = Weaver.of_series(series, tree.pristine, compiled)
    purpose = "compile generated mutants"
    command = ["ninja", "-C", str(tree.build), f"-j{usable_jobs()}", "-k0", TARGET]  # -k0: all errors at once

    def attempt(texts: Mapping[str, bytes]) -> str:
        tree.overwrite(texts)
        output: list[str] = []
        try:
            run_logged(
                command,
                purpose=purpose,
                log=tree.log,
                seconds=COMPILE_SECONDS,
                cwd=tree.build,
                env=build_environment(),
                on_line=output.append,
            )
        except BuildFailed:
            return "\n".join(output) or "no output"
        return ""

    with progress.step(purpose):
        mutants = weaver.compile(attempt)
    files.write_text(entry / LIST_FILE, codec.dump_json(mutants, indent=1))
    return tree.build / TARGET
