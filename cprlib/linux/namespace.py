"""Network namespaces without a name: they end with the last descriptor, socket and process that uses them.

Nothing is mounted below /run/netns, so a killed harness leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Iterator
from types import TracebackType

from pyroute2 import IPRoute

from cprlib.errors import EnvironmentFailure

CLONE_NEWNET = 0x40000000  # linux/sched.h
ADVICE = "run as root or in the lab (cprlib doctor tells what is missing)"


def _call(name: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


class NetworkNamespace:
    """A new network namespace, as a context manager.

    :param name: what it is for; only shown in messages.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._descriptor = -1
        self._netlink: IPRoute | None = None

    def __enter__(self) -> NetworkNamespace:
        failure: list[OSError] = []

        def make() -> None:  # in a thread of its own, which ends in the new namespace
            try:
                _call("unshare", CLONE_NEWNET)
                self._descriptor = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                failure.append(error)

        thread = threading.Thread(target=make, name=f"namespace-{self.name}")
        thread.start()
        thread.join()
        if failure:
            raise EnvironmentFailure(f"make network namespace {self.name!r}", str(failure[0]), ADVICE) from failure[0]
        with self.entered():
            self._netlink = IPRoute()
        self.netlink.link("set", index=1, state="up")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
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
        """A netlink socket that was opened inside."""
        if self._netlink is None:
            raise EnvironmentFailure(f"use network namespace {self.name!r}", "it is not open")
        return self._netlink

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread is inside; sockets made and processes started there stay inside.

        :raises EnvironmentFailure: when the rights are missing.
        """
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            try:
                _call("setns", self._descriptor, CLONE_NEWNET)
            except OSError as error:
                raise EnvironmentFailure(f"enter network namespace {self.name!r}", str(error), ADVICE) from error
            try:
                yield
            finally:
                _call("setns", own, CLONE_NEWNET)
        finally:
            os.close(own)

    def index(self, interface: str) -> int:
        """Interface index of a link inside.

        :raises EnvironmentFailure: there is no such link.
        """
        found = self.netlink.link_lookup(ifname=interface)
        if not found:
            raise EnvironmentFailure(f"find {interface} in namespace {self.name!r}", "no such link")
        return int(found[0])
