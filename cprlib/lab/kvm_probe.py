"""Check that KVM runs a program, without QEMU.

This is a separate program (``python -I -S kvm_probe.py``), because a broken KVM may hang its caller. It creates a
virtual machine with one page of real-mode code that writes "!" to a port and halts. Standard output is ``ok`` or one
line of explanation. Interface: Linux, Documentation/virt/kvm/api.rst.

An ordinary kernel may still fail: a paravirtual KVM (on a host that is a guest without VMX or SVM) runs these five
instructions and then fails in the start-up code of a kernel.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import struct
import sys

KVM_GET_API_VERSION, KVM_CREATE_VM, KVM_GET_VCPU_MMAP_SIZE = 0xAE00, 0xAE01, 0xAE04
KVM_CREATE_VCPU, KVM_RUN = 0xAE41, 0xAE80
KVM_SET_USER_MEMORY_REGION = 0x4020AE46
KVM_GET_SREGS, KVM_SET_SREGS, KVM_SET_REGS = 0x8138AE83, 0x4138AE84, 0x4090AE82
SREGS_SIZE, REGS_SIZE = 312, 144
EXIT_IO, EXIT_HLT = 2, 5
CODE_ADDRESS = 0x1000
CODE = bytes.fromhex("ba f8 03 b0 21 ee f4")  # mov dx, 0x3f8; mov al, '!'; out dx, al; hlt


def probe(path: str = "/dev/kvm") -> str:
    """Run the program; returns ``"ok"`` or the failure."""
    kvm = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    version = fcntl.ioctl(kvm, KVM_GET_API_VERSION, 0)
    if version != 12:
        return f"its interface has version {version}, not 12"
    machine = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    memory[: len(CODE)] = CODE
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    region = struct.pack("=IIQQQ", 0, 0, CODE_ADDRESS, mmap.PAGESIZE, address)
    fcntl.ioctl(machine, KVM_SET_USER_MEMORY_REGION, region)
    vcpu = fcntl.ioctl(machine, KVM_CREATE_VCPU, 0)
    run = mmap.mmap(vcpu, fcntl.ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0))
    special = bytearray(fcntl.ioctl(vcpu, KVM_GET_SREGS, bytes(SREGS_SIZE)))
    struct.pack_into("=QIH", special, 0, 0, 0xFFFF, 0)  # cs: base, limit, selector
    fcntl.ioctl(vcpu, KVM_SET_SREGS, bytes(special))
    general = bytearray(REGS_SIZE)
    struct.pack_into("=QQ", general, 128, CODE_ADDRESS, 2)  # rip, rflags
    fcntl.ioctl(vcpu, KVM_SET_REGS, bytes(general))
    written = b""
    for _ in range(4):
        fcntl.ioctl(vcpu, KVM_RUN, 0)
        reason = struct.unpack_from("=I", run, 8)[0]
        if reason == EXIT_HLT:
            return "ok" if written == b"!" else f"its guest wrote {written!r} instead of '!'"
        if reason != EXIT_IO:
            return f"its guest stopped for reason {reason} (linux/kvm.h, KVM_EXIT_*)"
        offset = struct.unpack_from("=Q", run, 40)[0]
        written += run[offset : offset + 1]
    return "its guest does not halt"


if __name__ == "__main__":
    try:
        print(probe())
    except OSError as error:
        print(error.strerror)
    sys.stdout.flush()
    os._exit(0)  # an ordinary exit fails because the buffer is exported
