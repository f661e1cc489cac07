"""What a guest boots from: kernel, initramfs, and the command line that configures it."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import mmap
import platform
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cprlib.linux.topology import Address

# cryptomgr.notests: self-tests of unused ciphers take more than a second under emulation.
# sysrq_always_enabled: the harness can let a guest with a silent agent show its blocked tasks.
# no5lvl: shorter page walks.
# noreplace-smp: a kernel with one processor rewrites its lock prefixes, and emulated code is translated again then.
# no_timer_check: under emulation the kernel's check of the timer interrupt can fail, and then the kernel panics.
# reboot=t, panic=-1: with -no-reboot a panic ends QEMU at once.
ALWAYS = (
    "console=ttyS0",
    "quiet",
    "reboot=t",
    "panic=-1",
    "no_timer_check",
    "random.trust_cpu=on",
    "sysrq_always_enabled",
    "mitigations=off",
    "audit=0",
    "selinux=0",
    "apparmor=0",
    "cryptomgr.notests",
    "no5lvl",
    "noreplace-smp",
    "lsm=capability",
    # self-tests, keys and devices that our guest does not use, each of them slow under emulation
    "initcall_blacklist=crypto_kdf108_init,jent_mod_init,init_encrypted,load_system_certificate_list,add_pcspkr",
)
BZ_IMAGE = "bzImage"  # beside the ELF kernel
WITHOUT_PVH = re.compile(r"pc-(i440fx|q35)-[0-3]\..*")  # pc_machine_3_1_options(), QEMU hw/i386/pc.c

READ_TSC = bytes.fromhex("0f31 48c1e220 4809d0 c3")  # rdtsc; shl rdx, 32; or rax, rdx; ret
TSC_MEASUREMENT_NS = 50_000_000  # with readings bracketed to 1 us that is 20 ppm
TSC_TRIES = 20  # readings at each end, of which the one with the shortest bracket counts


@dataclass(frozen=True, slots=True)
class GuestImage:
    """Kernel and initramfs of a guest.

    :param digest: names the content: equal digests boot the same bytes.
    """

    kernel: Path
    initramfs: Path
    digest: str

    def kernel_for(self, machine: str, *, suspends: bool = False) -> Path:
        """The kernel as this machine type starts it: old ones take a bzImage only, which unpacks itself.

        :param suspends: the guest can be woken from suspend to RAM. QEMU copies an ELF kernel to the guest's memory at
            each reset, also at that one, over what runs there (rom_reset(), hw/core/loader.c); a bzImage it does not.
        """
        packed = self.kernel.with_name(BZ_IMAGE)
        return packed if (suspends or WITHOUT_PVH.fullmatch(machine)) and packed.exists() else self.kernel


def kernel_command_line(ends: Sequence[Address], *, emulated: bool = True, queue_pairs: int | None = None) -> str:
    """The guest kernel's command line; images/guest/init reads the words that begin with ``cprlib.``.

    :param ends: addresses of eth0, eth1, ...
    :param emulated: QEMU runs with TCG; with KVM the guest uses KVM's clock.
    :param queue_pairs: to use on every NIC that has that many; None leaves it to the driver.
    """
    words = list(ALWAYS)
    if emulated:
        words.append("tsc=reliable")  # in a lab every other clock is much slower to read
        if rate := host_tsc_khz():
            words.append(f"tsc_early_khz={rate}")
    if ends:
        words.append(f"cprlib.ipv4={','.join(f'{end.ipv4}/24' for end in ends)}")
        words.append(f"cprlib.ipv6={','.join(f'{end.ipv6}/64' for end in ends)}")
    if queue_pairs is not None:
        words.append(f"cprlib.queue_pairs={queue_pairs}")
    return " ".join(words)


@functools.cache
def host_tsc_khz() -> int | None:
    """The rate of the host's TSC in kHz, measured once; None where there is no TSC or executable memory is forbidden.

    TCG hands the host's TSC to the guest (QEMU, system/cpu-timers.c, cpu_get_ticks). A guest that measures the rate
    itself compares it with emulated timers, and on a busy machine is wrong: guest clocks ran five times too fast.
    """
    if platform.machine() != "x86_64":
        return None
    with contextlib.suppress(OSError, ValueError), mmap.mmap(-1, mmap.PAGESIZE, prot=7) as code:
        code.write(READ_TSC)
        start = ctypes.c_char.from_buffer(code)
        function = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(start))
        try:
            return _measure_khz(function)
        finally:
            del start, function  # the mapping cannot be closed while something points into it
    return None


def _measure_khz(read_ticks: Callable[[], int]) -> int:
    first_ns, first_ticks = _read_tsc(read_ticks)
    time.sleep(TSC_MEASUREMENT_NS / 1e9)
    last_ns, last_ticks = _read_tsc(read_ticks)
    return round((last_ticks - first_ticks) * 1_000_000 / (last_ns - first_ns))


def _read_tsc(read_ticks: Callable[[], int]) -> tuple[int, int]:
    """Time and ticks of the reading with the shortest bracket."""
    readings = []
    for _ in range(TSC_TRIES):
        before = time.monotonic_ns()
        ticks = read_ticks()
        after = time.monotonic_ns()
        readings.append((after - before, (before + after) // 2, ticks))
    _, time_ns, ticks = min(readings)
    return time_ns, ticks
