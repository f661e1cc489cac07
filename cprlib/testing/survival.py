"""A QEMU that dies, refuses or stands still is what a test has found, not a mishap of the harness."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from cprlib.errors import Awaited, DeadlineExceeded, GuestFailed, QemuFailed, UpdateFailed
from cprlib.testing.measured_case import MeasuredCase

COMPLAINTS = (  # net/tap-linux.c, hw/net/virtio-net.c, hw/net/vhost_net.c, GLib
    "could not disable queue",
    "could not enable queue",
    "Assertion",
    "assertion failed",
    "requires vnet_hdr",
    "unable to start vhost net",
    "Failed to load",
)


@contextlib.contextmanager
def survives(case: MeasuredCase, name: str, expected: str) -> Iterator[None]:
    """What goes wrong with a QEMU or the guest in the body is a failed check, and the end of the body.

    :param name: of the check; :param expected: what the body has to come to.
    :raises DeadlineExceeded: neither QEMU nor guest was waited for: then the case is inconclusive.
    """
    try:
        yield
    except (UpdateFailed, QemuFailed, GuestFailed, DeadlineExceeded) as error:
        if isinstance(error, DeadlineExceeded) and error.awaited is Awaited.HARNESS:
            raise
        said = complaints(f"{error.happened}\n{error.details}\n{_last_messages(case)}")
        message = f"{error.one_line()}{f': {said[0]}' if said and said[0] not in error.happened else ''}"
        case.expect(name, False, expected, error.happened, message)
        return
    case.expect(name, True, expected, "it did")


def complaints(text: str) -> list[str]:
    """Lines in which a QEMU complains of its NIC, without their time stamps."""
    lines = [line.strip() for line in text.splitlines() if any(words in line for words in COMPLAINTS)]
    return [re.sub(r"^\d{4}-\d\d-\d\dT\S+ ", "", line) for line in lines]


def expect_no_complaint(case: MeasuredCase) -> None:
    """No QEMU of the case complained of its NIC, from the first update to now."""
    said = complaints(_last_messages(case))
    case.expect(
        "no-complaint", not said, "no complaint of a QEMU", said[0] if said else "none", said[0] if said else ""
    )


def _last_messages(case: MeasuredCase) -> str:
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in sorted(case.folder.glob("stderr-*.log"))]
    return "\n".join([*texts, case.guest.machine.messages])
