"""Commands of the documents that the test replaces by shorter or more concrete ones, with the reason.

Every other command runs as it is shown.
"""

from __future__ import annotations

from dataclasses import dataclass

from cprlib.errors import ExitStatus

ONE = "tests/functional/test_ipv6.py"
POINT = "--points 'q4-vhost-q35-cpr-*-ip6'"
SHORT = "one test instead of all"
MINUTES = "fewer minutes; too few to show that a resource is stable"
UNDECIDED = (ExitStatus.PASS, ExitStatus.INCONCLUSIVE)  # for runs that are too short for a decision
OWN = "the QEMU of the reader is filled in"
LATEST = "$(readlink -f results/latest)"


@dataclass(frozen=True, slots=True)
class Substitute:
    """One replaced command.

    :param shown: as in the document, without comments.
    :param command: what runs instead; None: the same command; empty: nothing.
    :param reason: why it is replaced.
    :param statuses: expected exit statuses.
    """

    shown: str
    command: str | None = None
    reason: str = ""
    statuses: tuple[int, ...] = (ExitStatus.PASS,)

    @property
    def executed(self) -> str:
        """The command that runs; empty where none does."""
        return self.shown if self.command is None else self.command


BOOT = "python3 -m cprlib.bootstrap"
AVOCADO = "avocado run --spawner=lab"
PUSH = "fixtures/matrix/push.yaml"
OPERATIONS = "tests/functional/test_operations.py:Operations.test_operations_keep_working"
TWO_POINTS = "/run/points/q4-vhost-q35-cpr-10.2-ip4 /run/points/q1-vhost-q35-cpr-10.0-ip6"
NIGHT, ALL = "avocado run -m fixtures/matrix/night.yaml", "/run/night/combinations"
COMPARE = "cprlib compare"
OWN_QEMU = "~/qemu/build/qemu-system-x86_64"
OTHER_USER = "--qemu-arg '-run-with user=65534:65534' tests/functional/test_matrix.py"
T = "cprlib run -p chain=4 -p rate=500 $T"

SUBSTITUTES = (
    # README.md and tutorial.md
    Substitute(f"{BOOT} run", f"{BOOT} run {ONE}", "CI runs the whole suite"),
    Substitute(f"{BOOT} test", f"{BOOT} test -e lint", "CI runs it whole"),
    Substitute(f"{BOOT} test -e lint,types,unit", f"{BOOT} test -e lint,types", "CI runs the unit tests"),
    Substitute("avocado run --spawner=native tests/functional", "", "not where tests must run in a lab"),
    Substitute(f"{AVOCADO} --max-parallel-tasks 2 tests/functional", f"{AVOCADO} --max-parallel-tasks 2 {ONE}", SHORT),
    Substitute("pip install cprlib-0.1.0-py3-none-any.whl", "", "tests/unit/packaging installs the wheel"),
    Substitute(
        'cprlib run --qemu "$(cprlib build --mutant without-0009-no-loss)" tests/functional/test_cpr_tap.py',
        statuses=(ExitStatus.FAIL,),
    ),
    # own-qemu.md
    Substitute("mkdir build && cd build", "", OWN),
    Substitute("../configure --target-list=x86_64-softmmu --enable-vhost-net", "", OWN),
    Substitute("ninja qemu-system-x86_64", "", OWN),
    Substitute(f"cprlib run --qemu {OWN_QEMU}", f"cprlib run --qemu {OWN_QEMU} {ONE}", SHORT),
    Substitute(
        "cprlib run --qemu PATH --firmware ~/qemu/pc-bios", f"cprlib run --qemu $OWN --firmware $FIRMWARE {ONE}", SHORT
    ),
    *(
        Substitute(f"cprlib run --qemu PATH {option}", f"cprlib run --qemu $OWN {option} {ONE}", SHORT)
        for option in (
            "-p nic.packed=on -p nic.rx_queue_size=1024",
            "--qemu-arg '-sandbox on'",
            "-p vcpus=4 -p mtu=9000 -p size=8000",
            "-p rate=200",
            "--parallel 1",
            "-p control_run=8",
            "--policy slow-machine",
        )
    ),
    Substitute(f"cprlib run --qemu PATH {OTHER_USER}", f"cprlib run --qemu $OWN {OTHER_USER}", OWN),
    Substitute("cprlib run", f"cprlib run {ONE}", "CI runs the whole suite"),
    # writing-a-test.md
    Substitute(
        "cprlib prove --mutant NAME --quick", "cprlib prove --mutant mac-filter-lost --quick", "a name is filled in"
    ),
    Substitute(f"{BOOT} test -e documents -- --page tutorial.md", "", "this command runs the test itself"),
    # prove.md
    Substitute("cprlib prove", "cprlib prove --mutant tap-reopened --quick", "one mutant instead of all"),
    Substitute("cprlib prove --quick", "cprlib prove --quick --mutant tap-reopened", "one mutant instead of all"),
    Substitute(
        "cprlib prove --repeat 20",
        "cprlib prove --repeat 2 --quick --mutant tap-reopened",
        "two runs for one mutant instead of twenty for all",
    ),
    *(
        Substitute(
            f"cprlib prove --generated{options}",
            "cprlib prove --generated --sample 2 --test nothing-is-sent-with-cpr-off --at-least 0",
            "two mutants and one test",
        )
        for options in ("", " --patch 9", " --sample 40 --seed 1")
    ),
    # tests.md
    Substitute(
        f"cprlib run --matrix operations {OPERATIONS}",
        f"cprlib run --matrix operations --points 'q1-*-nics-1-*-chain' {OPERATIONS}",
        "two of the 36 points",
    ),
    # matrix.md
    Substitute("cprlib run --matrix night", f"cprlib run --matrix night {POINT}", "two of the points"),
    Substitute(
        "cprlib run --matrix night --points '*-cpr-exec'",
        "cprlib run --matrix night --points 'q1-tap-*-cpr-*-cpr-exec'",
        "fewer points",
    ),
    Substitute(
        "cprlib run --matrix night --points '*-nic.packed-*'",
        "cprlib run --matrix night --points 'q1-*-nic.packed-*'",
        "fewer points",
    ),
    Substitute(
        "cprlib run --matrix night --points '*-vhost-*cpr-10.*'", f"cprlib run --matrix night {POINT}", "fewer points"
    ),
    Substitute(
        "cprlib run --matrix push --qemu build/qemu-system-x86_64",
        "cprlib run --matrix push --qemu build/qemu-system-x86_64 --points '*-pc-cpr-*'",
        "fewer points",
    ),
    Substitute(
        f"avocado run -m {PUSH} --spawner=lab --max-parallel-tasks 2 tests/functional/test_matrix.py",
        f"avocado run -m {PUSH} --mux-filter-only {TWO_POINTS} --spawner=lab --max-parallel-tasks 2 "
        "tests/functional/test_matrix.py",
        "two of the ten points",
    ),
    Substitute(
        f"{NIGHT} --mux-filter-only {ALL} {ALL}/base/10.2 {ALL}/mechanism/cpr --spawner=lab "
        "tests/functional/test_matrix.py",
        f"{NIGHT} --mux-filter-only {ALL} {ALL}/base/10.2 {ALL}/mechanism/cpr {ALL}/queues/q4 {ALL}/machine/pc "
        f"{ALL}/ip/ip4 --spawner=lab tests/functional/test_matrix.py",
        "fewer points",
    ),
    Substitute(
        f"{NIGHT} --mux-filter-out /run/night/options {ALL}/ip/ip6 --spawner=lab tests/functional/test_matrix.py",
        f"{NIGHT} --mux-filter-out /run/night/options {ALL}/ip/ip6 {ALL}/queues/q1 {ALL}/machine/pc {ALL}/base/10.2 "
        f"{ALL}/mechanism/link-switch {ALL}/mechanism/fd-share --spawner=lab tests/functional/test_matrix.py",
        "fewer points",
    ),
    *(
        Substitute(
            f"cprlib run --matrix night --shard {part}/2",
            f"cprlib run --matrix night {POINT} --shard {part}/2 && ln -s {LATEST} shard-{part}",
            "one point each, with the folder names of the next command",
        )
        for part in (1, 2)
    ),
    # comparing.md
    Substitute(
        f"{COMPARE} --b /path/to/branch/qemu-system-x86_64",
        f"{COMPARE} --b {OWN_QEMU} --budget 2",
        f"{OWN}, with a budget of two minutes",
        UNDECIDED,
    ),
    Substitute(
        f"{COMPARE} --a /usr/bin/qemu-system-x86_64 --b ./qemu-system-x86_64 --budget 20",
        f"{COMPARE} --a {OWN_QEMU} --b ./qemu-system-x86_64 --budget 2",
        f"{OWN}, with a budget of two minutes",
        UNDECIDED,
    ),
    Substitute(f"{COMPARE} results/monday results/tuesday", statuses=UNDECIDED),
    Substitute(f"{T} $T $T $T $T $T $T $T", f"{T} $T", "two guests instead of eight"),
    Substitute(
        "cprlib run --qemu ./qemu-system-x86_64 -p chain=4 -p rate=500 $T $T $T $T $T $T",
        "cprlib run --qemu ./qemu-system-x86_64 -p chain=4 -p rate=500 $T $T",
        "two guests instead of six",
    ),
    Substitute("cprlib baseline check baseline.json", statuses=UNDECIDED),
    # safety.md, soak.md
    Substitute("python -m tests.robustness.kills --kills 50", "python -m tests.robustness.kills --kills 2", "fewer"),
    Substitute("CPRLIB_KILLS=3 pytest tests/unit/robustness", "CPRLIB_KILLS=1 pytest tests/unit/robustness", "fewer"),
    Substitute(
        "cprlib soak --resume",
        "timeout --signal INT 40 cprlib soak --hours 0.02; cprlib soak --resume",
        f"an interrupted soak run first; {MINUTES}",
        UNDECIDED,
    ),
    *(
        Substitute(f"cprlib soak {shown}", f"cprlib soak {typed}", MINUTES, UNDECIDED)
        for shown, typed in (
            ("--hours 1", "--hours 0.01"),
            ("--hours 8 --seed 4711", "--hours 0.01 --seed 4711"),
            ("--hours 0.1 -t vhost:on", "--hours 0.01 -t vhost:on"),
            ("--resume --hours 0.5", "--resume --hours 0.01"),
        )
    ),
)


def substitute_for(shown: str) -> Substitute:
    """The entry of a command; one that runs it as shown if there is none."""
    return next((entry for entry in SUBSTITUTES if entry.shown == shown), Substitute(shown))
