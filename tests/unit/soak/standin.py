"""A soak whose tests are stand-ins: no guest, no lab, no Avocado. Run as a program it soaks until it is killed.

Usage: ``python -m tests.unit.soak.standin FOLDER``, which prints a line for each case that has ended.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from unittest import mock

from cprlib.build.assets import Assets
from cprlib.build.progress import SilentProgress
from cprlib.campaign.mutation.tests import SuiteTest
from cprlib.campaign.one_test import RanTest, TestRun
from cprlib.campaign.soak import soak as soak_module
from cprlib.campaign.soak.result import SoakResult
from cprlib.files import CACHE_VARIABLE
from cprlib.guest.image import GuestImage
from cprlib.qemu.binary import QemuBinary
from tests.unit.mutation.samples import put_cell
from tests.unit.soak.samples import WANTED
from tests.unit.verdict.samples import good_case

TESTS = tuple(SuiteTest(name, f"/x/test_x.py:X.{name}") for name in WANTED.tests)
SEEN = "seen"  # a test's parameters, as its stand-in was given them

Behave = Callable[[Path, str, Mapping[str, str]], None]


def passes(folder: Path, reference: str, parameters: Mapping[str, str]) -> None:
    """A test that passes."""
    del reference, parameters
    put_cell(folder, "PASS", "", good_case())


def run_standin(
    folder: Path, cases: int | None, behave: Behave = passes, *, parallel: int = 2, rest_s: float = 0.05
) -> SoakResult:
    """A session of the soak in a folder, with stand-ins for tests.

    :param cases: after which it ends; None for hours.
    """

    def run(self: TestRun, place: Path, reference: str, parameters: Mapping[str, str]) -> RanTest:
        del self
        begun = time.monotonic()
        behave(place, reference, parameters)
        time.sleep(0.01)
        return RanTest(place, time.time_ns(), time.monotonic() - begun, 0)

    assets = Assets(QemuBinary(Path("/qemu"), None), GuestImage(Path("/kernel"), Path("/initrd"), "d"), None)
    shown: list[SoakResult] = []
    numbers = soak_module.missing_numbers
    with (
        mock.patch.dict(os.environ, {CACHE_VARIABLE: str(folder.parent / "cache")}),
        mock.patch.object(TestRun, "run", run),
        mock.patch.object(soak_module, "missing_numbers", lambda past: itertools.islice(numbers(past), cases)),
        mock.patch.object(soak_module, "build_assets", return_value=assets),
        mock.patch.object(soak_module, "rest_seconds", return_value=rest_s),
    ):
        return soak_module.soak(
            folder,
            soak_module.read_wanted(folder),
            TESTS,
            3600.0,
            parallel=parallel,
            command="cprlib soak",
            progress=SilentProgress(),
            say=lambda line: print(line, flush=True),
            show=shown.append,
        )


if __name__ == "__main__":
    run_standin(Path(sys.argv[1]), None)
