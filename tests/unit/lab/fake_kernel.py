#!/usr/bin/env python3
"""Replaces the kernel on the channels of images/lab/init.c; the first argument of the job selects the behaviour."""

import itertools
import os
import re
import signal
import sys
import time

line = " ".join(sys.argv)


def found(pattern: str) -> str:
    """The group of a pattern that matches the kernel command line."""
    match = re.search(pattern, line)
    assert match is not None
    return match[1]


stdout, stderr, control = (int(found(rf"ssl{index}=(?:null,)?fd:(\d+)")) for index in range(3))
with open(found(r"ubd0r=(\S+)"), "rb") as disk:
    tokens = disk.read().rstrip(b"\0").split(b"\0")
arguments = [token[1:].decode() for token in tokens if token.startswith(b"A")]
sources = [token[1:].decode() for token in tokens if token.startswith(b"r")]
print("Linux version 0, not really")
sys.stdout.flush()

match arguments[0]:
    case "die-booting":
        os.kill(os.getpid(), signal.SIGKILL)
    case "boot-slowly":
        for number in itertools.count():
            os.mkdir(f"{os.environ['TMPDIR']}/{number}")
    case "broken":
        os.write(control, b"broken mount /proc: No such device\n")
        time.sleep(30)
os.write(control, b"rea")
os.write(control, b"dy\n")
match arguments[0]:
    case "speak":
        os.write(stdout, b"out")
        os.write(stderr, b"err")
        os.write(control, b"exit 7\n")
    case "signal":
        os.write(control, b"signal 9\n")
    case "panic":
        print("<0>Kernel panic - not syncing: tired of life")
        sys.stdout.flush()
        os.abort()
    case "write":
        with open(f"{sources[0]}/{arguments[1]}", "w", encoding="ascii") as stream:
            stream.write("evidence")
        os.write(control, b"exit 0\n")
    case "special-files":
        for make in (os.mkfifo, lambda path: os.symlink("/etc", path)):
            try:
                make(f"{sources[0]}/special")
            except PermissionError:
                os.write(stdout, b"refused ")
        os.write(control, b"exit 0\n")
    case "wait":
        letter = os.read(control, 1)
        os.write(stdout, letter)
        os.write(control, b"exit 3\n")
    case "deaf":
        while True:
            time.sleep(1)
    case "flood":
        while True:
            os.write(stdout, b"y" * 4096)
    case "shell":
        status = os.spawnv(os.P_WAIT, "/bin/sh", ["sh", "-c", arguments[1]])  # noqa: S606
        os.write(control, b"exit %d\n" % status)
