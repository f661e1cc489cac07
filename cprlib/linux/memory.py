"""Memory of a QEMU that is its own."""

from __future__ import annotations

from pathlib import Path


def anonymous_memory(pid: int) -> int | None:
    """Resident anonymous memory of a process in KiB (RssAnon of /proc/PID/status, proc_pid_status(5)).

    Guest RAM is a shared memfd and does not count here; TCG's translation buffer does, as far as it was used.

    :returns: None when the process is gone or the kernel does not tell.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    found = [line.split() for line in lines if line.startswith("RssAnon:")]
    return int(found[0][1]) if found else None
