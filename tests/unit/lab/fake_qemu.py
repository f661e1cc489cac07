#!/usr/bin/env python3
"""Replaces QEMU and images/lab/init.c: sends results as an archive."""

import io
import re
import socket
import sys
import tarfile

line = " ".join(sys.argv)
ports = {}
for name, descriptor in re.findall(r"socket,id=(\w+),fd=(\d+)", line):
    ports[name] = socket.socket(fileno=int(descriptor))
match = re.search(r"filename=(/proc/self/fd/\d+),", line)
assert match is not None
with open(match[1], "rb") as disk:
    deed = next(token[1:].decode() for token in disk.read().split(b"\0") if token.startswith(b"A"))
archive = io.BytesIO()
with tarfile.open(fileobj=archive, mode="w:") as tar:
    member = tarfile.TarInfo("../escaped" if deed == "escape" else "./deep/evidence")
    member.size = 4
    tar.addfile(member, io.BytesIO(b"seen"))
data = b"" if deed == "nothing" else archive.getvalue()
ports["control"].sendall(b"ready\n")
ports["stdout"].sendall(b"out")
if deed == "die":
    sys.exit(1)
ports["results"].sendall(data[:700])
ports["control"].sendall(b"results %d\n" % len(data))
ports["results"].sendall(data[700:])
assert ports["control"].recv(1) == b"Q"  # the host has it all
ports["control"].sendall(b"exit 6\n")
