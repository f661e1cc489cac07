"""Lines of the kernel trace are parsed; vhost workers are distinguished from QEMU's threads."""

from pathlib import Path

import pytest

from cprlib.linux.kernel_trace import Act, KernelReport, KernelTrace, kernel_events
from cprlib.linux.tracefs import parse_ftrace

pytestmark = pytest.mark.fast

LINES = """\
# tracer: nop
 qemu-system-x86-53      [000] .....    10.000001: sched_wakeup_new: comm=vhost-53 pid=60 prio=120 target_cpu=000
        vhost-53-60      [000] d..1.    10.000002: consume_skb: skbaddr=00000000eb location=tun_do_read+0x19c/0x700
 qemu-system-x86-53      [000] .....    10.000003: consume_skb: skbaddr=00000000eb location=tun_do_read+0x19c/0x700
        vhost-53-60      [000] b....    10.000004: netif_receive_skb_entry: dev=tap0 napi_id=0x0 queue_mapping=1
        vhost-53-60      [000] .....    10.000005: sched_process_exit: comm=vhost-53 pid=60 prio=120 group_dead=false
"""


def test_events_are_read() -> None:
    events = kernel_events(parse_ftrace(LINES, 1_000_000_000))
    assert [item.act for item in events] == [
        Act.WORKER_MADE,
        Act.TAP_READ,
        Act.TAP_READ,
        Act.TAP_WRITTEN,
        Act.WORKER_ENDED,
    ]
    assert events[0].time_ns == 11_000_001_000
    assert [item.owner for item in events] == [53, 53, None, 53, 53]


def test_who_was_at_the_tap() -> None:
    report = KernelReport("", kernel_events(parse_ftrace(LINES, 0)))
    assert report.at_tap(Act.TAP_READ) == {"vhost-53": 1, "qemu-system-x86 (53)": 1}
    assert report.at_tap(Act.TAP_READ, since_ns=10_000_003_000) == {"qemu-system-x86 (53)": 1}
    assert report.at_tap(Act.TAP_WRITTEN) == {"vhost-53": 1}


def test_no_tracefs_is_reported_and_not_raised(tmp_path: Path) -> None:
    with KernelTrace(tmp_path / "absent") as trace:
        report = trace.report()
    assert "tracefs refused" in report.why
