"""Executes a command as a container does by default: without capabilities, with the usual seccomp filter.

``python container.py COMMAND...``. The filter refuses what Docker's and Podman's default profiles refuse to a process
without CAP_SYS_ADMIN and that a lab might want: new namespaces, mounts, kcmp, another personality; clone3 is not known
to it, as in containers, so that the C library falls back to clone.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys

PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 22, 24, 38  # linux/prctl.h
LOAD, EQUAL, ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06  # linux/filter.h
ALLOW, REFUSE = 0x7FFF0000, 0x00050000  # linux/seccomp.h; the error is added
NEW_NAMESPACES = 0x7E020000  # CLONE_NEW* of linux/sched.h
CLONE, PERSONALITY, CLONE3 = 56, 135, 435  # arch/x86/entry/syscalls/syscall_64.tbl
PERSONALITIES = (0, 8, 0x20000, 0x20008, 0xFFFFFFFF)  # permitted calls
REFUSED = {
    "unshare": 272,
    "setns": 308,
    "mount": 165,
    "umount2": 166,
    "pivot_root": 155,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "mount_setattr": 442,
    "bpf": 321,
    "perf_event_open": 298,
    "userfaultfd": 323,
    "kcmp": 312,
    "keyctl": 250,
    "io_uring_setup": 425,
    "open_by_handle_at": 304,
    "chroot": 161,
}


def program() -> bytes:
    """The filter: struct sock_filter of linux/filter.h, in sequence."""
    steps = [(LOAD, 0, 0, 0)]
    for number in REFUSED.values():
        steps += [(EQUAL, 0, 1, number), (RETURN, 0, 0, REFUSE | errno.EPERM)]
    steps += [(EQUAL, 0, 1, CLONE3), (RETURN, 0, 0, REFUSE | errno.ENOSYS)]
    steps += [(EQUAL, 0, 3, CLONE), (LOAD, 0, 0, 16), (ANY_BIT, 0, 1, NEW_NAMESPACES)]
    steps += [(RETURN, 0, 0, REFUSE | errno.EPERM)]
    left = len(PERSONALITIES)
    steps += [(LOAD, 0, 0, 0), (EQUAL, 0, left + 2, PERSONALITY), (LOAD, 0, 0, 16)]
    steps += [(EQUAL, left - place, 0, value) for place, value in enumerate(PERSONALITIES)]
    steps += [(RETURN, 0, 0, REFUSE | errno.EPERM), (RETURN, 0, 0, ALLOW)]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def main() -> None:
    libc = ctypes.CDLL(None, use_errno=True)

    def check(result: int, what: str) -> None:
        if result < 0:
            raise OSError(ctypes.get_errno(), what)

    for capability in range(64):
        if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0:
            break  # past the last one, or not root
    header, nothing = struct.pack("=Ii", 0x20080522, 0), bytes(24)  # linux/capability.h, version 3
    check(libc.capset(header, nothing), "give up capabilities")
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "PR_SET_NO_NEW_PRIVS")
    code = program()
    steps = ctypes.create_string_buffer(code)
    length = struct.pack("@HP", len(code) // 8, ctypes.addressof(steps))
    check(libc.prctl(PR_SET_SECCOMP, 2, length, 0, 0), "PR_SET_SECCOMP")
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606


if __name__ == "__main__":
    main()
