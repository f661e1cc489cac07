"""A round that a real Avocado runs: each guest belongs to the side with its QEMU."""

from __future__ import annotations

from pathlib import Path

from cprlib.campaign.compare.run import CompareStrategy
from cprlib.campaign.compare.session import Arm, CompareRequest, CompareState, GuestJobs
from cprlib.campaign.job import list_tests
from cprlib.campaign.session import Session
from cprlib.qemu.binary import QemuBinary
from cprlib.verdict.policy_file import load_policy

from .samples import ASSETS

SOURCE = """
from dataclasses import replace
from pathlib import Path
from avocado import Test
from cprlib.report.results_folder import start_case
from tests.unit.compare.samples import guest_evidence

class Light(Test):
    def test_updates(self):
        folder = start_case(Path(self.outputdir), "updates", test=str(self.name))
        evidence = guest_evidence(3, {"/a": 1.0, "/b": 1.5}[self.params.get("qemu")], "updates")
        replace(evidence, test=str(self.name)).write(folder)

    def test_dies(self):
        raise KeyError("net0")
"""


def test_round_of_real_jobs_becomes_guests(tmp_path: Path) -> None:
    (tmp_path / "suite").mkdir()
    (tmp_path / "suite" / "test_light.py").write_text(SOURCE)
    tests = list_tests(tmp_path / "suite")
    arms = [Arm(name, {"qemu": f"/{name}"}, tests) for name in ("a", "b")]
    session = Session(tmp_path, tmp_path / ".partial", ASSETS, None, workers=2)
    jobs = GuestJobs(session, load_policy("default"))
    request = CompareRequest(QemuBinary(Path("/b")), budget=0.001)
    strategy = CompareStrategy(tmp_path, request, arms, jobs, CompareState(), print)
    session.run_all(strategy)
    (done,) = strategy.rounds
    found = {name: {guest.case: guest for guest in guests} for name, guests in done.items()}
    assert found["a"]["updates"].median_ms("stop-to-resume") == 90.0
    assert found["b"]["updates"].median_ms("stop-to-resume") == 135.0
    assert found["b"]["updates"].valid
    assert (tmp_path / found["b"]["updates"].folder / "case.json").exists()
    dead = found["a"]["dies"]
    assert not dead.valid
    assert "net0" in dead.problems[0]
