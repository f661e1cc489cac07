"""Combinations of tap options that QEMU refuses: a row for each error path of net_init_tap() (QEMU net/tap.c)."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tap_programs import Programs

BOTH = (False, True)
OFF = (False,)
ON = (True,)


class File(enum.Enum):
    """A file that management passes under a name."""

    TAP = "a tap"
    QUEUE = "a queue of a multi-queue tap"
    PLAIN = "a tap without vnet_hdr"
    VHOST = "/dev/vhost-net"
    NULL = "/dev/null"
    PATH = "a path, which cannot be made non-blocking"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A combination that is refused.

    :param options: beside ``type``, ``id``, ``vhost`` and ``cpr``; ``{tap}`` stands for an interface of the row's own.
    :param because: words of the error that identify the check.
    :param files: passed by getfd.
    :param vhost: values of ``vhost`` to try.
    :param cpr: values of ``cpr`` to try; only ``on`` where QEMU refuses before it opens anything.
    """

    name: str
    options: Mapping[str, object]
    because: str
    files: Mapping[str, File] = field(default_factory=dict)
    vhost: tuple[bool, ...] = BOTH
    cpr: tuple[bool, ...] = BOTH

    def __post_init__(self) -> None:
        if not self.because:
            raise ValueError(f"{self.name}: any error would pass")


@dataclass(frozen=True, slots=True)
class NetdevAttempt:
    """One ``netdev_add`` that has to be refused."""

    refusal: Refusal
    number: int
    vhost: bool
    cpr: bool

    @property
    def name(self) -> str:
        """For people."""
        words = {False: "off", True: "on"}
        return f"{self.refusal.name} (vhost={words[self.vhost]}, cpr={words[self.cpr]})"

    @property
    def interface(self) -> str:
        """A tap of its own: what one row leaves behind must not disturb the next."""
        return f"row{self.number}"

    @property
    def identifier(self) -> str:
        """The netdev's."""
        return f"refused{self.number}"

    def options(self) -> dict[str, object]:
        """Arguments of netdev_add."""
        given: dict[str, object] = {"type": "tap", "id": self.identifier, "vhost": self.vhost, "cpr": self.cpr}
        for name, value in self.refusal.options.items():
            given[name] = value.replace("{tap}", self.interface) if isinstance(value, str) else value
        return given


_QUIET: dict[str, object] = {"script": "no", "downscript": "no"}
_NAMED: dict[str, object] = {"ifname": "{tap}"} | _QUIET
_TAP = {"a": File.TAP}
_TAP_VHOST = {"a": File.TAP, "v": File.VHOST}
_QUEUES = {"a": File.QUEUE, "b": File.QUEUE}
_QUEUES_VHOST = _QUEUES | {"v": File.VHOST, "w": File.VHOST}
_FD, _FDS, _HELPER = "are invalid with fd=", "are invalid with fds=", "are invalid with helper="
_NOT_FOUND, _BLOCKS = "has not been found", "Can't use file descriptor"
_NO_TAP, _NOT_OPENED = "Unable to query TUNGETIFF", "could not configure"  # net/tap-linux.c
_HELPER_FAILED = "bridge helper failed"
NO_VHOST = "without vhost"  # when the netdev has its tap
TOO_MANY_QUEUES = 257  # MAX_TAP_QUEUES (drivers/net/tun.c) and one more


def refusals(programs: Programs) -> tuple[Refusal, ...]:
    """All rows.

    :param programs: where scripts and helpers are made.
    """
    return (*_with_fd(), *_with_fds(), *_with_helper(programs), *_with_name())


def _with_fd() -> Iterator[Refusal]:
    others = _NAMED | {"vnet_hdr": True, "helper": "/bin/false", "queues": 1, "fds": "a:b", "vhostfds": "v:w"}
    for name, value in others.items():
        yield Refusal(f"fd= with {name}=", {"fd": "a", name: value}, _FD, _TAP, OFF, ON)
    yield Refusal("fd= of an unknown name", {"fd": "unknown"}, _NOT_FOUND)
    yield Refusal("fd= that is not open", {"fd": "9999"}, "file descriptor 9999")
    yield Refusal("fd= that is no tap", {"fd": "a"}, _NO_TAP, {"a": File.NULL})
    yield Refusal("fd= that is a path", {"fd": "a"}, _BLOCKS, {"a": File.PATH}, OFF, ON)
    path = {"a": File.TAP, "v": File.PATH}
    yield Refusal("fd=, vhostfd= that is a path", {"fd": "a", "vhostfd": "v"}, _BLOCKS, path, ON, ON)
    yield Refusal("fd=, vhostfd= without vhost", {"fd": "a", "vhostfd": "v"}, NO_VHOST, _TAP_VHOST, OFF)
    yield Refusal("fd=, vhostfd= of an unknown name", {"fd": "a", "vhostfd": "unknown"}, _NOT_FOUND, _TAP, ON)
    yield Refusal(
        "fd=, vhostfd= that is no vhost device",
        {"fd": "a", "vhostfd": "v"},
        "could not be initialized",
        {"a": File.TAP, "v": File.NULL},
        ON,
    )


def _with_fds() -> Iterator[Refusal]:
    others = _NAMED | {"vnet_hdr": True, "helper": "/bin/false", "queues": 2, "vhostfd": "v"}
    both = {"fds": "a:b", "vhostfds": "v:w"}
    for name, value in others.items():
        yield Refusal(f"fds= with {name}=", {"fds": "a:b", name: value}, _FDS, _QUEUES, OFF, ON)
    yield Refusal(
        "more fds= than vhostfds=", {"fds": "a:b", "vhostfds": "v"}, "does not match", _QUEUES | {"v": File.VHOST}, ON
    )
    yield Refusal("fewer fds= than vhostfds=", {"fds": "a", "vhostfds": "v:w"}, "does not match", _QUEUES_VHOST, ON)
    yield Refusal("fds=, vhostfds= without vhost", both, NO_VHOST, _QUEUES_VHOST, OFF)
    yield Refusal("fds=, the second of an unknown name", {"fds": "a:unknown"}, _NOT_FOUND, {"a": File.QUEUE})
    yield Refusal("fds=, the first a path", {"fds": "a:b"}, _BLOCKS, {"a": File.PATH, "b": File.QUEUE}, OFF, ON)
    yield Refusal("fds=, the first no tap", {"fds": "a:b"}, _NO_TAP, {"a": File.NULL, "b": File.QUEUE}, OFF, ON)
    yield Refusal(
        "fds=, the second no tap", {"fds": "a:b"}, "vnet_hdr not consistent", {"a": File.QUEUE, "b": File.NULL}
    )
    yield Refusal(
        "fds=, one without vnet_hdr",
        {"fds": "a:b"},
        "vnet_hdr not consistent",
        {"a": File.TAP, "b": File.PLAIN},
    )
    yield Refusal(
        "vhostfds=, the second of an unknown name",
        {"fds": "a:b", "vhostfds": "v:unknown"},
        _NOT_FOUND,
        _QUEUES | {"v": File.VHOST},
        ON,
    )
    yield Refusal(
        "vhostfds=, the second no vhost device",
        both,
        "could not be initialized",
        _QUEUES | {"v": File.VHOST, "w": File.NULL},
        ON,
    )


def _with_helper(programs: Programs) -> Iterator[Refusal]:
    others = _NAMED | {"vnet_hdr": True, "queues": 1, "vhostfds": "v:w"}
    for name, value in others.items():
        yield Refusal(f"helper= with {name}=", {"helper": "/bin/false", name: value}, _HELPER, {}, OFF, ON)

    yield Refusal("helper= that does not exist", {"helper": "/nonexistent/helper"}, "failed", {}, OFF)
    yield Refusal("helper= that fails", {"helper": "/bin/false"}, "failed", {}, OFF)
    yield Refusal("helper= that sends no tap", _helper(programs, "--send=null"), _NO_TAP, {}, OFF)
    yield Refusal("helper= that sends a path", _helper(programs, "--send=path"), "blocking", {}, OFF, ON)
    vhostfd: dict[str, object] = _helper(programs) | {"vhostfd": "v"}
    yield Refusal("helper=, vhostfd= without vhost", vhostfd, NO_VHOST, {"v": File.VHOST}, OFF)
    yield Refusal("helper=, vhostfd= of an unknown name", vhostfd, _NOT_FOUND, {}, ON)


def _helper(programs: Programs, *options: str) -> dict[str, object]:
    return {"helper": programs.helper("{tap}", *options)}


def helper_failures(programs: Programs) -> tuple[Refusal, ...]:
    """Helpers that fail. QEMU 10.0 and 10.2 leave something behind, whatever the netdev's ``cpr``.

    net_bridge_run_helper() keeps the descriptor of a helper that fails after it has sent one, and reads end of file as
    descriptor 0, which net_init_tap() then closes. The message is not checked: it may be about descriptor 0.
    """
    return (
        Refusal("helper= that fails after it has sent a tap", _helper(programs, "--status=1"), _HELPER_FAILED, {}, OFF),
        Refusal("helper= that sends nothing", _helper(programs, "--send=nothing"), _HELPER_FAILED, {}, OFF),
    )


def _with_name() -> Iterator[Refusal]:
    yield Refusal("vhostfds= without fds=", _NAMED | {"vhostfds": "v"}, "if fds= wasn't specified", {"v": File.VHOST})
    yield Refusal("vhostfd= without vhost", _NAMED | {"vhostfd": "v"}, NO_VHOST, {"v": File.VHOST}, OFF)
    yield Refusal("vhostfd= of an unknown name", _NAMED | {"vhostfd": "unknown"}, _NOT_FOUND, {}, ON)
    yield Refusal(
        "vhostfd= that is no vhost device", _NAMED | {"vhostfd": "v"}, "could not be initialized", {"v": File.NULL}, ON
    )
    yield Refusal(
        "one vhostfd= for two queues", _NAMED | {"queues": 2, "vhostfd": "v"}, _NOT_FOUND, {"v": File.VHOST}, ON
    )
    yield Refusal("ifname= of a bridge", {"ifname": "br0"} | _QUIET, _NOT_OPENED)
    yield Refusal("ifname= of a tap that is in use", {"ifname": "tap1"} | _QUIET, _NOT_OPENED)
    yield Refusal("queues= on a tap with one queue", {"ifname": "tap2", "queues": 2} | _QUIET, _NOT_OPENED)
    yield Refusal("more queues= than the kernel has", _NAMED | {"queues": TOO_MANY_QUEUES}, _NOT_OPENED, {}, OFF)
    yield Refusal("script= that fails", {"ifname": "{tap}", "script": "/bin/false", "downscript": "no"}, "failed with")
    missing: dict[str, object] = {"ifname": "{tap}", "script": "/nonexistent/script", "downscript": "no"}
    yield Refusal("script= that does not exist", missing, "failed with", {}, OFF)
    taken: dict[str, object] = {"id": "net0"}
    yield Refusal("id= of another netdev", _NAMED | taken, "uplicate", {}, BOTH)


def attempts(rows: Sequence[Refusal], first: int = 0) -> tuple[NetdevAttempt, ...]:
    """Every row with its values of vhost and cpr; where it has both of each, vhost=on only with cpr=on.

    :param first: number of the first, which names its tap and netdev.
    """
    each = [
        (row, vhost, cpr)
        for row in rows
        for vhost in row.vhost
        for cpr in row.cpr
        if cpr or not vhost or row.vhost == ON
    ]
    return tuple(NetdevAttempt(row, first + number, vhost, cpr) for number, (row, vhost, cpr) in enumerate(each))
