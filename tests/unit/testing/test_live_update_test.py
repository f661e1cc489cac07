"""The base class of the functional tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from cprlib.testing.live_update_test import LiveUpdateTest

pytestmark = pytest.mark.fast


def test_the_time_of_a_test_is_scaled_as_its_deadlines_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPRLIB_TIMEOUT_SCALE", "2.5")
    assert LiveUpdateTest(methodName="setUp", base_logdir=str(tmp_path)).timeout == 750
