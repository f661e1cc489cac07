"""Updates in one process: which descriptors are taken for the same, and copies of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from cprlib.linux.descriptors import Descriptor, DescriptorTable, Pairing
from cprlib.update import exec_update
from cprlib.update.exec_update import CopiedFds, pair_by_position

TAP = Descriptor(7, "/dev/net/tun", 6, 85, os.O_RDWR, "tap0")
VHOST = replace(TAP, number=9, link="/dev/vhost-net", inode=86, interface=None)
OTHER = replace(TAP, number=3, link="pipe:[1]", interface=None)


def table(*rows: Descriptor) -> DescriptorTable:
    return DescriptorTable(1, rows)


def test_descriptors_keep_their_numbers() -> None:
    assert pair_by_position(table(OTHER, TAP, VHOST), table(TAP, VHOST)) == (Pairing(TAP, TAP), Pairing(VHOST, VHOST))


@pytest.mark.parametrize("changed", [{"number": 8}, {"interface": "tap1"}, {"inode": 90}])
def test_a_descriptor_at_another_place_is_another(changed: dict[str, Any]) -> None:
    other = replace(TAP, **changed)
    assert pair_by_position(table(TAP), table(other)) == (Pairing(TAP, None), Pairing(None, other))


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_copies_are_compared_as_the_originals_and_closed(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    tap = replace(TAP, number=pipe[0])
    given: list[Descriptor] = []
    source, target = table(OTHER, tap), table(tap)

    def pair(copies: DescriptorTable, _: DescriptorTable) -> tuple[Pairing, ...]:
        given.extend(copies.rows)
        return (Pairing(copies.rows[0], tap),)

    monkeypatch.setattr(exec_update, "duplicate_descriptor", lambda _pid, number: os.dup(number))
    monkeypatch.setattr(exec_update, "pair_tables", pair)
    hook = CopiedFds()
    update: Any = SimpleNamespace(source=SimpleNamespace(pid=1), source_before=SimpleNamespace(table=source))
    hook.before_target(update)
    (copy,) = hook.copies.values()
    assert hook.pair(source, target) == (Pairing(tap, tap),)
    assert [row.number for row in given] == [copy]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(copy)
