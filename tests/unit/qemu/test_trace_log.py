"""The trace log: trace events of QEMU 10.0 and 10.2; any other line is a message."""

from pathlib import Path

import pytest

from cprlib.qemu.trace_log import count_lines, parse_trace, read_trace

pytestmark = pytest.mark.fast

LINES = [
    "4711@1700000000.250000:runstate_set current_run_state 9 (running) new_state 4 (paused)",
    "runstate_set 4711@1700000000.500000:runstate_set current_run_state 4 (paused) new_state 7 (postmigrate)",
    "4711@1700000000.300001:cpr_save_fd net0, id 0, fd 12",
    "2026-01-01T00:00:00Z qemu-system-x86_64: vhost-net requested but could not be initialized",
    "",
]


def test_records_have_time_name_and_text() -> None:
    log = parse_trace(LINES)
    assert [item.name for item in log.records] == ["runstate_set", "runstate_set", "cpr_save_fd"]
    assert log.records[2].time_ns == 1700000000_300001000
    assert log.first("cpr_save_fd", "net0") is not None
    assert log.first("cpr_save_fd", "net1") is None


def test_run_state_looks_at_the_new_state() -> None:
    found = parse_trace(LINES).run_state("postmigrate")
    assert found is not None
    assert found.time_ns == 1700000000_500000000
    assert parse_trace(LINES).run_state("running") is None
    assert [state for _, state in parse_trace(LINES).run_states()] == ["paused", "postmigrate"]


def test_other_lines_are_messages() -> None:
    assert parse_trace(LINES).messages == (LINES[3],)


def test_records_of_qemu_10_2_have_the_time_in_iso_8601() -> None:
    lines = [
        "2023-11-14T22:13:20.250001Z runstate_set current_run_state 9 (running) new_state 4 (paused)",
        "2023-11-14T22:13:20.300000Z qemu-system-x86_64: vhost-net requested but could not be initialized",
    ]
    log = parse_trace(lines)
    assert [(item.time_ns, item.name) for item in log.records] == [(1700000000_250001000, "runstate_set")]
    assert log.run_state("paused") is not None
    assert log.messages == (lines[1],)


def test_a_carriage_return_ends_no_line(tmp_path: Path) -> None:
    """A message of before a mark would be taken for one of after it."""
    log = tmp_path / "trace.log"
    log.write_bytes(b"progress 1\rprogress 2\r\nold\n")
    mark = count_lines(log)
    with log.open("ab") as stream:
        stream.write(b"new\n")
    assert read_trace(log, skipped=mark).messages == ("new",)
