"""A round that a real Avocado ran: what its tests left comes as chains, of the side whose QEMU it was."""

from __future__ import annotations

from pathlib import Path

from cprlib.campaign.compare.run import make_arms
from cprlib.campaign.compare.session import Session
from cprlib.campaign.job import JobRunner, list_tests
from cprlib.campaign.pool import Children
from cprlib.report.environment import Environment
from cprlib.verdict.policy_file import load_policy

SOURCE = """
from dataclasses import replace
from pathlib import Path
from avocado import Test
from cprlib.report.results_folder import start_case
from tests.unit.compare.samples import chain_evidence

class Light(Test):
    def test_updates(self):
        folder = start_case(Path(self.outputdir), "updates", test=str(self.name))
        evidence = chain_evidence(3, {"/a": 1.0, "/b": 1.5}[self.params.get("qemu")], "updates")
        replace(evidence, test=str(self.name)).write(folder)

    def test_dies(self):
        raise KeyError("net0")
"""


def test_a_round_of_real_avocado_jobs_becomes_chains(tmp_path: Path) -> None:
    (tmp_path / "suite").mkdir()
    (tmp_path / "suite" / "test_light.py").write_text(SOURCE)
    tests = list_tests(tmp_path / "suite")
    arms = make_arms(tests, {"qemu": "/a"}, {"qemu": "/b"}, again=False)
    children = Children()
    session = Session(
        tmp_path,
        tmp_path / ".aside",
        JobRunner(None, None, children.add),
        load_policy("default"),
        2,
        1,
        children,
        Environment(),
    )
    done = session.run(1, arms)
    found = {name: {chain.case: chain for chain in chains} for name, chains in done.chains.items()}
    assert found["a"]["updates"].middle("stop-to-resume") == 90.0
    assert found["b"]["updates"].middle("stop-to-resume") == 135.0
    assert found["b"]["updates"].believed
    assert (tmp_path / found["b"]["updates"].folder / "case.json").exists()
    dead = found["a"]["dies"]
    assert not dead.believed
    assert "net0" in dead.doubts[0]
