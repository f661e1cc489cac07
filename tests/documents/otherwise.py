"""Which commands of the documents a test types otherwise than they are shown, and why.

Every other command is run as it is. What takes hours is run with fewer minutes or fewer tests; what stands for
something of the reader's has it put in; what cannot be run by a test says why.
"""

from __future__ import annotations

from dataclasses import dataclass

from cprlib.errors import ExitStatus

ONE = "tests/functional/test_ipv6.py"
POINT = "--points 'q4-vhost-q35-cpr-*-ip6'"
SHORT = "one test in place of all"
MINUTES = "fewer minutes, in which no resource can be shown to be flat"
UNDECIDED = (ExitStatus.PASS, ExitStatus.INCONCLUSIVE)  # of what is too short to decide anything
OWN = "the reader's own QEMU is put in"
LATEST = "$(readlink -f results/latest)"


@dataclass(frozen=True, slots=True)
class Otherwise:
    """One command.

    :param shown: as the document has it, comments apart.
    :param typed: what is typed instead; None: the same; empty: it is not run.
    :param why: the reason for that.
    :param statuses: exit statuses with which all is well.
    """

    shown: str
    typed: str | None = None
    why: str = ""
    statuses: tuple[int, ...] = (ExitStatus.PASS,)

    @property
    def command(self) -> str:
        """What is typed; empty where nothing is."""
        return self.shown if self.typed is None else self.typed


BOOT = "python3 -m cprlib.bootstrap"
AVOCADO = "avocado run --spawner=lab"
PUSH = "fixtures/matrix/push.yaml"
TWO_POINTS = "/run/points/q4-vhost-q35-cpr-10.2-ip4 /run/points/q1-vhost-q35-cpr-10.0-ip6"
COMPARE = "cprlib compare"
OWN_QEMU = "~/qemu/build/qemu-system-x86_64"
T = "cprlib run -p chain=4 -p rate=500 $T"

TABLE = (
    # README.md and tutorial.md
    Otherwise(f"{BOOT} run", f"{BOOT} run {ONE}", "CI runs the whole suite"),
    Otherwise(f"{BOOT} test", f"{BOOT} test -e lint", "CI runs it whole"),
    Otherwise(f"{BOOT} test -e lint,types,unit", f"{BOOT} test -e lint,types", "CI runs the unit tests"),
    Otherwise("avocado run --spawner=native tests/functional", "", "not where tests have to run in a lab"),
    Otherwise(f"{AVOCADO} --max-parallel-tasks 2 tests/functional", f"{AVOCADO} --max-parallel-tasks 2 {ONE}", SHORT),
    Otherwise(
        f"{AVOCADO} -m {PUSH} tests/functional/test_matrix.py",
        f"avocado run -m {PUSH} --mux-filter-only {TWO_POINTS} --spawner=lab tests/functional/test_matrix.py",
        "two of the ten points",
    ),
    Otherwise("pip install cprlib-0.1.0-py3-none-any.whl", "", "tests/unit/packaging installs the wheel"),
    Otherwise(
        'cprlib run --qemu "$(cprlib build --mutant without-0009-no-loss)" tests/functional/test_cpr_tap.py',
        statuses=(ExitStatus.FAIL,),
    ),
    # own-qemu.md
    Otherwise("mkdir build && cd build", "", OWN),
    Otherwise("../configure --target-list=x86_64-softmmu --enable-vhost-net", "", OWN),
    Otherwise("ninja qemu-system-x86_64", "", OWN),
    Otherwise(f"cprlib run --qemu {OWN_QEMU}", f"cprlib run --qemu {OWN_QEMU} {ONE}", SHORT),
    Otherwise(
        "cprlib run --qemu PATH --firmware ~/qemu/pc-bios", f"cprlib run --qemu $OWN --firmware $FIRMWARE {ONE}", SHORT
    ),
    *(
        Otherwise(f"cprlib run --qemu PATH {option}", f"cprlib run --qemu $OWN {option} {ONE}", SHORT)
        for option in ("-p rate=200", "--parallel 1", "-p control_run=8", "--policy slow-machine")
    ),
    Otherwise("cprlib run", f"cprlib run {ONE}", "CI runs the whole suite"),
    # writing-a-test.md
    Otherwise("cprlib prove --mutant NAME --quick", "cprlib prove --mutant mac-filter-lost --quick", "a name put in"),
    Otherwise(f"{BOOT} test -e documents -- --page tutorial.md", "", "that is what runs here"),
    # prove.md
    Otherwise("cprlib prove", "cprlib prove --mutant tap-reopened --quick", "one mutant in place of all"),
    Otherwise("cprlib prove --quick", "cprlib prove --quick --mutant tap-reopened", "one mutant in place of all"),
    Otherwise(
        "cprlib prove --repeat 20",
        "cprlib prove --repeat 2 --quick --mutant tap-reopened",
        "two runs of one variant's tests in place of twenty of all",
    ),
    # matrix.md
    Otherwise("cprlib run --matrix night", f"cprlib run --matrix night {POINT}", "two of the eighty points"),
    Otherwise(
        "cprlib run --matrix night --points '*-vhost-*-cpr-*'", f"cprlib run --matrix night {POINT}", "fewer points"
    ),
    Otherwise(
        "cprlib run --matrix push --qemu build/qemu-system-x86_64",
        "cprlib run --matrix push --qemu build/qemu-system-x86_64 --points '*-pc-cpr-*'",
        "fewer points",
    ),
    Otherwise(
        f"avocado run -m {PUSH} --spawner=lab --max-parallel-tasks 2 tests/functional/test_matrix.py",
        f"avocado run -m {PUSH} --mux-filter-only {TWO_POINTS} --spawner=lab --max-parallel-tasks 2 "
        "tests/functional/test_matrix.py",
        "two of the ten points",
    ),
    Otherwise(
        "avocado run -m fixtures/matrix/night.yaml --mux-filter-only /run/base/10.2 /run/mechanism/cpr --spawner=lab "
        "tests/functional/test_matrix.py",
        "avocado run -m fixtures/matrix/night.yaml --mux-filter-only /run/base/10.2 /run/mechanism/cpr /run/queues/q4 "
        "/run/machine/pc /run/ip/ip4 --spawner=lab tests/functional/test_matrix.py",
        "fewer points",
    ),
    Otherwise(
        "avocado run -m fixtures/matrix/night.yaml --mux-filter-out /run/ip/ip6 --spawner=lab "
        "tests/functional/test_matrix.py",
        "avocado run -m fixtures/matrix/night.yaml --mux-filter-out /run/ip/ip6 /run/queues/q1 /run/machine/pc "
        "/run/base/10.2 /run/mechanism/link-switch /run/mechanism/fd-share --spawner=lab "
        "tests/functional/test_matrix.py",
        "fewer points",
    ),
    *(
        Otherwise(
            f"cprlib run --matrix night --shard {part}/2",
            f"cprlib run --matrix night {POINT} --shard {part}/2 && ln -s {LATEST} shard-{part}",
            "one point each, and the names that the next command uses",
        )
        for part in (1, 2)
    ),
    # comparing.md
    Otherwise(
        f"{COMPARE} --b /path/to/branch/qemu-system-x86_64",
        f"{COMPARE} --b {OWN_QEMU} --budget 2",
        f"{OWN}, with a budget of two minutes",
        UNDECIDED,
    ),
    Otherwise(
        f"{COMPARE} --a /usr/bin/qemu-system-x86_64 --b ./qemu-system-x86_64 --budget 20",
        f"{COMPARE} --a {OWN_QEMU} --b ./qemu-system-x86_64 --budget 2",
        f"{OWN}, with a budget of two minutes",
        UNDECIDED,
    ),
    Otherwise(f"{COMPARE} results/monday results/tuesday", statuses=UNDECIDED),
    Otherwise(f"{T} $T $T $T $T $T $T $T", f"{T} $T", "two guests in place of eight"),
    Otherwise(
        "cprlib run --qemu ./qemu-system-x86_64 -p chain=4 -p rate=500 $T $T $T $T $T $T",
        "cprlib run --qemu ./qemu-system-x86_64 -p chain=4 -p rate=500 $T $T",
        "two guests in place of six",
    ),
    Otherwise("cprlib baseline check baseline.json", statuses=UNDECIDED),
    # safety.md, soak.md
    Otherwise("python -m tests.robustness.kills --kills 50", "python -m tests.robustness.kills --kills 2", "fewer"),
    Otherwise("CPRLIB_KILLS=3 pytest tests/unit/robustness", "CPRLIB_KILLS=1 pytest tests/unit/robustness", "fewer"),
    Otherwise(
        "cprlib soak --resume",
        "timeout --signal INT 40 cprlib soak --hours 0.02; cprlib soak --resume",
        f"one that was interrupted is put in; {MINUTES}",
        UNDECIDED,
    ),
    *(
        Otherwise(f"cprlib soak {shown}", f"cprlib soak {typed}", MINUTES, UNDECIDED)
        for shown, typed in (
            ("--hours 1", "--hours 0.01"),
            ("--hours 8 --seed 4711", "--hours 0.01 --seed 4711"),
            ("--hours 0.1 -t vhost:on", "--hours 0.01 -t vhost:on"),
            ("--resume --hours 0.5", "--resume --hours 0.01"),
            ("--hours 0.05 --seed 1", "--hours 0.01 --seed 1"),
            ("--resume --hours 0.075", "--resume --hours 0.01"),
            ("--resume --hours 0.058", "--resume --hours 0.01"),
            ("--resume --hours 0.04", "--resume --hours 0.01"),
        )
    ),
)


def otherwise(shown: str) -> Otherwise:
    """What the table says of a command; that it is run as it is shown where it says nothing."""
    return next((row for row in TABLE if row.shown == shown), Otherwise(shown))
