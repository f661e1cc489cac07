"""The agent as a program on this machine, with a socket pair instead of its virtio-serial port."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cprlib.build.guest_image import compile_agent
from cprlib.files import project_folder
from cprlib.guest.agent import AgentConnection
from cprlib.process import spawn


@dataclass(frozen=True, slots=True)
class NativeAgent:
    """A running agent; ``port`` is its reflector's UDP port."""

    connection: AgentConnection
    raw: socket.socket
    port: int


@pytest.fixture(scope="session")
def agent_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_agent(project_folder() / "images" / "guest", tmp_path_factory.mktemp("agent"))


def free_port() -> int:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        probe.bind(("::", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def agent(agent_program: Path) -> Iterator[NativeAgent]:
    port = free_port()
    ours, theirs = socket.socketpair()
    command = [str(agent_program), "--fd", str(theirs.fileno()), "--udp", str(port), "--log", "1000"]
    with ours, theirs, spawn(command, purpose="start the agent", pass_fds=[theirs.fileno()], stdout=subprocess.DEVNULL):
        connection = AgentConnection(ours)
        connection.ping()
        yield NativeAgent(connection, ours, port)
