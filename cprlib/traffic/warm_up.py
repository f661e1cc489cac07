"""A few packets there and back before a measurement, so that every flow has found its queue.

A multi-queue tap sends a flow's packets into the queue that its replies come from (tun_flow_update(),
drivers/net/tun.c); until the first reply it goes by hash. The step from one queue to the other can reorder the first
packets of a flow, which is neither QEMU's doing nor an update's. The tap forgets a flow after 3 s of silence.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Sequence

from cprlib.deadline import Deadline
from cprlib.linux.namespace import NetworkNamespace
from cprlib.traffic.flow import Flow
from cprlib.traffic.flow_socket import open_flow
from cprlib.traffic.stamp import SenderPacket

WARM_UP_SSID = 0xFFFF  # a session of its own at the reflector: it must not count in the flow's
ROUND_TRIPS = 4
ANSWER_S = 0.5  # after so long without an answer the next packet is sent


def warm_up(namespace: NetworkNamespace, flows: Sequence[Flow], deadline: Deadline) -> None:
    """Send packets of each flow one by one until it has been answered a few times.

    :param namespace: the station's; the flows' source ports must be free.
    :raises DeadlineExceeded: there were no answers.
    :raises EnvironmentFailure: a port is taken or an address is not there.
    """
    with contextlib.ExitStack() as stack:
        for flow in flows:
            opened = stack.enter_context(open_flow(namespace, flow, f"warm up {flow.name}"))
            _round_trips(opened, flow, deadline)


def _round_trips(opened: socket.socket, flow: Flow, deadline: Deadline) -> None:
    answers = 0
    while answers < ROUND_TRIPS:
        packet = SenderPacket(answers, time.time_ns(), ssid=WARM_UP_SSID).encode(flow.size)
        with contextlib.suppress(ConnectionRefusedError):  # the reflector does not listen yet
            opened.send(packet)
            readable, _, _ = select.select([opened], [], [], min(ANSWER_S, deadline.remaining))
            answers += bool(readable and opened.recv(65536))
        if deadline.expired:
            raise deadline.exceeded(f"{answers} answers on {flow.name}")
