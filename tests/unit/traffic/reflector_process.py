"""A reflector in a process of its own instead of a guest: it shares no interpreter with the instrument."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator

from cprlib.files import project_folder
from cprlib.linux.namespace import NetworkNamespace
from cprlib.process import spawn
from cprlib.traffic.packet_records import Reflection

PROGRAM = """
import json, sys
sys.path.insert(0, sys.argv[1])
from cprlib.linux.libc import become_realtime
from cprlib.traffic.station_endpoints import StampReflector
if sys.argv[2]:
    become_realtime(int(sys.argv[2]))
with StampReflector() as reflector:
    print("ready", flush=True)
    sys.stdin.read()
json.dump({"dropped": reflector.dropped, "counts": reflector.counts, "log": reflector.log()}, sys.stdout)
"""


class ReflectorProcess:
    """A running reflector; :meth:`finish` ends it and returns its log."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self.child = child
        self.dropped = 0
        self.counts: dict[str, int] = {}

    def finish(self) -> list[Reflection]:
        """End it and read its log."""
        output, _ = self.child.communicate("", timeout=60)
        report = json.loads(output)
        self.dropped, self.counts = report["dropped"], report["counts"]
        return [Reflection(*line) for line in report["log"]]


@contextlib.contextmanager
def reflector_process(namespace: NetworkNamespace, *, priority: int | None = None) -> Iterator[ReflectorProcess]:
    """Start a reflector in a namespace and wait until it listens.

    :param priority: real-time priority, so that busy cores do not slow it.
    """
    command = [sys.executable, "-I", "-S", "-c", PROGRAM, str(project_folder()), str(priority or "")]
    with contextlib.ExitStack() as stack:
        with namespace.entered():
            child = stack.enter_context(
                spawn(command, purpose="start a reflector", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            )
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        yield ReflectorProcess(child)
