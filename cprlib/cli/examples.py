"""What ``--help`` teaches with: examples of each command, and what its exit status says.

They are kept together, so that they read alike, and so that a test can hold every line of them against the commands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

STATUS = "Exit status: 0 pass, 1 fail, 2 usage, 3 inconclusive, 4 environment, 130 interrupted."


@dataclass(frozen=True, slots=True)
class Lesson:
    """The end of a command's help.

    :param examples: command lines with what each is for.
    :param status: what the exit status says.
    """

    examples: tuple[tuple[str, str], ...]
    status: str = STATUS

    def epilog(self) -> str:
        """As click wants it: ``\\b`` keeps the lines of a paragraph as they are."""
        lines = [f"  {command}\n      {what}" for command, what in self.examples]
        return "\n".join(["\b", "Examples:", *lines, "", self.status])


LESSONS: Mapping[str, Lesson] = {
    "baseline": Lesson(
        (
            ("cprlib baseline save baseline.json", "what the latest run showed, with the machine's description"),
            ("cprlib baseline check baseline.json", "is the latest run worse than that?"),
        ),
        "Exit status: 0 saved, or no worse; 1 worse, 2 usage, 3 undecided or another machine, 4 environment.",
    ),
    "baseline save": Lesson(
        (
            ("cprlib baseline save baseline.json", "of the latest run"),
            ("cprlib baseline save --run NAME baseline.json", "of another one in results/"),
        ),
        "Exit status: 0 saved, 2 usage, 3 nothing to be saved, 4 environment.",
    ),
    "baseline check": Lesson(
        (
            ("cprlib baseline check baseline.json", "the latest run"),
            ("cprlib baseline check --anyway baseline.json", "although the baseline is of another machine"),
        ),
        "Exit status: 0 no worse, 1 worse, 2 usage, 3 undecided or another machine, 4 environment.",
    ),
    "build": Lesson(
        (
            ("cprlib build", "everything that a run needs: QEMU with the series, guest image, lab kernel"),
            ("cprlib build qemu --base 10.2", "QEMU alone, of another release"),
            ("cprlib build --list", "the variants, builds that the suite has to refuse"),
            ("cprlib run --qemu $(cprlib build --mutant without-0009-no-loss)", "run the suite on one of them"),
        ),
        "Exit status: 0 built, 1 a build failed, 2 usage, 4 environment (a package, a download, disk space).",
    ),
    "compare": Lesson(
        (
            ("cprlib compare --b ~/qemu/build/qemu-system-x86_64", "yours against the project's own build"),
            ("cprlib compare --a OLD --b NEW --budget 30", "two of yours, for half an hour at most"),
            ("cprlib compare RESULTS_A RESULTS_B", "two results folders that are there"),
        ),
        "Exit status: 0 no regression, 1 regression, 2 usage, 3 undecided or inconclusive, 4 environment.",
    ),
    "completion": Lesson(
        (
            ('eval "$(cprlib completion bash)"', "in ~/.bashrc; the same with zsh in ~/.zshrc"),
            ("cprlib completion fish > ~/.config/fish/completions/cprlib.fish", "once, for fish"),
        ),
        "Exit status: 0, 2 usage.",
    ),
    "doctor": Lesson(
        (
            ("cprlib doctor", "what this host can do, and what to do about what is missing"),
            ("cprlib doctor --json", "the same for a program"),
        ),
        "Exit status: 0 tests can be run here, natively or in a lab; 4 they cannot.",
    ),
    "lab": Lesson(
        (
            ("cprlib lab run -- uname -a", "a command in a fresh kernel"),
            ("cprlib lab shell", "a shell in one"),
        ),
        "Exit status: that of the command; 4 when the lab could not be started.",
    ),
    "lab run": Lesson(
        (
            ("cprlib lab run -- ls -l /dev/vhost-net", "the lab has it even where the host has not"),
            ("cprlib lab run --engine kvm -- dmesg", "the other engine: a virtual machine with a nested KVM"),
            ("cprlib lab run --results out -- sh -c 'dmesg > out/log'", "with a folder that can be written"),
        ),
        "Exit status: that of the command; 4 when the lab could not be started.",
    ),
    "lab shell": Lesson(
        (("cprlib lab shell --memory 2048", "a shell in a fresh lab; leave it by exit or Ctrl-D"),),
        "Exit status: that of the shell; 4 when the lab could not be started.",
    ),
    "prove": Lesson(
        (
            ("cprlib prove --quick", "on each variant only the tests that must catch it"),
            ("cprlib prove --variant without-0009-no-loss --quick", "one variant"),
            ("cprlib prove --repeat 20", "the good build twenty times: no false alarm"),
            ("cprlib prove --resume", "go on after an interruption"),
        ),
        "Exit status: 0 proven, 1 a variant was not caught or a false alarm, 2 usage, "
        "3 the good build was inconclusive, 4 environment, 130 interrupted.",
    ),
    "report": Lesson(
        (
            ("cprlib report", "judge the latest run again and print its table"),
            ("cprlib report --policy strict results/latest", "by another policy"),
            ("cprlib report --format md", "at most twenty lines for a pull request or a mailing list"),
            ("cprlib report --index", "the page with the history of all runs, results/index.html"),
        ),
        "Exit status: the verdict: 0 pass, 1 fail, 3 inconclusive; 2 usage. With --index: 0, 2 or 4.",
    ),
    "run": Lesson(
        (
            ("cprlib run", "the whole suite on the project's own QEMU"),
            ("cprlib run --qemu ~/qemu/build/qemu-system-x86_64", "on yours"),
            ("cprlib run tests/functional/test_cpr_tap.py", "one file"),
            ("cprlib run -t patch:vhost-reset", "the tests about one patch (docs/tests.md)"),
            ("cprlib run --policy strict -p rate=2000", "another policy, another packet rate"),
        ),
    ),
    "soak": Lesson(
        (
            ("cprlib soak --hours 1", "random cases for an hour"),
            ("cprlib soak --hours 0.5 --seed 7", "with draws that can be repeated"),
            ("cprlib soak --resume", "go on with the one that was interrupted"),
        ),
        "Exit status: 0 pass, 1 a case failed or a resource grows, 2 usage, 3 inconclusive, 4 environment, "
        "130 interrupted.",
    ),
}


def epilog_of(name: str) -> str | None:
    """The end of the help of a command, ``"lab run"`` for one of a group; None when there is nothing to teach."""
    lesson = LESSONS.get(name)
    return lesson.epilog() if lesson else None
