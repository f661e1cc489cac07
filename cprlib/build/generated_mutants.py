"""All generated mutants of a series, or of functions of QEMU, in one program: their places and numbers.

The sources of the series are written with every mutant in them (:mod:`cprlib.build.c_mutants`). A mutant that does
not compile is left out, and the rest is compiled again. images/qemu/cprlib-mutant.h has the code that chooses one.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cprlib.build.added_lines import patched_files
from cprlib.build.c_mutants import CodeChange, find_changes, lines_of_functions, weave
from cprlib.build.series import Series
from cprlib.errors import BuildFailed, UsageError
from cprlib.files import project_folder

HEADER = "cprlib-mutant.h"
FIRST_INCLUDE = re.compile(rb'^#include "qemu/osdep\.h"\n', re.MULTILINE)
OTHER_TYPES = re.compile(r"negative width in bit-field\W+cprlib_swap_(\d+)")
COMPILER_ERROR = re.compile(r"^(?:\.\./source/)?(\S+?):(\d+):\d+: error: (.*)", re.MULTILINE)
ROUNDS = 6
NOT_LINKED = "stubs/"  # of a library: the linker takes the function of the same name that QEMU has


@dataclass(frozen=True, slots=True)
class GeneratedMutant:
    """One mutant.

    :param number: from 1; QEMU is started with it.
    :param patch: the patch of the series that wrote the line; the file, of a function that was asked for.
    :param line: in the source with the series, from 1.
    :param rule: a value of :class:`cprlib.build.c_mutants.Rule`.
    :param original: the text that is changed. :param mutated: what it is changed to.
    :param occurrence: from 1, among those of the function whose other members are the same.
    :param source: the line, without mutants.
    """

    number: int
    patch: str
    file: str
    line: int
    function: str
    rule: str
    original: str
    mutated: str
    occurrence: int
    source: str = ""

    @property
    def place(self) -> str:
        """``net/tap.c:302``."""
        return f"{self.file}:{self.line}"

    @property
    def identity(self) -> tuple[str, ...]:
        """The same for the same mutant of another version of the series, unless its own text or order changes."""
        return (self.file, self.function, self.rule, self.original, self.mutated, str(self.occurrence))


@dataclass(frozen=True, slots=True)
class MutantSet:
    """The mutants of a program.

    :param not_compiled: mutants that the compiler refused; their numbers mean nothing.
    :param skipped: places where a rule has no mutant, by reason.
    """

    mutants: tuple[GeneratedMutant, ...]
    not_compiled: tuple[GeneratedMutant, ...]
    skipped: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Candidate:
    file: str
    change: CodeChange


@dataclass(slots=True)
class Weaver:
    """The sources of a series with mutants in them.

    :param sources: text of each file.
    :param added: for each file, the patch of each added line; of functions, the file of each of their lines.
    """

    sources: Mapping[str, bytes]
    added: Mapping[str, Mapping[int, str]]
    skipped: collections.Counter[str] = field(default_factory=collections.Counter)
    _candidates: list[_Candidate] = field(default_factory=list)
    _refused: list[_Candidate] = field(default_factory=list)

    @classmethod
    def of_series(cls, series: Series, pristine: Path, compiled: Collection[str]) -> Weaver:
        """Find the mutants of a series.

        :param pristine: folder with the originals of the files that the series touches.
        :param compiled: names of the source files that QEMU is compiled from.
        :raises PatchFailed: the series does not apply.
        """
        files = {
            name: file
            for name, file in patched_files(series, pristine).items()
            if name in compiled and _has_mutants(name)
        }
        texts = {name: "".join(f"{line}\n" for line in file.lines) for name, file in files.items()}
        sources = {name: text.encode(errors="surrogateescape") for name, text in texts.items()}
        return cls._find(sources, {name: file.added for name, file in files.items()})

    @classmethod
    def of_functions(cls, names: Collection[str], source: Path, compiled: Collection[str]) -> Weaver:
        """Find the mutants of functions, of the series or not.

        :param names: of the functions. :param source: folder of the source.
        :param compiled: as for :meth:`of_series`.
        :raises UsageError: QEMU is compiled from no function of a name.
        """
        sources, lines, missing = dict[str, bytes](), dict[str, dict[int, str]](), set(names)
        for file in sorted(filter(_has_mutants, compiled)):
            text = (source / file).read_bytes() if (source / file).is_file() else b""
            if any(name.encode() in text for name in names) and (found := lines_of_functions(text, names)):
                missing -= set(found.values())
                sources[file], lines[file] = text, dict.fromkeys(found, file)
        if missing:
            happened = "QEMU is compiled from no function of this name"
            raise UsageError(f"make mutants of {min(missing)}()", happened, "give names as they are in QEMU's source")
        return cls._find(sources, lines)

    @classmethod
    def _find(cls, sources: Mapping[str, bytes], added: Mapping[str, Mapping[int, str]]) -> Weaver:
        weaver = cls(sources, added)
        for name, source in sources.items():
            found = find_changes(source, added[name])
            weaver.skipped += found.skipped
            weaver._candidates += [_Candidate(name, change) for change in found.changes]
        return weaver

    def compile(self, attempt: Callable[[Mapping[str, bytes]], str]) -> MutantSet:
        """Compile the sources, and leave out what the compiler refuses, until it refuses nothing.

        :param attempt: compiles files, given by name relative to the source; returns what the compiler printed, or an
            empty text when it succeeded.
        :raises BuildFailed: the compiler refuses something else.
        """
        failed, thinned = 0, False
        while failed < ROUNDS:
            output = attempt(self._texts())
            if output:
                failed += 1
                self._leave_out(output)
            elif thinned or not self._thin_out_swaps():
                return self._result()
            else:
                thinned = True
        raise BuildFailed("compile QEMU with generated mutants", f"errors in {ROUNDS} attempts", details=output)

    def _numbered(self) -> Iterator[tuple[int, _Candidate]]:
        number = 1
        for candidate in self._candidates:
            yield number, candidate
            number += len(candidate.change.rules)

    def _texts(self) -> dict[str, bytes]:
        numbered = list(self._numbered())
        count = sum(len(candidate.change.rules) for _, candidate in numbered)
        header = (project_folder() / "images" / "qemu" / HEADER).read_bytes()
        texts = {f"include/{HEADER}": b"#define CPRLIB_MUTANTS %d\n" % count + header}
        for name, source in self.sources.items():
            woven = weave(source, [(number, item.change) for number, item in numbered if item.file == name])
            found = FIRST_INCLUDE.search(woven)
            at = found.end() if found else 0
            line = woven[:at].count(b"\n") + 1
            texts[name] = woven[:at] + b'#include "%s"\n#line %d\n' % (HEADER.encode(), line) + woven[at:]
        return texts

    def _leave_out(self, output: str) -> None:
        """Leave out swaps of arguments of different types; without one, the mutants of the lines with an error."""
        numbers = {int(number) for number in OTHER_TYPES.findall(output)}
        lines = collections.defaultdict(set)
        for file, line, _ in COMPILER_ERROR.findall(output) if not numbers else ():  # they cause other errors as well
            lines[file].add(int(line))
        kept = []
        for number, candidate in self._numbered():
            change = candidate.change
            if lines[candidate.file] & set(range(change.line, change.last_line + 1)):
                self._refused.append(candidate)
            elif number not in numbers:
                kept.append(candidate)
        if len(kept) == len(self._candidates):
            happened = next(
                (text for _, _, text in COMPILER_ERROR.findall(output)), "no line of the output has an error"
            )
            raise BuildFailed("compile QEMU with generated mutants", happened, details=output)
        self._candidates = kept

    def _thin_out_swaps(self) -> bool:
        """Keep of each call's swaps only those of neighbours of a type; False when all are."""
        kept, used = [], set()
        for candidate in self._candidates:
            change = candidate.change
            if change.swapped:
                first = (candidate.file, change.start, change.swapped[0])
                if first in used:
                    continue
                used.add(first)
            kept.append(candidate)
        thinner = len(kept) < len(self._candidates)
        self._candidates = kept
        return thinner

    def _result(self) -> MutantSet:
        counts: collections.Counter[tuple[str, ...]] = collections.Counter()
        mutants = [mutant for number, item in self._numbered() for mutant in self._mutants(number, item, counts)]
        refused = [mutant for item in self._refused for mutant in self._mutants(0, item, counts)]
        return MutantSet(tuple(mutants), tuple(refused), dict(sorted(self.skipped.items())))

    def _mutants(
        self, number: int, item: _Candidate, counts: collections.Counter[tuple[str, ...]]
    ) -> Sequence[GeneratedMutant]:
        change, patch, found = item.change, self.added[item.file][item.change.line], []
        for step, (rule, mutated) in enumerate(zip(change.rules, change.mutated, strict=True)):
            what = (item.file, change.function, rule.value, change.original, mutated)
            counts[what] += 1
            found.append(
                GeneratedMutant(
                    number + step if number else 0,
                    patch,
                    item.file,
                    change.line,
                    change.function,
                    rule.value,
                    change.original,
                    mutated,
                    counts[what],
                    self._line(item),
                )
            )
        return found

    def _line(self, item: _Candidate) -> str:
        return self.sources[item.file].splitlines()[item.change.line - 1].decode(errors="replace").strip()


def _has_mutants(file: str) -> bool:
    """Whether mutants are made in a source file that QEMU is compiled from."""
    return file.endswith(".c") and not file.startswith(NOT_LINKED)
