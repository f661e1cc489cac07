"""What a user waits for, on this machine, beside the values of the last release.

Run from the checkout, with the Python environment of the project (the cold rows as root)::

    python benchmarks/speed.py                          # what takes seconds, and the unit tests
    python benchmarks/speed.py --rows cold,case,suite   # cold: the first command in a fresh Debian root
    python benchmarks/speed.py --rows all --save 0.2.0  # also `cprlib prove --quick`; the new values of a release

The row ``cold`` makes a minimal Debian 13 with git and Python only (debootstrap), copies the checkout into it, and runs
the first command of the README there, in namespaces of its own. It needs some GB in ``--folder``. The minimal system is
kept there for the next time; all else is removed. Network settings of the caller (proxy, certificates, index of
packages) apply. Values depend on the load of the machine: it is printed, and only values of one quiet session compare.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
RELEASE = PROJECT / "benchmarks" / "release.json"
CASE = "tests/functional/test_cpr_tap.py:CprTap.test_update_with_vhost_1_queue_loses_nothing"
MIRROR = "http://deb.debian.org/debian"
SUITE = "trixie"
CHECKOUT = "/root/cprlib"  # in the fresh root
CERTIFICATES = "/root/certificates.crt"  # not in /etc/ssl, which the package ca-certificates writes
PASSED_ON = ("http_proxy", "https_proxy", "no_proxy", "PIP_INDEX_URL", "PIP_DEFAULT_TIMEOUT", "CPRLIB_DEBIAN_MIRROR")
FIRST_VERDICT = re.compile(r"(pass|fail|inconclusive) +\S+ +\d+\.\d s ")
RAN = (0, 1, 3)  # exit statuses: pass, fail, inconclusive


@dataclass(frozen=True, slots=True)
class Options:
    """What was given on the command line.

    :param rounds: of short commands; the shortest time counts.
    :param folder: for the fresh root.
    """

    rounds: int
    folder: Path
    mirror: str


def seconds_of(command: Sequence[str], accepted: Sequence[int] = (0,)) -> float:
    """How long a command takes.

    :raises SystemExit: it ended with another status than those accepted.
    """
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        status = subprocess.run(command, cwd=PROJECT, stdout=output, stderr=output, check=False).returncode
        if status not in accepted:
            output.seek(0)
            raise SystemExit(f"{' '.join(command)}: exit status {status}\n{output.read()[-2000:]}")
    return time.monotonic() - started


def cprlib(*arguments: str, rounds: int = 1) -> float:
    """The shortest time of a command of cprlib."""
    program = str(Path(sys.executable).with_name("cprlib"))
    return min(seconds_of([program, *arguments], RAN) for _ in range(rounds))


def pytest(*arguments: str) -> float:
    """The time of unit tests."""
    return seconds_of([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments])


def out(options: Options) -> tuple[str, str]:
    """The option for a results folder that is not the user's."""
    return "--out", str(options.folder / "results")


def case(options: Options) -> dict[str, float]:
    """One case, when everything is built: from the command to the verdict."""
    cprlib("build")
    return {"case": cprlib("run", CASE, *out(options), rounds=options.rounds)}


def cold(options: Options) -> dict[str, float]:
    """The first command in a fresh root: until the first verdict, and until its end."""
    root = fresh_root(options)
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
    command += [sys.executable, __file__, "--in-root", str(root)]
    started, first = time.monotonic(), None
    try:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as child:
            assert child.stdout is not None
            for line in child.stdout:
                elapsed = time.monotonic() - started
                if first is None and FIRST_VERDICT.match(line):
                    first = elapsed
                print(f"  {elapsed:6.1f}  {line.rstrip()}", file=sys.stderr, flush=True)
        if child.returncode not in RAN or first is None:
            raise SystemExit(f"the first command ended with exit status {child.returncode}, first verdict: {first}")
        return {"first-verdict": first, "first-command": time.monotonic() - started}
    finally:
        shutil.rmtree(root, ignore_errors=True)


def fresh_root(options: Options) -> Path:
    """A minimal system with a copy of the checkout."""
    minimal, root = options.folder / f"minimal-{SUITE}", options.folder / "root"
    if not (minimal / "complete").exists():
        shutil.rmtree(minimal, ignore_errors=True)
        packages = "--include=python3,git,ca-certificates"
        subprocess.run(
            ["debootstrap", "--variant=minbase", packages, SUITE, str(minimal), options.mirror],
            stdout=sys.stderr,
            check=True,
        )
        (minimal / "complete").touch()
    shutil.rmtree(root, ignore_errors=True)
    subprocess.run(["cp", "--archive", "--reflink=auto", str(minimal), str(root)], check=True)
    copy = root / CHECKOUT.lstrip("/")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (PROJECT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, copy / name)
    shutil.copyfile("/etc/resolv.conf", root / "etc" / "resolv.conf")
    certificates = os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE")
    if certificates:
        shutil.copyfile(certificates, root / CERTIFICATES.lstrip("/"))
    return root


def run_in_root(root: Path) -> None:
    """Mount what a system has, and become the first command; the namespaces of this process end with it."""
    for mount in (
        ["--rbind", "/dev", str(root / "dev")],
        ["--rbind", "/sys", str(root / "sys")],
        ["--types", "proc", "proc", str(root / "proc")],
    ):
        subprocess.run(["mount", *mount], check=True)
    environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    if (root / CERTIFICATES.lstrip("/")).exists():
        environment["PIP_CERT"] = CERTIFICATES
    os.chroot(root)
    os.chdir(CHECKOUT)
    path = "/usr/sbin:/usr/bin:/sbin:/bin"
    os.execve(  # noqa: S606 - a list of arguments
        "/usr/bin/python3",
        ["python3", "-m", "cprlib.bootstrap", "run"],
        {"PATH": path, "HOME": "/root", "LC_ALL": "C.UTF-8", **environment},
    )


ROWS: dict[str, Callable[[Options], dict[str, float]]] = {
    "help": lambda options: {"help": cprlib("--help", rounds=options.rounds)},
    "case": case,
    "unit-fast": lambda _options: {"unit-fast": pytest("-m", "fast", "tests/unit")},
    "unit": lambda _options: {"unit": pytest("--numprocesses", "logical", "--dist", "loadfile", "tests/unit")},
    "suite": lambda options: {"suite": cprlib("run", *out(options))},
    "cold": cold,
    "prove": lambda _options: {"prove": cprlib("prove", "--quick")},
}
DEFAULT_ROWS = "help,case,unit-fast,unit"
LABELS = {
    "help": "cprlib --help",
    "case": "one vhost case, command to verdict",
    "unit-fast": "unit tests, fast set",
    "unit": "unit tests, all",
    "suite": "the whole suite",
    "first-verdict": "cold, to the first verdict",
    "first-command": "cold, to the end of the first command",
    "prove": "cprlib prove --quick",
}


def table(measured: dict[str, float], released: dict[str, float | None]) -> str:
    """Measured values beside those of the release, with ratios."""
    lines = [f"{'':<40} {'release':>9} {'now':>9} {'ratio':>6}"]
    for name, label in LABELS.items():
        if name in measured:
            before, now = released.get(name), measured[name]
            ratio = f"{now / before:.2f}" if before else "-"
            lines.append(f"{label:<40} {clock(before):>9} {clock(now):>9} {ratio:>6}")
    return "\n".join(lines)


def clock(seconds: float | None) -> str:
    """``"4:55"``, below a minute ``"16.9 s"``."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    return f"{round(seconds) // 60}:{round(seconds) % 60:02}"


def main() -> None:
    """Measure the rows, print them, and save them when that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=DEFAULT_ROWS, help=f"'all', or some of {','.join(ROWS)}")
    parser.add_argument("--rounds", type=int, default=3, help="of short commands; the shortest time counts")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "cprlib-speed")
    parser.add_argument("--mirror", default=os.environ.get("CPRLIB_DEBIAN_MIRROR", MIRROR))
    parser.add_argument("--save", metavar="RELEASE", help="keep the values as those of this release")
    parser.add_argument("--in-root", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.in_root:
        run_in_root(given.in_root)
    names = list(ROWS) if given.rows == "all" else given.rows.split(",")
    if unknown := [name for name in names if name not in ROWS]:
        parser.error(f"no such row: {', '.join(unknown)}")
    options = Options(given.rounds, given.folder, given.mirror)
    release = json.loads(RELEASE.read_text(encoding="utf-8"))
    machine = f"{os.cpu_count()} cores, {platform.freedesktop_os_release()['PRETTY_NAME']}"
    print(f"{machine}; load {os.getloadavg()[0]:.1f}; release: {release['release']} on {release['machine']}")
    measured: dict[str, float] = {}
    for name in names:
        measured |= ROWS[name](options)
        print(table(measured, release["seconds"]), flush=True)
    if given.save:
        values = release["seconds"] | {name: round(seconds, 2) for name, seconds in measured.items()}
        named = f"{given.save}, {datetime.datetime.now(datetime.UTC).date()}"
        content = {"release": named, "machine": machine, "seconds": values}
        RELEASE.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
