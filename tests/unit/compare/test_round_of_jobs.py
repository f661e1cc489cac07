"""A round that a real Avocado runs: each guest belongs to the side with its QEMU."""

from __future__ import annotations

from pathlib import Path

from cprlib.campaign.compare.run import CompareStrategy
from cprlib.campaign.compare.session import Arm, CompareRequest, CompareState, GuestJobs
from cprlib.campaign.job import JobRunner, list_tests
from cprlib.campaign.pool import Children, Pool
from cprlib.verdict.policy_file import load_policy

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
    children, policy = Children(), load_policy("default")
    runner = JobRunner(None, None, children.add)
    jobs = GuestJobs(tmp_path, tmp_path / ".partial", runner, policy, children)
    request = CompareRequest("/b", budget=0.001)
    strategy = CompareStrategy(tmp_path, request, arms, jobs, CompareState(), print)
    Pool(strategy, 2, children).run()
    (done,) = strategy.rounds
    found = {name: {guest.case: guest for guest in guests} for name, guests in done.items()}
    assert found["a"]["updates"].median_ms("stop-to-resume") == 90.0
    assert found["b"]["updates"].median_ms("stop-to-resume") == 135.0
    assert found["b"]["updates"].valid
    assert (tmp_path / found["b"]["updates"].folder / "case.json").exists()
    dead = found["a"]["dies"]
    assert not dead.valid
    assert "net0" in dead.problems[0]
