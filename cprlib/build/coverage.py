"""The coverage build: a QEMU with the series that counts how often each line of the touched files runs, and when a
branch is taken.

Only the C files that the series touches are instrumented (gcc's ``--coverage``): they are compiled a second time, and
the program is linked from them and the other objects of the ordinary build. The counters are in a file that all QEMUs
of a case share (images/qemu/coverage/), so that those of a killed process are complete.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cprlib import codec
from cprlib.build import store
from cprlib.build.added_lines import patched_files
from cprlib.build.command import build_environment, first_line_of, run_logged
from cprlib.build.progress import Progress
from cprlib.build.qemu import TARGET, Instrumentation, build_qemu
from cprlib.build.series import Series
from cprlib.build.source_tree import SourceTree
from cprlib.errors import BuildFailed, EnvironmentFailure
from cprlib.files import project_folder, write_text
from cprlib.qemu.binary import QemuBinary

FOLDER = "coverage"  # in the build folder of the tree, and in the build
LINES_FILE, SOURCES_FILE = "lines.json", "sources.json"
STEP_SECONDS = 600.0
#: ``-O0``: one statement is one line. The counters are atomic, because source and target share them.
FLAGS = ("-O0", "-g1", "--coverage", "-fprofile-update=atomic", "-fprofile-info-section", "-fdata-sections")
LINK_RULE = "c_LINKER_RSP"  # of meson's build.ninja


@dataclass(frozen=True, slots=True)
class SourceLine:
    """A line that the series added to an instrumented file.

    :param patch: file name of the patch that wrote it last.
    :param file: relative to QEMU's source; :param line: from 1, with the series applied.
    """

    patch: str
    file: str
    line: int
    text: str


@dataclass(frozen=True, slots=True)
class CoverageBuild:
    """A coverage build.

    :param folder: holds gcov's notes (``*.gcno``).
    :param lines: that the series added to the instrumented files, executable or not.
    :param sources: the lines of each instrumented file, with the series applied.
    """

    qemu: QemuBinary
    folder: Path
    lines: tuple[SourceLine, ...]
    sources: Mapping[str, tuple[str, ...]]


def build_coverage(base: str, progress: Progress) -> CoverageBuild:
    """Build QEMU with the series and counters, or return the build that the store has.

    :param base: a name of images/qemu/bases.toml.
    :raises EnvironmentFailure: a package is missing, or a build or download failed; see
        :func:`cprlib.build.qemu.build_qemu`.
    """
    if not first_line_of(["gcov", "--version"]):
        raise EnvironmentFailure("build QEMU for coverage", "gcov is not installed", "it comes with package gcc")
    key = store.key_of(flags=" ".join(FLAGS), counters=_counters_folder(), module=Path(__file__))
    qemu = build_qemu(base, True, progress, instrumentation=Instrumentation(key, _link))
    folder = qemu.path.parent.parent / FOLDER
    try:
        lines = codec.load_json(tuple[SourceLine, ...], (folder / LINES_FILE).read_bytes())
        sources = codec.load_json(dict[str, tuple[str, ...]], (folder / SOURCES_FILE).read_bytes())
    except (OSError, codec.BadValue) as error:
        advice = f"run: rm -r {shlex.quote(str(folder.parent))}; then build again"
        raise EnvironmentFailure(f"read {folder}", str(error), advice) from error
    return CoverageBuild(qemu, folder, lines, sources)


def _counters_folder() -> Path:
    return project_folder() / "images" / "qemu" / "coverage"


def _link(tree: SourceTree, series: Series, entry: Path, progress: Progress) -> Path:
    """Compile the touched files with counters and link the program from them."""
    made = tree.build / FOLDER
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir()
    link = _link_command(tree)
    objects = _touched_objects(tree, series, link)
    if not objects:
        raise BuildFailed("compile QEMU for coverage", "the series touches no C file of the program")

    def run_step(command: Sequence[str], purpose: str) -> None:
        run_logged(
            command, purpose=purpose, log=tree.log, seconds=STEP_SECONDS, cwd=tree.build, env=build_environment()
        )

    with progress.step("compile with counters") as say:
        for number, (output, (file, command)) in enumerate(objects.items(), 1):
            say(f"[{number}/{len(objects)}]")
            run_step(_instrumented(command, output, file), f"compile {file} with counters")
        counters = f"{FOLDER}/counters.o"
        run_step(
            ["gcc", "-O2", "-fPIE", "-c", str(_counters_folder() / "counters.c"), "-o", counters], "compile counters.c"
        )
        words = [_covered(word) if word in objects else word for word in link]
        words[words.index("-o") + 1] = f"{FOLDER}/{TARGET}"
        script = f"-Wl,-T,{_counters_folder() / 'counters.ld'}"
        run_step([*words, counters, script, "-lgcov"], "link QEMU with counters")
    (entry / FOLDER).mkdir()
    for notes in sorted(made.glob("*.gcno")):
        shutil.copyfile(notes, entry / FOLDER / notes.name)
    patched = patched_files(series, tree.pristine)
    sources = {file: patched[file].lines for file in sorted({file for file, _ in objects.values()})}
    lines = [
        SourceLine(patch, file, number, texts[number - 1])
        for file, texts in sources.items()
        for number, patch in patched[file].added.items()
    ]
    write_text(entry / FOLDER / LINES_FILE, codec.dump_json(lines))
    write_text(entry / FOLDER / SOURCES_FILE, codec.dump_json(sources))
    return made / TARGET


def _link_command(tree: SourceTree) -> list[str]:
    """The words of the command that links the program, relative to the build folder."""
    command = ["ninja", "-C", str(tree.build), "-t", "compdb", "-x", LINK_RULE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        entries = json.loads(done.stdout)
        return shlex.split(next(entry["command"] for entry in entries if entry["output"] == TARGET))
    except (ValueError, StopIteration, KeyError) as error:
        raise BuildFailed("find the command that links QEMU", done.stderr.strip() or str(error)) from error


def _touched_objects(tree: SourceTree, series: Series, link: Sequence[str]) -> Mapping[str, tuple[str, list[str]]]:
    """The linked objects of C files that the series touches: source file and compiler command of each."""
    touched = series.touched()
    return {
        command.output: (command.file, command.words)
        for command in tree.compile_commands()
        if command.output in link and command.file in touched
    }


def _covered(output: str) -> str:
    """``coverage/net_tap.c.o`` for ``libcommon.a.p/net_tap.c.o``; meson's names have the path of the source."""
    return f"{FOLDER}/{Path(output).name}"


def _instrumented(command: Sequence[str], output: str, file: str) -> list[str]:
    """A compiler command with counters for the functions of one file, but not for those of its headers."""
    replaced = {output: _covered(output), f"{output}.d": f"{_covered(output)}.d"}
    return [*(replaced.get(word, word) for word in command), *FLAGS, f"-fprofile-filter-files={re.escape(file)}$"]
