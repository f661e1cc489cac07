"""A soak with stand-ins for tests: no guest, no lab, no Avocado. Run as a program it runs until it is killed.

Usage: ``python -m tests.unit.soak.standin FOLDER``, which prints a line for each case that ends.
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
from cprlib.build.progress import Progress
from cprlib.campaign import session as session_module
from cprlib.campaign.job import SuiteTest
from cprlib.campaign.soak import run as soak_module
from cprlib.campaign.soak.result import STORE, SoakResult
from cprlib.files import CACHE_VARIABLE
from cprlib.guest.image import GuestImage
from cprlib.lab.avocado_run import SuiteRun
from cprlib.qemu.binary import QemuBinary
from tests.unit.evidence.samples import good_case
from tests.unit.mutation.samples import put_job
from tests.unit.soak.samples import REQUEST

TESTS = tuple(SuiteTest(name, f"/x/test_x.py:X.{name}") for name in REQUEST.tests)
SEEN = "seen"  # parameters of a test, as its stand-in received them

Behave = Callable[[Path, str, Mapping[str, str]], None]


def passes(folder: Path, reference: str, parameters: Mapping[str, str]) -> None:
    """A test that passes."""
    del reference, parameters
    put_job(folder, "PASS", "", good_case())


def run_standin(
    folder: Path, cases: int | None, behave: Behave = passes, *, parallel: int = 2, interval_s: float = 0.05
) -> SoakResult:
    """A session of the soak in a folder, with stand-ins for tests.

    :param cases: after which it ends; None for hours.
    """

    def run(suite: SuiteRun, *_: object) -> None:
        behave(suite.results, suite.tests[0], suite.parameters)
        time.sleep(0.01)

    qemu = folder.parent / "qemu"
    if not qemu.exists():
        qemu.write_text("QEMU")
    assets = Assets(QemuBinary(qemu, None), GuestImage(Path("/kernel"), Path("/initrd"), "d"), None)
    shown: list[SoakResult] = []
    numbers = soak_module.missing_numbers
    with (
        mock.patch.dict(os.environ, {CACHE_VARIABLE: str(folder.parent / "cache")}),
        mock.patch.object(session_module, "run_avocado", run),
        mock.patch.object(soak_module, "missing_numbers", lambda history: itertools.islice(numbers(history), cases)),
        mock.patch.object(session_module, "build_assets", return_value=assets),
        mock.patch.object(soak_module, "sample_interval", return_value=interval_s),
    ):
        return soak_module.soak(
            folder,
            STORE.read(folder),
            TESTS,
            3600.0,
            parallel=parallel,
            command="cprlib soak",
            progress=Progress(),
            say=lambda line: print(line, flush=True),
            show=shown.append,
        )


if __name__ == "__main__":
    run_standin(Path(sys.argv[1]), None)
