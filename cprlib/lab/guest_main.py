"""The guest-side main program of a lab: runs one Avocado test in its own process.

Avocado's runner starts a second process for each test and polls it every 10 ms, to survive damage to the test's
process. A lab belongs to one test, so the test runs in this process and has the one core of the lab for itself.
Importing ``avocado`` loads every installed plugin (spawners, results, varianters), which takes most of the second that
the start of a test takes in a lab; this process needs none (:mod:`cprlib.lab.avocado_main`).
Messages are JSON lines on standard output; other output of the test's children goes to standard error.

Usage: ``python -m cprlib.lab.guest_main ARGUMENTS``, with the arguments of Avocado's ``runnable-run``.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import sys
from typing import Any, BinaryIO

from cprlib.lab.avocado_main import stub_modules, stubs_imported

KIND = "avocado-instrumented"


def _without_protocols(name: str) -> Any:
    """The one name that a test imports from the package pyroute2 itself."""
    if name != "IPRoute":
        raise AttributeError(name)
    from pyroute2.iproute.linux import IPRoute  # noqa: PLC0415 - when a test needs it

    return IPRoute


def shorten_pyroute2() -> None:
    """Let pyroute2 import what a test needs of it: the package itself imports each protocol, which takes 0.2 s."""
    if (spec := importlib.util.find_spec("pyroute2")) is not None:
        module = importlib.util.module_from_spec(spec)  # not executed
        module.__dict__["__getattr__"] = _without_protocols
        sys.modules["pyroute2"] = module


with stubs_imported(stub_modules(tuple)) if KIND in sys.argv else contextlib.nullcontext():
    from avocado.core.nrunner.task import json_dumps
    from avocado.core.utils import messages
    from avocado.plugins.runners.avocado_instrumented import AvocadoInstrumentedTestRunner, RunnerApp


class _Channel:
    """Replaces the queue between Avocado's two processes: a message is sent at once."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def put(self, message: dict[str, Any]) -> None:
        """Send a message, except the internal one of Avocado."""
        if message.get("type") != "early_state":
            self._stream.write(json_dumps(message).encode("ascii") + b"\n")
            self._stream.flush()


class OneProcessRunner(AvocadoInstrumentedTestRunner):  # type: ignore[misc]
    """Avocado's runner for instrumented tests without its second process."""

    def __init__(self, channel: _Channel) -> None:
        super().__init__()
        self._channel = channel

    def run(self, runnable: Any) -> list[dict[str, Any]]:
        """Run the test; its messages go to the channel while it runs, so none are returned."""
        signal.signal(signal.SIGTERM, self.signal_handler)
        self._channel.put(messages.StartedMessage.get())
        self._run_avocado(runnable, self._channel)
        return []


class LabRunnerApp(RunnerApp):  # type: ignore[misc]
    """Avocado's command line for runners; finds the usual runner without searching all packages."""

    def __init__(self, channel: _Channel) -> None:
        super().__init__(channel.put)
        self._channel = channel

    def get_runner_from_runnable(self, runnable: Any) -> Any:
        if runnable.kind == KIND:
            return OneProcessRunner(self._channel)
        return super().get_runner_from_runnable(runnable)


def main() -> None:
    """Run one task and exit at once; the kernel ends with this process."""
    shorten_pyroute2()
    channel = _Channel(os.fdopen(os.dup(1), "wb"))
    os.dup2(2, 1)
    sys.argv[1:1] = ["runnable-run"]
    LabRunnerApp(channel).run()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
