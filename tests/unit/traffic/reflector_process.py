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
from cprlib.traffic.stamp import STAMP_PORT


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
    arguments = [str(STAMP_PORT), *([] if priority is None else [str(priority)])]
    program = (
        f"import sys; sys.path.insert(0, {str(project_folder())!r}); "
        f"from cprlib.traffic.reflector import main; main({arguments!r})"
    )
    command = [sys.executable, "-I", "-S", "-c", program]
    with contextlib.ExitStack() as stack:
        with namespace.entered():
            child = stack.enter_context(
                spawn(command, purpose="start a reflector", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            )
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        yield ReflectorProcess(child)
