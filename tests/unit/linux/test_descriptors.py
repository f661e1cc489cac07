"""Identity is proven by kcmp alone: equal inodes and equal flags are not the same open file."""

import os
from pathlib import Path

import pytest

from cprlib.errors import InstrumentError
from cprlib.linux.descriptors import DescriptorTable, pair_tables, parse_descriptor, read_table
from cprlib.linux.libc import same_open_file

pytestmark = pytest.mark.fast


def test_duplicate_is_the_same_file(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as stream:
        copy = os.dup(stream.fileno())
        try:
            assert same_open_file(os.getpid(), stream.fileno(), os.getpid(), copy)
        finally:
            os.close(copy)


def test_second_open_of_the_same_path_is_another_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("w") as one, path.open("w") as two:
        assert os.fstat(one.fileno()).st_ino == os.fstat(two.fileno()).st_ino
        assert not same_open_file(os.getpid(), one.fileno(), os.getpid(), two.fileno())


def test_dead_process_is_an_error_and_not_a_difference() -> None:
    no_process = 2**22 + 1  # beyond PID_MAX_LIMIT
    with pytest.raises(InstrumentError):
        same_open_file(os.getpid(), 0, no_process, 0)


def test_tap_row_has_its_interface() -> None:
    row = parse_descriptor(9, "/dev/net/tun", 5, 7, "pos:\t0\nflags:\t0104002\nmnt_id:\t25\nino:\t7\niff:\ttap0\n")
    assert (row.kind, row.interface, row.nonblocking) == ("tap", "tap0", True)


def test_kinds_of_links() -> None:
    links = {
        "anon_inode:[eventfd]": "eventfd",
        "/dev/vhost-net": "vhost",
        "/dev/tap12": "tap",
        "/dev/macvtap-x1/tap12 (deleted)": "tap",
        "/run/tap12": "file",
        "socket:[12]": "socket",
        "/memfd:ram0 (deleted)": "memfd",
        "/etc/passwd": "file",
        "anon_inode:kvm-vm": "kvm-vm",
    }
    rows = {link: parse_descriptor(1, link, 0, 0, "flags:\t02\n").kind for link in links}
    assert rows == links


def test_unpaired_rows_of_both_sides_are_listed() -> None:
    tap = "iff:\ttap0\nflags:\t02\n"
    null = os.open(os.devnull, os.O_RDONLY)
    other = os.open(os.devnull, os.O_RDONLY)
    try:
        source = DescriptorTable(os.getpid(), (parse_descriptor(null, "/dev/net/tun", 0, 0, tap),))
        target = DescriptorTable(os.getpid(), (parse_descriptor(other, "/dev/net/tun", 0, 0, tap),))
        pairings = pair_tables(source, target)
        assert [item.paired for item in pairings] == [False, False]
        assert pair_tables(source, source)[0].paired
    finally:
        os.close(null)
        os.close(other)


def test_equal_duplicates_are_paired_one_by_one() -> None:
    first = os.open(os.devnull, os.O_RDONLY)
    second = os.dup(first)
    try:
        rows = tuple(parse_descriptor(number, "/dev/net/tun", 0, 0, "flags:\t02\n") for number in (first, second))
        both, one = DescriptorTable(os.getpid(), rows), DescriptorTable(os.getpid(), rows[:1])
        assert [item.paired for item in pair_tables(both, both)] == [True, True]
        assert [item.paired for item in pair_tables(one, both)] == [True, False]
        assert [item.paired for item in pair_tables(both, one)] == [True, True]  # a copy in the source is no loss
    finally:
        os.close(first)
        os.close(second)


def test_own_table_counts_kinds() -> None:
    reader, writer = os.pipe()
    try:
        table = read_table(os.getpid())
        assert {reader, writer} <= {row.number for row in table.of_kind("pipe")}
        assert table.count_by_kind()["pipe"] >= 2
    finally:
        os.close(reader)
        os.close(writer)
