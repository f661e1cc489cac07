"""Starts a user-mode Linux that cannot write the host and leaves no process or file behind.

This is a separate program, ``python -I -S confine.py SPEC``, because it changes its own process. It needs the standard
library only. Layers, each used where the host allows it:

* a PID namespace, so that all processes of the lab end with the kernel, and a network namespace without interfaces
  (for root, or where user namespaces are allowed);
* a read-only clone of the mounts of the host as the root of the process: detached mounts (open_tree, fsmount), which
  also work in a plain chroot and cannot leak;
* no capabilities but those over files: with more, root inside could reach mounts of the host through /proc/PID/root
  of another process;
* Landlock: writing only below the given folders (Linux 5.13), and in the results folder only files and folders:
  a program of the host would follow a link that the lab made there;
* a filter of system calls (x86-64) for what these leave: without a read-only clone, chmod, chown and similar calls do
  nothing, and truncate(2) is refused where Landlock does not cover it (before Linux 6.2); without Landlock, links and
  pipes are refused.

SPEC is JSON, see :class:`Spec`. The report, one JSON object with the layers in force or ``error``, is written to
descriptor ``report``.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import resource
import select
import signal
import struct
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any, TypedDict

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
NAMESPACES = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 22, 24, 38  # linux/prctl.h
CAPABILITY_VERSION = 0x20080522  # linux/capability.h: three sets of 32 bits, twice
KEPT_CAPABILITIES = range(5)  # linux/capability.h: CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID
# The same numbers on every architecture (asm-generic/unistd.h).
SYS_OPEN_TREE, SYS_FSOPEN, SYS_FSCONFIG, SYS_FSMOUNT, SYS_MOUNT_SETATTR = 428, 430, 431, 432, 442
SYS_LANDLOCK_CREATE_RULESET, SYS_LANDLOCK_ADD_RULE, SYS_LANDLOCK_RESTRICT_SELF = 444, 445, 446
AT_FDCWD, AT_EMPTY_PATH, AT_RECURSIVE, OPEN_TREE_CLONE = -100, 0x1000, 0x8000, 1
MOUNT_ATTR_RDONLY = 1
FSCONFIG_SET_STRING, FSCONFIG_CMD_CREATE = 1, 6
# linux/landlock.h: rights to change files, by the version of the interface that added them.
WRITE_RIGHTS = {1: 0b1_1111_1111_0010, 2: 1 << 13, 3: 1 << 14, 5: 1 << 15}
MAKE_DEVICE_RIGHTS = 1 << 6 | 1 << 11
MAKE_SPECIAL_RIGHTS = 1 << 9 | 1 << 10 | 1 << 12  # sockets, pipes, symbolic links
TRUNCATE_VERSION = 3  # the first version that covers truncate(2)
FILE_RIGHTS = 1 << 1 | 1 << 14
TCP_RIGHTS, SCOPES = 0b11, 0b11
# arch/x86/entry/syscalls/syscall_64.tbl
METADATA_CALLS = (90, 91, 92, 93, 94, 132, 188, 189, 190, 197, 198, 199, 235, 260, 261, 268, 280, 452, 463, 466)
TRUNCATE_CALLS = (76,)
SPECIAL_FILE_CALLS = (88, 133, 259, 266)  # symlink, mknod, mknodat, symlinkat
SIGNALLED = 128  # added to the number of a signal, as in shells


class Spec(TypedDict):
    """The one argument, as JSON.

    ``argv``: the kernel and its arguments. ``folders``: writable host paths, each opened as the descriptor of the same
    index in ``folder_fds``. ``memory``: MiB; the folder of the memory file is opened as ``memory_fd``.
    ``places``: folders to try for the memory file where no tmpfs can be mounted. ``cpu``: core or None.
    ``report``: descriptor for the report. ``keep``: descriptors that the kernel needs.
    """

    argv: list[str]
    folders: list[str]
    folder_fds: list[int]
    memory: int
    memory_fd: int
    places: list[str]
    cpu: int | None
    report: int
    keep: list[int]
    layers: list[str]


libc = ctypes.CDLL(None, use_errno=True)


def call(function: Callable[..., int], *arguments: Any) -> int:
    """Call a function of libc with integers as long; a negative result raises OSError."""
    result = function(*[ctypes.c_long(value) if isinstance(value, int) else value for value in arguments])
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def unshare(spec: Spec) -> str:
    """Leave PID, network and mount namespaces of the host.

    :returns: why that is not allowed; empty when it is done.
    """
    if "namespaces" not in spec["layers"]:
        return "switched off by the caller"
    try:
        call(libc.unshare, NAMESPACES)
    except OSError:
        refused = try_user_namespace()
        if refused:
            return refused
        enter_user_namespace()
    return ""


def enter_user_namespace() -> None:
    """Leave the namespaces of the host as a user without rights; raises OSError."""
    user, group = os.geteuid(), os.getegid()
    call(libc.unshare, NAMESPACES | CLONE_NEWUSER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as stream:
            stream.write(text)


def try_user_namespace() -> str:
    """Why :func:`enter_user_namespace` fails, tried by a child; empty when it does not.

    There is no way back from a user namespace without a uid_map, and AppArmor lets unshare(2) succeed and refuses the
    write to uid_map (Ubuntu 24.04, kernel.apparmor_restrict_unprivileged_userns).
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            enter_user_namespace()
        except OSError as error:
            os.write(writer, f"{error.filename or 'unshare'}: {error.strerror}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, encoding="utf-8") as stream:
        refused = stream.read()
    os.waitpid(child, 0)
    return refused


def clone_tree(path: str) -> int:
    return call(libc.syscall, SYS_OPEN_TREE, AT_FDCWD, os.fsencode(path), OPEN_TREE_CLONE | AT_RECURSIVE)


def read_only_root() -> int:
    tree = clone_tree("/")
    attributes = struct.pack("=QQQQ", MOUNT_ATTR_RDONLY, 0, 0, 0)
    flags = AT_EMPTY_PATH | AT_RECURSIVE
    call(libc.syscall, SYS_MOUNT_SETATTR, tree, b"", flags, attributes, len(attributes))
    return tree


def detached_tmpfs(mebibytes: int) -> int:
    """A detached tmpfs, which ends with its last descriptor and does not depend on the size of /dev/shm."""
    context = call(libc.syscall, SYS_FSOPEN, b"tmpfs", 0)
    call(libc.syscall, SYS_FSCONFIG, context, FSCONFIG_SET_STRING, b"size", b"%dM" % mebibytes, 0)
    call(libc.syscall, SYS_FSCONFIG, context, FSCONFIG_CMD_CREATE, None, None, 0)
    mount = call(libc.syscall, SYS_FSMOUNT, context, 0, 0)
    os.close(context)
    return mount


def folder_in(places: list[str], mebibytes: int) -> tuple[int, str, str]:
    """A private folder for the memory file, without a name where the file system supports that.

    :returns: descriptor, place, and the name of the folder if it has one (the caller removes it).
    :raises OSError: no place has enough room; lists the reasons.
    """
    refused = []
    for place in places:
        try:
            state = os.statvfs(place)
            free = state.f_bavail * state.f_frsize >> 20
            if free < mebibytes:
                refused.append(f"{place} has {free} MiB free, {mebibytes} are needed")
                continue
            if state.f_flag & os.ST_NOEXEC:
                refused.append(f"{place} is mounted noexec")
                continue
            return _private_folder(place)
        except OSError as error:
            refused.append(f"{place}: {error.strerror}")
    raise OSError(errno.ENOSPC, f"no place for the lab's memory: {'; '.join(refused)}")


def _private_folder(place: str) -> tuple[int, str, str]:
    """On tmpfs, a file without a name can be created in a removed folder; on ext4 it cannot."""
    name = tempfile.mkdtemp(prefix="cprlib-lab-", dir=place)
    folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY)
    os.rmdir(name)
    try:
        os.close(os.open(f"/proc/self/fd/{folder}", os.O_RDWR | os.O_TMPFILE | os.O_EXCL, 0o600))
    except OSError:
        os.close(folder)
        name = tempfile.mkdtemp(prefix="cprlib-lab-", dir=place)
        return os.open(name, os.O_RDONLY | os.O_DIRECTORY), place, name
    return folder, place, ""


def landlock(memory: int, folders: list[int]) -> int:
    """Forbid writing except below the given folders and to /dev/null; returns the version, 0 for none.

    :param memory: the kernel's own folder, in which it makes a socket.
    """
    try:
        version = call(libc.syscall, SYS_LANDLOCK_CREATE_RULESET, None, 0, 1)
    except OSError:
        return 0
    handled = sum(rights for since, rights in WRITE_RIGHTS.items() if since <= version)
    attributes = struct.pack("=QQQ", handled, TCP_RIGHTS if version >= 4 else 0, SCOPES if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = call(libc.syscall, SYS_LANDLOCK_CREATE_RULESET, attributes, size, 0)
    rules = [(memory, handled & ~MAKE_DEVICE_RIGHTS)]
    rules += [(folder, handled & ~(MAKE_DEVICE_RIGHTS | MAKE_SPECIAL_RIGHTS)) for folder in folders]
    if os.path.exists("/dev/null"):
        rules.append((os.open("/dev/null", os.O_PATH | os.O_CLOEXEC), handled & FILE_RIGHTS))
    for descriptor, rights in rules:
        call(libc.syscall, SYS_LANDLOCK_ADD_RULE, ruleset, 1, struct.pack("=Qi", rights, descriptor), 0)
    call(libc.prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    call(libc.syscall, SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)
    return version


def filter_calls(ignored: Sequence[int], refused: Sequence[int]) -> bool:
    """Make system calls succeed without effect, and others fail with EPERM; False where it cannot (x86-64 only)."""
    if platform.machine() != "x86_64":
        return False
    load, equal, give = 0x20, 0x15, 0x06
    allow, error = 0x7FFF0000, 0x00050000  # linux/seccomp.h; the error's number is added, 0 for success
    program = [struct.pack("=HBBI", load, 0, 0, 4), struct.pack("=HBBI", equal, 1, 0, 0xC000003E)]
    program += [struct.pack("=HBBI", give, 0, 0, allow), struct.pack("=HBBI", load, 0, 0, 0)]
    for number in (*ignored, *refused):
        program += [struct.pack("=HBBI", equal, 0, 1, number)]
        program += [struct.pack("=HBBI", give, 0, 0, error if number in ignored else error | errno.EPERM)]
    program += [struct.pack("=HBBI", give, 0, 0, allow)]
    code = ctypes.create_string_buffer(b"".join(program))
    header = struct.pack("@HP", len(program), ctypes.addressof(code))
    call(libc.prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    call(libc.prctl, PR_SET_SECCOMP, 2, header, 0, 0)
    return True


def drop_capabilities() -> None:
    """Limit the capabilities after exec to those over files, for root too.

    Inheritable ones, which some containers give to root, are not limited by the bounding set.
    """
    header, sets = struct.pack("=Ii", CAPABILITY_VERSION, 0), ctypes.create_string_buffer(24)
    call(libc.capget, header, sets)
    effective, permitted, _, effective_high, permitted_high, _ = struct.unpack("=6I", sets.raw)
    call(libc.capset, header, struct.pack("=6I", effective, permitted, 0, effective_high, permitted_high, 0))
    for capability in range(64):
        if capability not in KEPT_CAPABILITIES and libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0:
            break  # past the last one, or not root


def move(descriptor: int, number: int) -> int:
    """Move a descriptor to a number, inheritable for the kernel."""
    os.dup2(descriptor, number)
    if descriptor != number:
        os.close(descriptor)
    return number


def prepare(spec: Spec, shared: str) -> dict[str, Any]:
    """Confine the process that becomes the kernel; returns the report.

    :param shared: why it shares the namespaces of the host; empty when it does not.
    """
    separate = not shared
    if spec["cpu"] is not None:
        os.sched_setaffinity(0, {spec["cpu"]})
    report: dict[str, Any] = {"namespaces": separate, "readonly": False, "memory": "private tmpfs", "leftover": ""}
    report["namespaces_refused"] = shared
    room = spec["memory"] + 64
    root = -1
    if separate:
        try:
            root = read_only_root()
            report["readonly"] = True
        except OSError as error:
            report["readonly_refused"] = str(error)
    folders = []
    for path, number in zip(spec["folders"], spec["folder_fds"], strict=True):
        opened = clone_tree(path) if root >= 0 else os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        folders.append(move(opened, number))
    try:
        memory = detached_tmpfs(room) if separate else -1
    except OSError:
        memory = -1
    if memory < 0:
        memory, report["memory"], report["leftover"] = folder_in(spec["places"], room)
    memory = move(memory, spec["memory_fd"])
    if root >= 0:
        os.fchdir(root)
        os.chroot(".")
        os.set_inheritable(root, True)  # a detached mount ends with its last descriptor
    os.chdir("/")
    drop_capabilities()
    version = report["landlock"] = landlock(memory, folders) if "landlock" in spec["layers"] else 0
    ignored = METADATA_CALLS if root < 0 else ()
    refused = [*(TRUNCATE_CALLS if root < 0 and version < TRUNCATE_VERSION else ())]
    refused += SPECIAL_FILE_CALLS if not version else ()
    filtered = bool(ignored or refused) and filter_calls(ignored, refused)
    report["metadata_ignored"] = root < 0 and filtered
    return report


def become_kernel(spec: Spec, shared: str) -> None:
    try:
        report = prepare(spec, shared)
        os.set_inheritable(spec["report"], False)
        os.write(spec["report"], json.dumps(report).encode())
        os.environ["TMPDIR"] = f"/proc/self/fd/{spec['memory_fd']}"
        os.execv(spec["argv"][0], spec["argv"])  # noqa: S606
    except OSError as error:
        os.write(spec["report"], b"\n" + json.dumps({"error": error.strerror or str(error)}).encode())
    finally:
        os._exit(125)


def die_with_parent() -> None:
    """Die with the parent; a change of credentials clears this setting."""
    call(libc.prctl, PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def close_channels(spec: Spec) -> None:
    """Close the descriptors of the kernel, so that the other ends see end-of-file when it exits."""
    for descriptor in {*spec["keep"], spec["report"], 0, 1, 2}:
        os.close(descriptor)


def be_init(spec: Spec, alive: int, watched: int) -> int:
    """First process of the PID namespace; the kernel is the second.

    The kernel cannot be the first process: in a panic it sends itself SIGABRT, which a first process ignores, and
    uml_abort (arch/um/os-Linux/util.c) would loop forever.
    """
    os.close(alive)
    die_with_parent()
    poll = select.poll()
    poll.register(watched, 0)
    if poll.poll(0):  # the parent died before prctl took effect
        return 125
    os.close(watched)
    kernel = os.fork()
    if kernel == 0:
        become_kernel(spec, "")
    close_channels(spec)
    while True:
        pid, status = os.wait()
        if pid == kernel:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else SIGNALLED - code


def main() -> int:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # this process repeats the signal that ended the kernel
    spec: Spec = json.loads(sys.argv[1])
    parent = os.getppid()  # this process dies with it; unshare() may have cleared that for a moment
    shared = unshare(spec)
    die_with_parent()
    if os.getppid() != parent:
        return 125
    if shared:
        become_kernel(spec, shared)
    watched, alive = os.pipe()
    child = os.fork()
    if child == 0:
        os._exit(be_init(spec, alive, watched))
    close_channels(spec)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code > SIGNALLED:
        os.kill(os.getpid(), code - SIGNALLED)
    return abs(code)


if __name__ == "__main__":
    sys.exit(main())
