"""The state of a guest as its kernel and its NICs' driver see it, as a flat mapping from path to value.

What changes by itself is not read: counts of packets and interrupts, times, dynamic neighbours, free memory.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping

from cprlib.deadline import Deadline
from cprlib.errors import Awaited, InstrumentError
from cprlib.guest.agent import AgentConnection
from cprlib.guest.console import STARVED
from cprlib.guest.files import LONGEST_FILE, GuestFile
from cprlib.guest.replies import NicInfo

VIRTIO = "/sys/bus/virtio/devices/"
PCI = "/sys/bus/pci/devices/"
NET = "/sys/class/net/"
CLOCKSOURCE = "/sys/devices/system/clocksource/clocksource0/"
REGISTERS = {
    0x1B: "APIC_BASE", 0x3A: "FEATURE_CONTROL", 0x3B: "TSC_ADJUST", 0x10A: "ARCH_CAPABILITIES", 0x122: "TSX_CTRL",
    0x174: "SYSENTER_CS", 0x175: "SYSENTER_ESP", 0x176: "SYSENTER_EIP",
    0x179: "MCG_CAP", 0x17A: "MCG_STATUS", 0x17B: "MCG_CTL", 0x400: "MC0_CTL", 0x404: "MC1_CTL",
    0x1A0: "MISC_ENABLE", 0x1D9: "DEBUGCTL", 0x277: "PAT", 0xDA0: "XSS",
    **{0x200 + number: f"MTRR_PHYS_{'MASK' if number % 2 else 'BASE'}{number // 2}" for number in range(16)},
    0x250: "MTRR_FIX_64K", 0x258: "MTRR_FIX_16K_80000", 0x259: "MTRR_FIX_16K_A0000",
    **{0x268 + number: f"MTRR_FIX_4K_{0xC0 + 8 * number:X}000" for number in range(8)}, 0x2FF: "MTRR_DEF_TYPE",
    0xC0000080: "EFER", 0xC0000081: "STAR", 0xC0000082: "LSTAR", 0xC0000083: "CSTAR", 0xC0000084: "SYSCALL_MASK",
    0xC0000103: "TSC_AUX",
}  # fmt: skip
"""Model-specific registers of a vCPU that a running kernel leaves as they are (arch/x86/include/asm/msr-index.h)."""

PATTERNS = (  # in one request, since no stream is measured meanwhile: the agent's reflector waits during a request
    f"{VIRTIO}*/{{device,vendor,features,status}}",
    f"{PCI}*/{{config,resource,irq,msi_irqs/*}}",
    f"{NET}[!l]*/*",  # all but lo
    "/sys/class/virtio-ports/*/name",
    "/proc/irq/*/{smp,effective}_affinity_list",
    "/proc/{interrupts,timer_list,cpuinfo,meminfo}",
    "/proc/net/{fib_trie,route,if_inet6,ipv6_route,arp,dev_mcast,vlan/config}",
    "/proc/sys/kernel/{tainted,random/boot_id}",
    "/sys/devices/system/cpu/{online,present,possible}",
    f"/dev/cpu/*/msr@{','.join(f'{address:x}' for address in REGISTERS)}",
    f"{CLOCKSOURCE}{{current,available}}_clocksource",
    "/dev/kmsg",
)
SETTLING = (f"{NET}[!l]*/{{carrier,mtu}}", "/proc/net/if_inet6", f"{CLOCKSOURCE}current_clocksource")
"""Files that show whether the guest has settled."""
ERRORS = ("crc", "error", "fifo", "frame", "over", "timeout", "aborted", "heartbeat", "window", "xdp", "nohandler")
NIC_SUBJECTS = re.compile(r"virtio|net|eth\d|clock|tsc|timer|time|irq|pci|hpet|rtc|lockup|stall|hung|bug|oops", re.I)
LONGEST_RECORD = 8192  # bytes of a message, CONSOLE_EXT_LOG_MAX of Linux: with less room the agent reads no further
WARNING = 4  # include/linux/kern_levels.h
REPORT_US = 1_000_000  # messages so soon after a lockup are its report
TAINT_SOFTLOCKUP = 1 << 14  # Linux, Documentation/admin-guide/tainted-kernels.rst
PERMANENT = 0x4  # linux/if_arp.h ATF_PERM
IRQ_ERRORS = ("ERR", "MIS", "SPU", "NMI", "MCE", "THR", "DFR", "TRM")  # arch/x86/kernel/irq.c
NUMBER = re.compile(r"\b0x[0-9a-f]+\b|\b[0-9a-f]{4,}\b|\d+", re.I)
TIMER_FACTS = re.compile(
    r"\s*(?P<clock>clock \d+):|\s*\.offset:\s+(?P<offset>\d+)|Clock Event Device:\s*(?P<device>\S+)"
    r"|\s*(?P<fact>mult|shift|event_handler):\s+(?P<value>.*)"
)
IPV6_MTU = 1280  # RFC 8200; with less an interface has no IPv6 address
SETTLE_S, POLL_S, ALL_S = 6.0, 0.1, 30.0
IF_INET6 = "/proc/net/if_inet6"
TENTATIVE = 0x40  # linux/if_addr.h IFA_F_TENTATIVE


def read_guest_state(agent: AgentConnection) -> Mapping[str, str]:
    """Read the state of a guest.

    :raises GuestFailed, DeadlineExceeded: the guest died or does not answer.
    :raises InstrumentError: invalid answer.
    """
    try:
        files = _settled_files(agent)
        values: dict[str, str] = {}
        for nic in agent.network().nics:
            values |= {f"nic/{nic.name}/{name}": value for name, value in _nic(nic)}
        for path, file in files.items():
            values.update(_file(path, file))
    except ValueError as error:  # a guest may write anything where a number belongs
        raise InstrumentError("read the guest's state", str(error)) from error
    return values


def _settled_files(agent: AgentConnection) -> Mapping[str, GuestFile]:
    """The files of :data:`PATTERNS` when the guest has settled, or its time for that is over."""
    files = agent.files(PATTERNS)
    if _settled(files):
        return files
    settling = Deadline(SETTLE_S, "the guest's addresses and clock to settle", Awaited.GUEST)

    def settled() -> bool:
        return settling.expired or _settled(agent.files(SETTLING))

    Deadline(ALL_S, settling.purpose, Awaited.GUEST).poll(settled, POLL_S)
    return agent.files(PATTERNS)


def _settled(files: Mapping[str, GuestFile]) -> bool:
    return _addresses_settled(files) and _clock_settled(files)


def _clock_settled(files: Mapping[str, GuestFile]) -> bool:
    """Whether the kernel has calibrated the TSC, one to two seconds after boot (arch/x86/kernel/tsc.c)."""
    clock = files.get(f"{CLOCKSOURCE}current_clocksource")
    return clock is None or clock.text.strip() != "tsc-early"


def _addresses_settled(files: Mapping[str, GuestFile]) -> bool:
    """Whether each NIC with a link has its link-local address; the kernel adds it up to a second after the link is up.

    It also joins multicast groups then, which changes the NIC's filters.
    """

    def number(path: str) -> int:
        text = files[path].text if path in files else ""
        return int(text, 0) if re.fullmatch(r"\d+|0x[0-9a-f]+", text) else 0

    nics = [path.split("/")[4] for path in files if path.startswith(NET) and path.endswith("/carrier")]
    linked = {nic for nic in nics if number(f"{NET}{nic}/carrier") and number(f"{NET}{nic}/mtu") >= IPV6_MTU}
    lines = files[IF_INET6].text.splitlines() if IF_INET6 in files else []
    words = [line.split() for line in lines]
    ready = {
        item[5]
        for item in words
        if len(item) == 6
        and item[0].startswith("fe80")
        and re.fullmatch(r"[0-9a-f]{2}", item[4])
        and not int(item[4], 16) & TENTATIVE
    }
    return linked <= ready


def _nic(nic: NicInfo) -> Iterator[tuple[str, str]]:
    """Settings and features that ethtool shows, and counters of errors."""
    yield from ((f"features/{name}", value) for name, value in nic.features.items())
    yield from ((f"settings/{name}", str(value)) for name, value in nic.settings.items())
    yield "rss", nic.rss
    yield "driver", nic.driver
    yield "permanent-mac", nic.permanent_mac
    yield "statistics", " ".join(nic.statistics)
    counters = {**nic.counters, **{f"ethtool-{name}": value for name, value in nic.statistics.items()}}
    yield from (
        (f"errors/{name}", str(value)) for name, value in counters.items() if any(word in name for word in ERRORS)
    )


def _file(path: str, file: GuestFile) -> Iterator[tuple[str, str]]:
    name = path.removeprefix("/")
    match name.split("/"):
        case [*_, "config"]:
            yield from (
                (f"{name}/{offset:03x}", file.content[offset : offset + 4].hex(" "))
                for offset in range(0, len(file.content), 4)
            )
        case ["proc", "interrupts"]:
            yield from _interrupts(file.text)
        case ["proc", "meminfo"]:
            total = total_memory_kib(file)
            yield "memory-kib", "unknown" if total is None else str(total)
        case ["proc", "timer_list"]:
            yield from _timers(file.text)
        case ["proc", "net", "arp"]:
            yield from _static_neighbours(file.text)
        case ["proc", "net", "ipv6_route"]:
            for line in file.text.splitlines():
                words = line.split()
                del words[6:8]  # references and uses
                yield f"{name}/{words[0]}/{words[1]}/{words[-1]}" if len(words) > 1 else name, " ".join(words)
        case ["dev", "cpu", number, register]:
            value = file.text if file.error else f"{int.from_bytes(file.content, 'little'):#x}"
            yield f"msr/{number}/{REGISTERS.get(int(register.partition('@')[2], 16), register)}", value
        case ["dev", "kmsg"]:
            yield from _messages(file)
        case [*_, "tainted"] if file.text.strip().isdecimal():
            yield f"{name}/0", str(int(file.text) & ~TAINT_SOFTLOCKUP)
        case ["proc", *_]:
            yield from ((f"{name}/{number}", line) for number, line in enumerate(file.text.splitlines()))
        case _:
            yield name, file.text


def total_memory_kib(file: GuestFile) -> int | None:
    """MemTotal of /proc/meminfo (proc_meminfo(5)); None when the file does not have it."""
    found = re.search(r"^MemTotal:\s+(\d{1,15}) kB$", file.text, re.M)
    return int(found[1]) if found else None


def _interrupts(text: str) -> Iterator[tuple[str, str]]:
    """Controller, vector and names of each interrupt; counts only of errors."""
    lines = text.splitlines()
    processors = len(lines[0].split()) if lines else 0
    for line in lines[1:]:
        number, _, rest = line.partition(":")
        words = rest.split()
        if number.strip().isdecimal():
            yield f"interrupts/{number.strip()}", " ".join(words[processors:])
        elif number.strip() in IRQ_ERRORS:
            yield f"interrupts/{number.strip()}", " ".join(word for word in words[:processors] if word.isdecimal())


def _timers(text: str) -> Iterator[tuple[str, str]]:
    """Offsets of the clocks to CLOCK_MONOTONIC, which a step of a clock changes, and the devices of the timers."""
    clock = device = ""
    for line in text.splitlines():
        if not (found := TIMER_FACTS.match(line)):
            continue
        if found["clock"]:
            clock = found["clock"]
        elif found["offset"]:
            yield f"clocks/{clock}/offset-ns", found["offset"]
        elif found["device"]:
            device = found["device"]
        else:
            yield f"clocks/{device}/{found['fact']}", found["value"]


def _static_neighbours(text: str) -> Iterator[tuple[str, str]]:
    """Permanent entries of the ARP table; dynamic ones come and go with the traffic."""
    for line in text.splitlines()[1:]:
        words = line.split()
        if len(words) == 6 and words[2].startswith("0x") and int(words[2], 16) & PERMANENT:
            yield f"neighbours/{words[0]}", f"{words[3]} {words[5]}"


def _messages(log: GuestFile) -> Iterator[tuple[str, str]]:
    """Warnings of the kernel, and its messages about NICs, clocks and interrupts: their number, and the last one.

    The path is the message without its numbers. A processor that got no time is a check of its own
    (:func:`cprlib.evidence.guest_checks.starvation_checks`). Format: Linux, Documentation/ABI/testing/dev-kmsg.
    """
    if len(log.content) > LONGEST_FILE - LONGEST_RECORD:
        raise InstrumentError("read the guest's state", "its kernel's log is too long: its newest messages are lost")
    counts: Counter[str] = Counter()
    starved_us = -REPORT_US
    for line in log.text.splitlines():
        head, _, message = line.partition(";")
        words = head.split(",")
        level = int(words[0]) & 7 if words[0].isdecimal() else None
        time_us = int(words[2]) if len(words) > 2 and words[2].isdecimal() else 0
        if STARVED.search(message):
            starved_us = time_us
        if 0 <= time_us - starved_us < REPORT_US:
            continue
        if len(words) < 4 or level is None or (level > WARNING and not NIC_SUBJECTS.search(message)):
            continue
        path = f"kernel/{NUMBER.sub('#', message)}"
        counts[path] += 1
        yield path, f"{counts[path]}: {message}"
