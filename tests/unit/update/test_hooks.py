"""The CPR state in a proxy: names, ids, and the sender's descriptors for the same open files."""

import os
import struct

import pytest

from cprlib.errors import InstrumentError
from cprlib.update.hooks import name_before, sent_fds
from cprlib.update.proxy import Message

pytestmark = pytest.mark.fast


def entry(name: str, identifier: int) -> bytes:
    data = name.encode() + b"\0"
    return struct.pack(">BI", 1, len(data)) + data + struct.pack(">i", identifier)


def test_name_and_id_before_a_descriptor_are_found() -> None:
    assert name_before(b"\x51\x65\x6d\x75" + entry("net0", 0)) == ("net0", 0)
    assert name_before(entry("net0", 3) + b" " + entry("a-longer.name", -1)) == ("a-longer.name", -1)


@pytest.mark.parametrize("data", [b"", b"\0\0\0\0", b"net0\0\0\0\0\0", b"\0\0\0\x09net0\0\0\0\0\0"])
def test_another_layout_is_no_name(data: bytes) -> None:
    assert name_before(data) is None


def test_files_are_found_in_the_sender_by_identity_not_by_inode() -> None:
    first, other = os.open("/dev/null", os.O_RDWR), os.open("/dev/null", os.O_RDWR)
    copy = os.dup(first)
    try:
        messages = [
            Message(b"head" + entry("net0", 0) + b" ", (copy,)),
            Message(entry("net1", 5) + b" ", (other,)),
            Message(b"garbled", (copy,)),
        ]
        try:
            found = sent_fds(messages, os.getpid())
        except InstrumentError as error:
            pytest.skip(f"no kcmp here: {error.happened}")
        assert [(item.name, item.id) for item in found] == [("net0", 0), ("net1", 5), ("", -1)]
        assert found[0].source_numbers == (first, copy)
        assert found[1].source_numbers == (other,)
        assert str(found[0]) == "net0/0 (file)"
    finally:
        for number in (first, other, copy):
            os.close(number)
