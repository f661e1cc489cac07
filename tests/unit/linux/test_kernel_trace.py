"""Lines of the kernel trace are parsed; vhost workers are distinguished from QEMU's threads."""

import contextlib
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from cprlib.cleanup import CleanupProcess
from cprlib.errors import EnvironmentFailure, InstrumentError
from cprlib.linux.kernel_trace import Act, KernelReport, KernelTrace, kernel_events, owner_of, reads_of_taps
from cprlib.linux.namespace import NetworkNamespace
from cprlib.linux.tracefs import EventUnusable, Tracepoints, parse_ftrace

pytestmark = pytest.mark.fast

LINES = """\
# tracer: nop
 qemu-system-x86-53      [000] .....    10.000001: sched_wakeup_new: comm=vhost-53 pid=60 prio=120 target_cpu=000
        vhost-53-60      [000] d..1.    10.000002: consume_skb: skbaddr=00000000eb location=tun_do_read+0x19c/0x700
 qemu-system-x86-53      [000] .....    10.000003: consume_skb: skbaddr=00000000eb location=tun_do_read+0x19c/0x700
        vhost-53-60      [000] b....    10.000004: netif_receive_skb_entry: dev=tap0 napi_id=0x0 queue_mapping=1
        vhost-53-60      [000] d....    10.000005: sched_waking: comm=qemu-system-x86 pid=53 prio=120 target_cpu=000
        vhost-53-60      [000] d.h2.    10.000008: sched_waking: comm=ksoftirqd/0 pid=10 prio=120 target_cpu=000
        vhost-53-60      [000] .....    10.000009: sched_process_exit: comm=vhost-53 pid=60 prio=120 group_dead=false
        vhost-53-60      [000] d....    10.000011: sched_waking: comm=qemu-system-x86 pid=53 prio=120 target_cpu=000
"""


def test_events_are_read() -> None:
    events = kernel_events(parse_ftrace(LINES, 1_000_000_000))
    assert [item.event for item in events] == [
        Act.WORKER_MADE,
        Act.TAP_READ,
        Act.TAP_READ,
        Act.TAP_WRITTEN,
        Act.WORKER_WAKES,
        Act.WORKER_ENDED,
        Act.WORKER_WAKES,
    ]
    assert events[0].time_ns == 11_000_001_000
    assert [owner_of(item) for item in events] == [53, 53, None, 53, 53, 53, 53]


def test_a_worker_has_stopped_when_it_did_its_last_work() -> None:
    report = KernelReport("", kernel_events(parse_ftrace(LINES, 0)))
    assert report.worker_stopped_ns(53, 0) == 10_000_005_000
    assert report.worker_stopped_ns(53, 10_000_007_000) == 10_000_007_000
    assert report.worker_stopped_ns(53, 10_000_020_000) == 10_000_009_000  # it had ended before
    assert report.worker_stopped_ns(54, 0) is None
    without_work = [line for line in LINES.splitlines() if "vhost-53-60" not in line or "exit" in line]
    assert (
        KernelReport("", kernel_events(parse_ftrace("\n".join(without_work), 0))).worker_stopped_ns(53, 0)
        == 10_000_009_000
    )


def test_who_was_at_the_tap() -> None:
    report = KernelReport("", kernel_events(parse_ftrace(LINES, 0)))
    assert report.at_tap(Act.TAP_READ) == {"vhost-53": 1, "qemu-system-x86 (53)": 1}
    assert report.at_tap(Act.TAP_READ, since_ns=10_000_003_000) == {"qemu-system-x86 (53)": 1}
    assert report.at_tap(Act.TAP_WRITTEN) == {"vhost-53": 1}


NEW_LAYOUT = "\tfield:void * skbaddr;\toffset:8;\n\tfield:void * location;\toffset:16;\n"
OLD_LAYOUT = "\tfield:void * skbaddr;\toffset:8;\n"  # before Linux 6.3: Debian 12, RHEL 9


def test_filter_needs_the_function_that_consumed_a_packet() -> None:
    assert reads_of_taps(NEW_LAYOUT) == "location.function == tun_do_read"
    with pytest.raises(EventUnusable, match=r"no field location, which Linux 6\.3 added"):
        reads_of_taps(OLD_LAYOUT)


@pytest.fixture
def own_namespace() -> Iterator[NetworkNamespace]:
    """The namespace of this process."""
    with open("/proc/thread-self/ns/net", "rb") as stream:
        yield cast(NetworkNamespace, SimpleNamespace(descriptor=stream.fileno()))


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_namespace: NetworkNamespace) -> KernelTrace:
    """One whose kernel is a folder."""
    monkeypatch.setenv("CPRLIB_LAB", "uml")  # no cleanup process for a simulated instance
    names = ("sched/sched_wakeup_new", "sched/sched_process_exit", "sched/sched_waking", "skb/consume_skb")
    trace = KernelTrace(own_namespace, tmp_path)
    for name in (*names, "net/netif_receive_skb_entry"):
        (tmp_path / "events" / name).mkdir(parents=True)
        (trace._instance / "events" / name).mkdir(parents=True)
        (trace._instance / "events" / name / "format").write_text(OLD_LAYOUT)
    (trace._instance / "per_cpu/cpu0").mkdir(parents=True)
    monkeypatch.setattr(Path, "mkdir", lambda *_: None)  # the kernel fills a new instance by itself
    return trace


def test_older_kernel_still_reports_workers(trace: KernelTrace) -> None:
    with trace:
        (trace._instance / "trace").write_text(LINES.replace(" location=tun_do_read+0x19c/0x700", ""))
        report = trace.report()
        enabled = {path.parent.name for path in trace._instance.glob("events/*/*/enable")}
    assert "consume_skb" not in enabled
    assert "sched_wakeup_new" in enabled
    assert report.unavailable == ""
    assert report.unseen_reason(Act.WORKER_MADE) == ""
    assert "Linux 6.3" in report.unseen_reason(Act.TAP_WRITTEN, Act.TAP_READ)
    assert report.of(Act.WORKER_MADE)


@pytest.mark.parametrize(("processors", "kib"), [(1, 8192), (8, 8192), (64, 1024), (1024, 512), (None, 8192)])
def test_many_processors_share_the_memory_of_a_trace(
    trace: KernelTrace, monkeypatch: pytest.MonkeyPatch, processors: int | None, kib: int
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: processors)
    with trace:
        assert (trace._instance / "buffer_size_kb").read_text() == str(kib)


def test_a_trace_that_lost_events_reports_none(trace: KernelTrace) -> None:
    with trace:
        (trace._instance / "trace").write_text(LINES)
        (trace._instance / "per_cpu/cpu0/stats").write_text("entries: 9\noverrun: 2\ndropped events: 1\n")
        report = trace.report()
    assert (report.unavailable, report.events) == ("the kernel's trace lost 3 events", ())


def test_only_the_workers_of_one_qemu_carry_packets() -> None:
    workers_only = "\n".join(line for line in LINES.splitlines() if "qemu-system-x86-53" not in line)
    report = KernelReport("", kernel_events(parse_ftrace(workers_only, 0)))
    assert report.other_carriers(53, 0) == ""
    assert "written by {'vhost-53': 1}" in report.other_carriers(54, 0)
    assert "read by {}" in report.other_carriers(53, 10_000_003_000)
    with pytest.raises(InstrumentError, match="no tracefs"):
        KernelReport("no tracefs").other_carriers(53, 0)


def test_a_task_without_a_name_accuses_no_qemu() -> None:
    nameless = LINES.replace("        vhost-53-60      [000] d..1.", "           <...>-60      [000] d..1.")
    workers_only = "\n".join(line for line in nameless.splitlines() if "qemu-system-x86-53" not in line)
    report = KernelReport("", kernel_events(parse_ftrace(workers_only, 0)))
    with pytest.raises(InstrumentError, match="ftrace has lost the name of a task"):
        report.other_carriers(53, 0)
    report = KernelReport("", kernel_events(parse_ftrace(nameless, 0)))
    assert "qemu-system-x86 (53)" in report.other_carriers(53, 0)


def test_packets_of_other_vms_are_not_the_case_s(trace: KernelTrace) -> None:
    """Not those of a process in another network namespace; one that has ended may be the case's."""
    gone = 2**22 + 1  # above PID_MAX_LIMIT
    for name in ("skb/consume_skb", "net/netif_receive_skb_entry"):
        (trace._instance / "events" / name / "format").write_text(NEW_LAYOUT)
    event = "[000] .....    10.000001: netif_receive_skb_entry: dev=tap0 napi_id=0x0 queue_mapping=1\n"
    own = threading.get_native_id()
    with trace, elsewhere() as other:
        tasks = (("qemu", other), (f"vhost-{other}", gone), (f"vhost-{gone}", gone), ("qemu", gone), ("qemu", own))
        (trace._instance / "trace").write_text("".join(f" {name}-{task} {event}" for name, task in tasks))
        report = trace.report()
    assert report.at_tap(Act.TAP_WRITTEN).keys() == {f"vhost-{gone}", f"qemu ({gone})", f"qemu ({own})"}


@contextlib.contextmanager
def elsewhere() -> Iterator[int]:
    """The id of a process that is younger than this one, in another network namespace."""
    with subprocess.Popen(["unshare", "-rn", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(b"here\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"here\n"  # from cat, which is there
        yield process.pid
        process.stdin.close()


def test_no_tracefs_is_reported_and_not_raised(tmp_path: Path, own_namespace: NetworkNamespace) -> None:
    with KernelTrace(own_namespace, tmp_path / "absent") as trace:
        report = trace.report()
    assert "tracefs refused" in report.unavailable


def test_a_cleanup_process_that_does_not_start_is_reported_and_not_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_cleanup: object) -> None:
        raise EnvironmentFailure("start the cleanup process", "no process left")

    monkeypatch.delenv("CPRLIB_LAB", raising=False)
    monkeypatch.setattr(CleanupProcess, "__enter__", refuse)
    (tmp_path / "events/skb/kfree_skb").mkdir(parents=True)
    (tmp_path / "instances").mkdir()
    with Tracepoints({"skb/kfree_skb": ""}, tmp_path) as trace:
        assert trace.read().unavailable == "cannot start the cleanup process: no process left"
