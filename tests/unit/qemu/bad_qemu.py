#!/usr/bin/env python3
"""Stands in for a QEMU that misbehaves; the words behind ``-deed`` say how."""

import json
import os
import re
import signal
import socket
import sys
import time

line = " ".join(sys.argv)
number = re.search(r"socket,id=qmp,fd=(\d+)", line)
console = re.search(r"file,id=console,path=(\S+)", line)
assert number is not None
deed = sys.argv[sys.argv.index("-deed") + 1]
qmp = socket.socket(fileno=int(number[1]))
GREETING = {"QMP": {"version": {"qemu": {"micro": 0, "minor": 0, "major": 10}, "package": ""}, "capabilities": []}}


def say(value: object) -> None:
    """Send a message."""
    qmp.sendall(json.dumps(value).encode() + b"\n")


def answer_to(request: str) -> None:
    """Nothing went wrong."""
    asked = json.loads(request)
    say({"return": {}} | ({"id": asked["id"]} if "id" in asked else {}))


def serve(answer: bytes | None = None) -> None:
    """Greet and negotiate, then answer each command, or the next ones with these bytes."""
    say(GREETING)
    negotiated = False
    while request := qmp.recv(65536).decode():  # one at a time, without line ends
        if not negotiated or answer is None:
            answer_to(request)
            negotiated = True
        else:
            qmp.sendall(answer)


print("bad QEMU:", deed, flush=True)
match deed:
    case "hang-before-qmp":
        time.sleep(600)
    case "half-a-greeting":
        qmp.sendall(json.dumps(GREETING).encode()[:40])
        time.sleep(600)
    case "garbage-greeting":
        qmp.sendall(b"\x00\xff<html>\n" * 100)
        time.sleep(600)
    case "never-answers":
        serve(b"")
    case "half-an-answer":
        serve(b'{"return": {"status": "runn')
    case "garbage-answer":
        serve(b"{]\xff\xfe garbage\n")
    case "endless-line":
        say(GREETING)
        qmp.recv(4096)
        while True:
            qmp.sendall(b"x" * (1 << 20))
    case "event-flood":
        say(GREETING)
        answer_to(qmp.recv(4096).decode())
        while True:
            say({"event": "NIC_RX_FILTER_CHANGED", "data": {}, "timestamp": {"seconds": 1, "microseconds": 0}})
    case "console-flood":
        assert console is not None
        with open(console[1], "wb") as stream:
            while True:
                stream.write(b"\x1b[31mpanic? no.\n" * 10_000)
    case "abort":
        os.abort()
    case "abort-later":
        say(GREETING)
        answer_to(qmp.recv(4096).decode())
        qmp.recv(4096)
        os.kill(os.getpid(), signal.SIGABRT)
