"""Examples and exit statuses in the help of each command. A unit test parses every command line here."""

from __future__ import annotations

from collections.abc import Mapping

STATUS = "Exit status: 0 pass, 1 fail, 2 usage, 3 inconclusive, 4 environment, 130 interrupted."
LAB_STATUS = "Exit status: that of the command; 4 when the lab could not be started, or --seconds were over."

EXAMPLES: Mapping[str, Mapping[str, str]] = {  # of each command: command lines with their purpose
    "baseline": {
        "cprlib baseline save baseline.json": "the figures of the latest run and a description of the machine",
        "cprlib baseline check baseline.json": "is the latest run worse than the baseline?",
    },
    "baseline save": {
        "cprlib baseline save baseline.json": "save the latest run",
        "cprlib baseline save --run NAME baseline.json": "save another run in results/",
    },
    "baseline check": {
        "cprlib baseline check baseline.json": "the latest run",
        "cprlib baseline check --anyway baseline.json": "accept a baseline recorded on another machine",
    },
    "build": {
        "cprlib build": "everything that a run needs: QEMU with the series, guest image, lab kernel",
        "cprlib build qemu --base 10.2": "only QEMU, of another release",
        "cprlib build --list": "list the mutants: builds with a known defect",
        "cprlib run --qemu $(cprlib build --mutant without-0009-no-loss)": "run the suite on a mutant",
    },
    "compare": {
        "cprlib compare --b ~/qemu/build/qemu-system-x86_64": "your QEMU against the project's own build",
        "cprlib compare --a OLD --b NEW --budget 30": "two of your QEMUs, for at most half an hour",
        "cprlib compare RESULTS_A RESULTS_B": "two saved results folders",
    },
    "completion": {
        'eval "$(cprlib completion bash)"': "put it into ~/.bashrc, or with zsh into ~/.zshrc",
        "cprlib completion fish > ~/.config/fish/completions/cprlib.fish": "once, for fish",
    },
    "coverage": {
        "cprlib coverage": "the whole suite: which lines of the series does a test run?",
        "cprlib coverage tests/functional/test_tap_sources.py": "one file of tests",
        "cprlib coverage --from results/coverage/latest": "the report again, with the present reasons",
    },
    "doctor": {
        "cprlib doctor": "what this host supports, and how to provide what is missing",
        "cprlib doctor --json": "the same as JSON",
    },
    "lab": {
        "cprlib lab run -- uname -a": "a command in a fresh kernel",
        "cprlib lab shell": "a shell in a fresh kernel",
    },
    "lab run": {
        "cprlib lab run -- ls -l /dev/vhost-net": "the lab has the device even if the host lacks it",
        "cprlib lab run --engine kvm -- dmesg": "the other engine: a virtual machine with a nested KVM",
        "cprlib lab run --results out -- sh -c 'dmesg > out/log'": "with a folder that the lab can write",
    },
    "lab shell": {
        "cprlib lab shell --memory 2048": "a shell in a fresh lab; exit or Ctrl-D ends it",
    },
    "prove": {
        "cprlib prove --quick": "on each mutant only the tests that must kill it",
        "cprlib prove --mutant without-0009-no-loss --quick": "one mutant",
        "cprlib prove --repeat 20": "the good build twenty times: count false alarms",
        "cprlib prove --generated --patch 9": "mutants made by rule from the code of a patch",
        "cprlib prove --resume": "continue after an interruption",
    },
    "report": {
        "cprlib report": "judge the latest run again and print its table",
        "cprlib report --policy strict results/latest": "with another policy",
        "cprlib report --format md": "at most twenty lines for a pull request or a mailing list",
        "cprlib report --index": "the page with the history of all runs, results/index.html",
    },
    "run": {
        "cprlib run": "the whole suite on the project's own QEMU",
        "cprlib run --qemu ~/qemu/build/qemu-system-x86_64": "on your QEMU",
        "cprlib run tests/functional/test_cpr_tap.py": "one file",
        "cprlib run -t patch:vhost-reset": "the tests of one patch (docs/tests.md)",
        "cprlib run --policy strict -p rate=2000": "another policy, another packet rate",
    },
    "scoreboard": {
        "cprlib scoreboard --page docs/scoreboard.md": "all rows, three guests each",
        "cprlib scoreboard --runs 10 --only 'series-*'": "only the series",
        "cprlib scoreboard --resume": "continue the interrupted session",
    },
    "soak": {
        "cprlib soak --hours 1": "random cases for an hour",
        "cprlib soak --hours 0.5 --seed 7": "with a seed, to repeat the same sequence",
        "cprlib soak --resume": "continue the interrupted session",
    },
}
STATUSES: Mapping[str, str] = {  # of the commands whose exit statuses have another meaning than :data:`STATUS`
    "baseline": "Exit status: 0 saved, or not worse; 1 worse, 2 usage, 3 undecided or another machine, 4 environment.",
    "baseline save": "Exit status: 0 saved, 2 usage, 3 nothing to save, 4 environment.",
    "baseline check": "Exit status: 0 not worse, 1 worse, 2 usage, 3 undecided or another machine, 4 environment.",
    "build": "Exit status: 0 built, 2 usage, 4 not built: a package, a download, a compiler or disk space.",
    "compare": "Exit status: 0 no regression, 1 regression, 2 usage, 3 undecided or inconclusive, 4 environment.",
    "completion": "Exit status: 0, 2 usage.",
    "coverage": "Exit status: 0 every line runs or has a reason, 1 one does not, 2 usage, 3 no counters, 4 "
    "environment.",
    "doctor": "Exit status: 0 tests can be run here, natively or in a lab; 4 they cannot.",
    "lab": LAB_STATUS,
    "lab run": LAB_STATUS,
    "lab shell": "Exit status: that of the shell; 4 when the lab could not be started.",
    "prove": "Exit status: 0 all mutants killed (generated ones: --at-least), 1 a mutant survived or a false "
    "alarm, 2 usage, 3 the good build is inconclusive, or too many generated mutants are inconclusive or not "
    "run, 4 environment, 130 interrupted.",
    "report": "Exit status: the verdict: 0 pass, 1 fail, 3 inconclusive; 2 usage, 4 a folder cannot be read or "
    "written. With --index: 0, 2 or 4.",
    "scoreboard": "Exit status: 0 every row was measured, 2 usage, 3 a row has no valid figures, 4 environment, "
    "130 interrupted.",
    "soak": "Exit status: 0 pass, 1 a case failed or a resource grows, 2 usage, 3 inconclusive, 4 "
    "environment, 130 interrupted.",
}


def epilog_of(name: str) -> str | None:
    """The end of the help of a command (``"lab run"`` in a group); None without examples."""
    if name not in EXAMPLES:
        return None
    lines = [f"  {command}\n      {what}" for command, what in EXAMPLES[name].items()]
    # \b keeps the line ends of a paragraph
    return "\n".join(["\b", "Examples:", *lines, "", STATUSES.get(name, STATUS)])
