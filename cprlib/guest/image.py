"""What a guest boots from, and how it is told what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cprlib.errors import UsageError
from cprlib.guest.tsc import host_tsc_khz

# cryptomgr.notests: self-tests of ciphers nobody uses take a second and more under emulation.
# no5lvl: shorter page walks.
# no_timer_check: under emulation the kernel's check of the timer interrupt can fail, and then it panics.
# reboot=t, panic=-1: with -no-reboot a panic ends QEMU at once.
ALWAYS = (
    "console=ttyS0",
    "quiet",
    "reboot=t",
    "panic=-1",
    "no_timer_check",
    "random.trust_cpu=on",
    "mitigations=off",
    "audit=0",
    "selinux=0",
    "apparmor=0",
    "cryptomgr.notests",
    "no5lvl",
    "lsm=capability",
    # self-tests, keys and devices that a guest of ours has no use for, each dear under emulation
    "initcall_blacklist=crypto_kdf108_init,jent_mod_init,init_encrypted,load_system_certificate_list,add_pcspkr",
)
NONE = "-"


@dataclass(frozen=True, slots=True)
class GuestImage:
    """Kernel and initramfs of a guest.

    :param digest: names the content: equal digests boot the same bytes.
    """

    kernel: Path
    initramfs: Path
    digest: str


@dataclass(frozen=True, slots=True)
class NicAddresses:
    """Addresses of one guest NIC with prefix length, as ``10.75.0.2/24``; None for none.

    :param mtu: bytes; None leaves what the device says.
    """

    ipv4: str | None = None
    ipv6: str | None = None
    mtu: int | None = None


def kernel_command_line(
    nics: Sequence[NicAddresses],
    *,
    emulated: bool = True,
    queue_pairs: int | None = None,
    log_records: int | None = None,
    shell: bool = False,
    extra: Sequence[str] = (),
) -> str:
    """The guest kernel's command line; the words beginning with ``cprlib.`` are read by images/guest/init.

    :param nics: in the order of eth0, eth1, ...
    :param emulated: QEMU runs with TCG; with KVM the guest takes KVM's clock.
    :param queue_pairs: to use on every NIC that has so many; None leaves it to the driver.
    :param log_records: records (40 bytes of guest RAM each, taken as they are filled) of each of the agent's logs.
    :param shell: a shell on the console too.
    :raises UsageError: a word with a space or a comma in it, which would be read as two.
    """
    words = [*ALWAYS, *(_clock() if emulated else ())]
    lists = {
        "ipv4": [nic.ipv4 or NONE for nic in nics],
        "ipv6": [nic.ipv6 or NONE for nic in nics],
        "mtu": [str(nic.mtu or "") for nic in nics],
    }
    for name, values in lists.items():
        for value in values:
            if any(character.isspace() or character == "," for character in value):
                raise UsageError(f"give a guest {name} {value!r}", "there is a space or comma in it")
        if any(value not in ("", NONE) for value in values):
            words.append(f"cprlib.{name}={','.join(values)}")
    if queue_pairs is not None:
        words.append(f"cprlib.queue_pairs={queue_pairs}")
    if log_records is not None:
        words.append(f"cprlib.log={log_records}")
    if shell:
        words.append("cprlib.shell")
    return " ".join([*words, *extra])


def _clock() -> tuple[str, ...]:
    """The TSC, whose rate the guest is told: cprlib/guest/tsc.py. Other clocks are far dearer to read in a lab."""
    rate = host_tsc_khz()
    return ("tsc=reliable", *(() if rate is None else (f"tsc_early_khz={rate}",)))
