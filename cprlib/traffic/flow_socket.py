"""A UDP socket of a flow, on the station: for single packets, where the instrument would be too much."""

from __future__ import annotations

import socket

from cprlib.errors import EnvironmentFailure
from cprlib.linux.namespace import NetworkNamespace
from cprlib.traffic.flow import Flow


def open_flow(namespace: NetworkNamespace, flow: Flow, purpose: str, flags: int = 0) -> socket.socket:
    """A socket bound to the flow's source and connected to its target; the caller's to close.

    :param purpose: what it is for, as it reads after "cannot": ``warm up ipv4:20000``.
    :param flags: of socket(2) beside SOCK_CLOEXEC.
    :raises EnvironmentFailure: a port is taken or an address is not there.
    """
    family = socket.AF_INET6 if flow.version == 6 else socket.AF_INET
    with namespace.entered():
        opened = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | flags)
    try:
        opened.bind((flow.source, flow.source_port))
        opened.connect((flow.target, flow.target_port))
    except OSError as error:
        opened.close()
        raise EnvironmentFailure(purpose, error.strerror or str(error)) from error
    return opened
