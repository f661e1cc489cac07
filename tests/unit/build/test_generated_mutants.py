"""All mutants of a series in one program, chosen when it starts."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from cprlib.build.generated_mutants import ROUNDS, GeneratedMutant, MutantSet, Weaver
from cprlib.build.series import Series
from cprlib.campaign.mutation.generated_run import reached_numbers
from cprlib.errors import BuildFailed, UsageError

BASE = """\
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

int main(int argc, char **argv)
{
    setrlimit(RLIMIT_NOFILE, &(struct rlimit){ 0 }); /* as a test that lets QEMU open nothing more */
"""
BODY = """\
+    struct { unsigned bits : 3; int plain; } x = { 0 };
+    char *text = argv[argc - 1];
+
+    x.plain = 3;
+    x.bits = argc;
+    if (argc > 1 && !strcmp(text, "yes")) {
+        puts("yes");
+    }
+    printf("%d %d\\n", x.plain, argc);
"""
END = """\
    return 0;
}
"""


@pytest.fixture
def series(tmp_path: Path) -> Series:
    (tmp_path / "pristine").mkdir()
    (tmp_path / "pristine" / "main.c").write_text(BASE + END)
    added = BODY.count("\n")
    context = "".join(f" {line}\n" for line in (BASE + "@" + END).splitlines())
    hunk = f"@@ -1,9 +1,{9 + added} @@\n" + context.replace(" @", BODY + " ")
    patch = tmp_path / "0001-first.patch"
    patch.write_text(f"--- a/main.c\n+++ b/main.c\n{hunk}")
    return Series((patch,))


@pytest.fixture
def built(tmp_path: Path, series: Series) -> tuple[MutantSet, Path]:
    weaver = Weaver.of_series(series, tmp_path / "pristine", {"main.c"})
    program = tmp_path / "program"

    def attempt(texts: Mapping[str, bytes]) -> str:
        for name, text in texts.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(text)
        command = ["gcc", "-std=gnu11", "-Iinclude", "-o", str(program), "main.c"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        return done.stderr if done.returncode else ""

    return weaver.compile(attempt), program


def _output(program: Path, mutant: int, *arguments: str, reached: Path | None = None) -> str:
    environment = {"CPRLIB_MUTANT": str(mutant)} | ({"CPRLIB_MUTANT_REACHED": str(reached)} if reached else {})
    done = subprocess.run([program, *arguments], env=environment, capture_output=True, text=True, check=False)
    return done.stdout


def _mutant(found: MutantSet, rule: str, original: str) -> GeneratedMutant:
    return next(item for item in found.mutants if (item.rule, item.original) == (rule, original))


def test_one_program_is_every_mutant(built: tuple[MutantSet, Path]) -> None:
    found, program = built
    assert [item.number for item in found.mutants] == list(range(1, len(found.mutants) + 1))
    assert _output(program, 0, "yes") == "yes\n3 2\n"
    changed = {
        ("delete the statement", "x.plain = 3;"): "yes\n0 2\n",
        ("change the constant by one", "3"): "yes\n4 2\n",
        ("condition always false", 'argc > 1 && !strcmp(text, "yes")'): "3 2\n",
        ("drop the !", '!strcmp(text, "yes")'): "3 2\n",
        ("swap two arguments of one type", 'printf("%d %d\\n", x.plain, argc)'): "yes\n2 3\n",
    }
    for (rule, original), output in changed.items():
        assert _output(program, _mutant(found, rule, original).number, "yes") == output


def test_reached_mutants_are_noted(built: tuple[MutantSet, Path], tmp_path: Path) -> None:
    found, program = built
    reached, condition = tmp_path / "reached-program.bin", 'argc > 1 && !strcmp(text, "yes")'
    always_true = _mutant(found, "condition always true", condition).number
    always_false = _mutant(found, "condition always false", condition).number
    _output(program, 0, "no", reached=reached)
    assert always_true in reached_numbers(tmp_path)
    assert always_false not in reached_numbers(tmp_path)  # it is false here
    _output(program, always_false, "yes", reached=reached)
    assert {always_true, always_false} <= reached_numbers(tmp_path)


def test_only_the_chosen_mutant_is_noted(built: tuple[MutantSet, Path], tmp_path: Path) -> None:
    _, program = built
    _output(program, 1, "no", reached=tmp_path / "reached-program.bin")
    assert reached_numbers(tmp_path) == {1}


def test_only_arguments_of_one_type_are_swapped(built: tuple[MutantSet, Path]) -> None:
    found, _ = built
    swaps = [item.mutated for item in found.mutants if item.rule == "swap two arguments of one type"]
    assert swaps == ['printf("%d %d\\n", argc, x.plain)']


def test_what_the_compiler_refuses_is_left_out(tmp_path: Path, series: Series) -> None:
    weaver = Weaver.of_series(series, tmp_path / "pristine", {"main.c"})
    outputs = iter(["../source/main.c:11:5: error: no such thing", "", ""])
    found = weaver.compile(lambda _texts: next(outputs))
    assert {item.line for item in found.not_compiled} == {11}
    assert 11 not in {item.line for item in found.mutants}


def test_all_lines_of_a_function_have_mutants(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "tap.c").write_text("""\
#ifdef CONFIG_TAP
static int *tap_first(int a)
{
    return tap_second(a);
}

int tap_second(int a)
{
    tap_first(a);
    return 0;
}
#endif
""")
    (tmp_path / "net" / "hub.c").write_text("void hub(void)\n{\n    tap_second(1);\n}\n")
    compiled = {"net/tap.c", "net/hub.c", "net/generated.c"}
    found = Weaver.of_functions(["tap_second"], tmp_path, compiled).compile(lambda _texts: "")
    assert {(item.file, item.patch, item.function) for item in found.mutants} == {("net/tap.c",) * 2 + ("tap_second",)}
    assert "tap_first(a);" in {item.original for item in found.mutants}
    with pytest.raises(UsageError, match="tap_third"):
        Weaver.of_functions(["tap_second", "tap_third"], tmp_path, compiled)


def test_other_errors_of_the_compiler_end_the_build(tmp_path: Path, series: Series) -> None:
    weaver = Weaver.of_series(series, tmp_path / "pristine", {"main.c"})
    with pytest.raises(BuildFailed):
        weaver.compile(lambda _texts: "../source/other.c:1:1: error: no such thing")


def test_success_of_the_last_attempt_counts(tmp_path: Path, series: Series) -> None:
    weaver = Weaver.of_series(series, tmp_path / "pristine", {"main.c"})
    swap = next(item for item in weaver._candidates if item.change.swapped)
    weaver._candidates.append(swap)  # one too many: without it, the program is compiled once more
    lines = sorted({item.change.line for item in weaver._candidates} - {swap.change.line})[: ROUNDS - 1]
    outputs = iter([*(f"../source/main.c:{line}:5: error: no such thing" for line in lines), "", ""])
    found = weaver.compile(lambda _texts: next(outputs))
    assert {item.line for item in found.not_compiled} == set(lines)
    assert next(outputs, None) is None
