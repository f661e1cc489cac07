"""Bind runners to Avocado, and report the end of a runner that sent no result.

Avocado would wait for that result forever (core/task/statemachine.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable
from typing import Any

from cprlib.process import death_binding, describe_status


def bound_to_this_process() -> Callable[[], None]:
    """For ``preexec_fn``: the child dies with this process, even if that dies before prctl(2) is called."""
    return death_binding(os.getpid())


def status_connection(uri: str) -> socket.socket:
    """A connection to the status server of a job.

    :raises OSError: the server does not run.
    """
    if ":" in uri:
        host, port = uri.rsplit(":", 1)
        return socket.create_connection((host, int(port)))
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(uri)
    return connection


def report_lost(task: Any, returncode: int | None) -> None:
    """Finish a task as an error when its runner was killed or failed.

    :param task: of Avocado.
    :param returncode: of the runner; one that exits with 0 has sent its result.
    """
    if not returncode:
        return
    reason = f"the test's runner ended with {describe_status(returncode)} before the test did"
    message = {
        "status": "finished",
        "result": "error",
        "fail_reason": reason,
        "fail_class": "RunnerLost",
        "id": str(task.identifier),
        "job_id": task.job_id,
        "time": time.monotonic(),
    }
    for service in task.status_services:
        with contextlib.suppress(OSError), status_connection(service.uri) as connection:
            connection.sendall(json.dumps(message).encode("ascii") + b"\n")
