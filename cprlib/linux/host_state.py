"""All state of the host's side that an update must not change, as flat mappings from path to value.

Of QEMU's process: what procfs shows. Descriptors, threads and mappings are counted by what they are: their numbers
differ between two processes. Of the network: links with all their attributes, queueing disciplines and forwarding
entries by netlink; offloads and tap queues by ioctl; errors that the network stacks count. Counters of packets are left
out: they change with traffic. The memory that QEMU shares is read apart, for a guest that does not run.
"""

from __future__ import annotations

import errno
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cprlib.errors import InstrumentError
from cprlib.linux.counters import read_stack_counters
from cprlib.linux.descriptors import Descriptor, read_table
from cprlib.linux.namespace import NetworkNamespace
from cprlib.linux.procfs import read_text, status_fields
from cprlib.linux.tap import TapQueue, offload_bits

Values = dict[str, str]

STATUS = (  # proc_pid_status(5)
    "Umask", "Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp", "Seccomp_filters", "CoreDumping", "THP_enabled",
    "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "SigIgn", "SigCgt", "TracerPid", "VmLck", "VmPin",
    "HugetlbPages", "Speculation_Store_Bypass", "Mems_allowed_list",
)  # fmt: skip
THREAD_STATUS = ("SigBlk", "Cpus_allowed_list", "NoNewPrivs", "Seccomp", "CapEff", "CapPrm")
FILES = ("oom_score_adj", "personality", "coredump_filter", "cgroup", "timerslack_ns", "setgroups")
LINKS = ("cwd", "root", "exe", "ns/net", "ns/mnt", "ns/user", "ns/pid", "ns/ipc", "ns/uts")
SHARED_PATHS = re.compile(r"/memfd:|/dev/(?!zero)")  # of mappings that two QEMUs may share
ADVICE = frozenset(("dd", "dc", "lo", "mg", "hg", "nh", "wf", "um", "uw"))  # VmFlags by madvise(2), mlock(2): smaps

TIMES_AND_COUNTERS = re.compile(r"STATS|CACHEINFO|_TIMER$|_AGE$")  # of attributes; errors are read apart
LINK_ERRORS = re.compile(r"errors$")
STACK_ERRORS = re.compile(r"CsumErrors$|InHdrErrors$|InTruncatedPkts$|InErrs$")  # a packet that arrived damaged
CHUNK = 1 << 20  # bytes of memory that are read at once
PAGE = 4096  # bytes with one checksum
HEADER_MEMBERS = ("family", "ifi_type", "flags", "handle", "parent", "state", "prefixlen", "scope")


def read_process_state(pid: int, *names: str) -> Values:
    """The state of a process.

    :param names: the QEMU's names; in file names they are replaced, since source and target have files of their own.
    :raises InstrumentError: the process is gone, or the caller may not read it.
    """
    folder = Path(f"/proc/{pid}")
    try:
        values = {f"status/{item}": text for item, text in status_fields(folder, STATUS)}
        if locked := values.get("status/VmLck"):  # of all memory, or none; a zombie has no such line
            values["status/VmLck"] = "none" if locked == "0 kB" else "locked"
        values |= {f"limits/{line[:26].strip()}": " ".join(line[26:].split()[:2]) for line in _lines(folder / "limits")}
        values |= {item: text for item in FILES if (text := read_text(folder / item).strip())}
        values |= {item: os.readlink(folder / item) for item in LINKS}
        counted: Counter[str] = Counter()
        for row in read_table(pid).rows:
            what = _what(row, names)
            counted[f"descriptors/{what}/{row.flags & ~os.O_CLOEXEC:o}"] += 1
            counted[f"descriptors/{what}/close-on-exec"] += bool(row.flags & os.O_CLOEXEC)
        counted.update(f"mappings/{item}" for item in _mappings(folder / "smaps"))
        counted.update(f"children/{item}" for item in _children(folder))
        values |= {path: str(count) for path, count in counted.items()}
        return values | _threads(folder)
    except OSError as error:
        raise InstrumentError(f"read the state of process {pid}", str(error)) from error


def read_memory(pid: int) -> Values:
    """Checksums of the memory that a process shares by memfds, as guest RAM, of each page that is not empty.

    By the memfd's name, and a number when a process has several of that name. An ordinary migration shares guest RAM
    only: its target has memfds of its own for firmware and ROMs.

    :raises OSError: the process is gone, or the caller may not read it.
    """
    values: Values = {}
    memory = {row.inode: row for row in read_table(pid).guest_memory}
    named: Counter[str] = Counter()
    for row in (memory[inode] for inode in sorted(memory)):
        name = row.link.removeprefix("/memfd:").removesuffix(" (deleted)")
        named[name] += 1
        with open(f"/proc/{pid}/fd/{row.number}", "rb", buffering=0) as file:
            for start, page in _pages(file.fileno()):
                if page.strip(b"\0"):
                    values[f"{name} {named[name]}/page {start:#x}"] = f"{zlib.crc32(page):08x}"
    return values


def _pages(number: int) -> Iterator[tuple[int, bytes]]:
    """The pages of a file that has data there, each with its offset."""
    for start in _chunks(number):
        data = os.pread(number, CHUNK, start)
        for at in range(0, len(data), PAGE):
            yield start + at, data[at : at + PAGE]


def _chunks(number: int) -> Iterator[int]:
    """Where the chunks of a file begin that have data; holes are not read."""
    size = os.fstat(number).st_size
    start = 0
    while start < size:
        try:
            start = os.lseek(number, start, os.SEEK_DATA) // CHUNK * CHUNK
        except OSError as error:
            if error.errno == errno.ENXIO:  # there is only a hole
                return
            raise
        yield start
        start += CHUNK


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines()[1:]


def _what(row: Descriptor, names: Iterable[str]) -> str:
    """Kind and interface of a descriptor, or the name of its file: ``tap tap0``, ``eventfd``."""
    if row.kind in ("file", "memfd"):
        file = os.path.basename(row.link)
        return next((file.replace(f"-{name}.", "-QEMU.") for name in names if f"-{name}." in file), file)
    return f"{row.kind} {row.interface}" if row.interface else row.kind


def _mappings(path: Path) -> Iterator[str]:
    """Memory that is backed by a shared file or a device: its name, size, rights, and what the kernel was advised."""
    shared = ""
    for line in read_text(path).splitlines():
        words = line.split(maxsplit=5)
        if "-" in words[0]:
            first, last = (int(item, 16) for item in words[0].split("-"))
            file = words[5] if len(words) > 5 and SHARED_PATHS.match(words[5]) else ""
            shared = file and f"{file.replace('/', '|')}/{(last - first) >> 10} KiB {words[1]}"
        elif shared and words[0] == "VmFlags:":
            yield " ".join([shared, *sorted(ADVICE.intersection(line.split()))])


def _children(folder: Path) -> Iterator[str]:
    """Name and state of each child process (proc_pid_task_tid_children(5)); a zombie has state Z."""
    for task in sorted((folder / "task").glob("*/children")):
        for child in read_text(task).split():
            try:
                fields = dict(status_fields(Path(f"/proc/{child}"), ("Name", "State")))
            except OSError:
                continue  # it has just ended
            yield f"{fields['Name'].replace('/', '|')}/{fields['State'][:1]}"


def _threads(folder: Path) -> Values:
    """The number of threads with the same name, signal mask, rights and scheduling.

    The name of a vhost worker has the owner's process id (drivers/vhost/vhost.c).
    """
    counted: Counter[str] = Counter()
    for task in (folder / "task").iterdir():
        try:
            name = re.sub(r"^vhost-\d+$", "vhost", (task / "comm").read_text(errors="replace").strip())
            number = int(task.name)
            scheduler = f"{os.sched_getscheduler(number)} {os.sched_getparam(number).sched_priority}"
            nice = os.getpriority(os.PRIO_PROCESS, number)
            state = [f"{item} {text}" for item, text in status_fields(task, THREAD_STATUS)]
        except OSError:
            continue  # it has just ended
        counted[f"threads/{name.replace('/', '|')}/{', '.join([*state, f'scheduler {scheduler} nice {nice}'])}"] += 1
    return {path: str(count) for path, count in counted.items()}


def read_network_state(switch: NetworkNamespace, station: NetworkNamespace, taps: Iterable[str]) -> Values:
    """State of a switch's links, and the errors that switch and station have counted.

    :param taps: interfaces whose offloads are read; for one that is gone they are ``refused: ENODEV``.
    :raises InstrumentError, OSError: the kernel does not report it.
    """
    netlink = switch.netlink
    names: dict[int, str] = {}
    values: Values = {}
    for message in netlink.get_links():
        name = names[int(message["index"])] = str(message.get_attr("IFLA_IFNAME"))
        values |= {f"link/{name}/{path}": value for path, value in _message(message)}
        errors = message.get_attr("IFLA_STATS64") or {}
        values |= {f"errors/{name}/{item}": str(errors[item]) for item in errors if LINK_ERRORS.search(item)}
    for message in netlink.get_qdiscs():
        prefix = f"qdisc/{names.get(message['index'])}/{message['parent']:x}"
        values |= {f"{prefix}/{path}": value for path, value in _message(message)}
    for message in netlink.fdb("dump"):
        entry = f"fdb/{names.get(message['ifindex'])}/{message.get_attr('NDA_LLADDR')}"
        values[f"{entry}/{message.get_attr('NDA_VLAN') or 0}"] = (
            f"state {message['state']:#x} flags {message['flags']:#x}"
        )
    for message in netlink.get_addr():
        values[f"address/{names.get(message['index'])}/{message.get_attr('IFA_ADDRESS')}"] = str(message["prefixlen"])
    for tap in taps:
        try:
            values[f"offloads/{tap}"] = offload_bits(switch, tap)
        except OSError as error:
            values[f"offloads/{tap}"] = f"refused: {errno.errorcode.get(error.errno or 0, error)}"
    return values | _stack_errors(switch) | _stack_errors(station)


def tap_queue_values(queues: Iterable[TapQueue]) -> Values:
    """The kernel's state of the tap queues that a process has open, with the number of queues in each state.

    The order of their descriptors does not matter: a guest cannot see it.
    """
    counted = Counter(
        f"queues/{queue.interface}/{name}: {value}" for queue in queues for name, value in queue.facts().items()
    )
    return {path: str(count) for path, count in counted.items()}


def _message(message: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The members of a netlink message that are neither counters nor times."""
    for member in HEADER_MEMBERS:
        if isinstance(message.get(member), int):
            yield member, str(message[member])
    yield from _attributes(message, "")


def _attributes(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and "attrs" in value:
        for name, item in value["attrs"]:
            if name != "UNKNOWN" and not TIMES_AND_COUNTERS.search(name):
                yield from _attributes(item, f"{path}/{name}" if path else name)
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _attributes(item, f"{path}/{name}")
    else:
        yield path, str(value)


def _stack_errors(namespace: NetworkNamespace) -> Values:
    """Damaged packets that the IP stack of a namespace has counted (/proc/net/snmp, snmp6)."""
    return {
        f"errors/{namespace.name}/{name.replace('.', '')}": str(count)
        for name, count in read_stack_counters(namespace).items()
        if STACK_ERRORS.search(name)
    }
