"""Anonymous network namespaces: the kernel frees them with the last descriptor, socket and process that uses them.

Nothing is mounted below /run/netns, so a killed harness leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from cprlib.errors import EnvironmentFailure
from cprlib.linux.libc import set_network_namespace, unshare_network

if TYPE_CHECKING:
    from pyroute2 import IPRoute

ADVICE = "run as root or in the lab (cprlib doctor names what is missing)"
OWN_NAMESPACE = "/proc/thread-self/ns/net"


class NetworkNamespace:
    """A new network namespace, as a context manager.

    :param name: its purpose; only shown in messages.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._descriptor = -1
        self._netlink: IPRoute | None = None

    def __enter__(self) -> NetworkNamespace:
        from pyroute2 import IPRoute  # noqa: PLC0415 - takes 0.3 s, and a report needs no netlink

        logging.getLogger("pyroute2").setLevel(logging.WARNING)  # it resets its level when it is imported
        with contextlib.ExitStack() as stack, netlink_errors(f"make network namespace {self.name!r}"):
            stack.callback(self._close)
            with ThreadPoolExecutor(1) as thread:  # so that the caller keeps its own namespace
                self._descriptor = thread.submit(_open_new_namespace).result()
            with self.entered():
                self._netlink = IPRoute()
            self.netlink.link("set", index=1, state="up")
            stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._netlink is not None:
            self._netlink.close()
            self._netlink = None
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    @property
    def descriptor(self) -> int:
        """Descriptor of the namespace, for moving a link into it."""
        return self._descriptor

    @property
    def netlink(self) -> IPRoute:
        """A netlink socket of this namespace.

        :raises EnvironmentFailure: the namespace is not open.
        """
        if self._netlink is None:
            raise EnvironmentFailure(f"use network namespace {self.name!r}", "it is not open")
        return self._netlink

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Move the calling thread into the namespace; sockets and processes made in the body stay there.

        :raises EnvironmentFailure: the rights are missing.
        """
        own = os.open(OWN_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
        try:
            try:
                set_network_namespace(self._descriptor)
            except OSError as error:
                raise EnvironmentFailure(f"enter network namespace {self.name!r}", str(error), ADVICE) from error
            try:
                yield
            finally:
                set_network_namespace(own)
        finally:
            os.close(own)

    def index(self, interface: str) -> int:
        """Interface index of a link in this namespace.

        :raises EnvironmentFailure: there is no such link.
        """
        found = self.netlink.link_lookup(ifname=interface)
        if not found:
            raise EnvironmentFailure(f"find {interface} in namespace {self.name!r}", "no such link")
        return int(found[0])


@contextlib.contextmanager
def netlink_errors(tried: str) -> Iterator[None]:
    """Raise what the kernel refuses in the body as a missing right or feature of this machine.

    pyroute2's NetlinkError is no OSError, which only its ioctls raise.

    :param tried: what the body does, as it reads after "cannot".
    :raises EnvironmentFailure: the kernel refused.
    """
    from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415 - as above

    try:
        yield
    except (OSError, NetlinkError) as error:
        raise EnvironmentFailure(tried, str(error), ADVICE) from error


def _open_new_namespace() -> int:
    unshare_network()
    return os.open(OWN_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
