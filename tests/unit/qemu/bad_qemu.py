#!/usr/bin/env python3
"""A fake QEMU that misbehaves; the argument of ``-misbehave`` says how."""

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
misbehave = sys.argv[sys.argv.index("-misbehave") + 1]
qmp = socket.socket(fileno=int(number[1]))
GREETING = {"QMP": {"version": {"qemu": {"micro": 0, "minor": 0, "major": 10}, "package": ""}, "capabilities": []}}


def send(value: object) -> None:
    """Send a message."""
    qmp.sendall(json.dumps(value).encode() + b"\n")


def reply_to(request: str) -> None:
    """Reply with success."""
    command = json.loads(request)
    send({"return": {}} | ({"id": command["id"]} if "id" in command else {}))


def serve(reply: bytes | None = None) -> None:
    """Greet and negotiate, then reply to each command; to later ones with these bytes."""
    send(GREETING)
    negotiated = False
    while request := qmp.recv(65536).decode():  # one at a time, without newlines
        if not negotiated or reply is None:
            reply_to(request)
            negotiated = True
        else:
            qmp.sendall(reply)


print("bad QEMU:", misbehave, flush=True)
match misbehave:
    case "hang-before-qmp":
        time.sleep(600)
    case "half-a-greeting":
        qmp.sendall(json.dumps(GREETING).encode()[:40])
        time.sleep(600)
    case "garbage-greeting":
        qmp.sendall(b"\x00\xff<html>\n" * 100)
        time.sleep(600)
    case "never-replies":
        serve(b"")
    case "half-a-reply":
        serve(b'{"return": {"status": "runn')
    case "garbage-reply":
        serve(b"{]\xff\xfe garbage\n")
    case "endless-line":
        send(GREETING)
        qmp.recv(4096)
        while True:
            qmp.sendall(b"x" * (1 << 20))
    case "event-flood":
        send(GREETING)
        reply_to(qmp.recv(4096).decode())
        while True:
            send({"event": "NIC_RX_FILTER_CHANGED", "data": {}, "timestamp": {"seconds": 1, "microseconds": 0}})
    case "console-flood":
        assert console is not None
        with open(console[1], "wb") as stream:
            while True:
                stream.write(b"\x1b[31mpanic? no.\n" * 10_000)
    case "ends-on-sigterm":  # as QEMU does: qemu_kill_report(), system/runstate.c

        def end(number: int, _frame: object) -> None:
            print(f"qemu-system-x86_64: terminating on signal {number} from pid 7 (earlyoom)", flush=True)
            os._exit(0)

        signal.signal(signal.SIGTERM, end)
        serve()
    case "serves":
        serve()
    case "abort":
        os.abort()
    case "forbidden-call":  # SIGSYS, as from -sandbox on
        os.kill(os.getpid(), signal.SIGSYS)
    case "abort-later":
        send(GREETING)
        reply_to(qmp.recv(4096).decode())
        qmp.recv(4096)
        os.kill(os.getpid(), signal.SIGABRT)
