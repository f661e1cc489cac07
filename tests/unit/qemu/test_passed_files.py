"""Files that a manager opens are closed again, whatever comes of it."""

import os

import pytest

from cprlib.errors import EnvironmentFailure
from cprlib.linux.namespace import NetworkNamespace
from cprlib.qemu.netdev import TapNetdev, TapSource, opened_files


def test_nothing_is_opened_where_qemu_opens_it() -> None:
    with opened_files(TapNetdev(queues=4)) as files:
        assert files.all == ()


def test_taps_are_open_while_the_body_runs_and_closed_afterwards() -> None:
    try:
        with NetworkNamespace("taps") as namespace, namespace.entered():
            with opened_files(TapNetdev(queues=3, tap_source=TapSource.FDS)) as files:
                assert len(files.tap) == 3
                assert all(os.fstat(number) for number in files.tap)
            for number in files.tap:
                with pytest.raises(OSError, match="Bad file descriptor"):
                    os.fstat(number)
    except EnvironmentFailure as error:
        pytest.skip(error.one_line())
