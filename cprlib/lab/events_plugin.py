"""Avocado plugin that reports the tests of a job to the process that started Avocado (:mod:`cprlib.lab.job_events`).

Does nothing without the variable that names the descriptor: in ``avocado run`` by hand.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any, TextIO

from avocado.core.plugin_interfaces import ResultEvents

from cprlib.codec import dump_json
from cprlib.lab.job_events import EVENTS_VARIABLE, ChosenTests, EndedTest, JobEvent, StartedTest


class JobEvents(ResultEvents):  # type: ignore[misc]
    """Writes a line for each event."""

    name = "cprlib-events"
    description = "Reports tests to cprlib run while they run"

    def __init__(self, config: dict[str, Any]) -> None:
        del config
        number = os.environ.pop(EVENTS_VARIABLE, None)  # children of Avocado do not have the descriptor
        self._stream: TextIO | None = None
        if number is not None:
            os.set_inheritable(int(number), False)
            self._stream = os.fdopen(int(number), "w", encoding="utf-8")

    def _write(self, event: JobEvent) -> None:
        if self._stream is not None:
            with contextlib.suppress(OSError):  # the reader has ended; the job goes its way
                self._stream.write(dump_json(event, indent=None))
                self._stream.flush()

    def pre_tests(self, job: Any) -> None:
        self._write(ChosenTests(tuple(str(test.uri) for suite in job.test_suites for test in suite.tests)))

    def start_test(self, result: Any, state: dict[str, Any]) -> None:
        del result
        self._write(StartedTest(*_name(state)))

    def end_test(self, result: Any, state: dict[str, Any]) -> None:
        del result
        reason = str(state.get("fail_reason") or "")
        seconds = float(state.get("time_elapsed", 0.0))
        self._write(EndedTest(*_name(state), str(state.get("status", "ERROR")), seconds, reason))

    def test_progress(self, progress: bool = False) -> None:
        """Required by Avocado."""

    def post_tests(self, job: Any) -> None:
        """Required by Avocado."""


def _name(state: dict[str, Any]) -> tuple[str, str]:
    return str(state["name"].uid), f"{state['name'].name}{state['name'].str_variant}"
