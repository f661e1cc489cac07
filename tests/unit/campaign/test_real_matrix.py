"""A real Avocado runs a matrix: each point's parameters reach its test, and its name its case."""

from __future__ import annotations

from pathlib import Path

from cprlib.campaign.matrix import plan_matrix
from cprlib.evidence.case import CaseEvidence
from cprlib.lab.avocado_run import SuiteRun, run_avocado
from cprlib.lab.job_results import collect_cases
from cprlib.qemu.binary import QemuBinary
from cprlib.report.environment import Environment
from cprlib.report.matrix import MatrixRecord

SOURCE = """
from pathlib import Path
from avocado import Test
from cprlib.report.matrix import point_name
from cprlib.report.results_folder import case_id, start_case
from cprlib.evidence.case import CaseEvidence
from cprlib.evidence.records import Parameters, Role
from cprlib.update.mechanism import Mechanism
from cprlib.testing.parameters import own_parameters, read_parameters

class Light(Test):
    def test_update(self):
        given, name = read_parameters(self.params.get), point_name(own_parameters(self.params.iteritems()))
        case = f"{case_id(str(self.name))}-{name}"
        folder = start_case(Path(self.outputdir), case, test=str(self.name))
        more = {"point": name, "qemu": str(given.qemu and given.qemu.path), "base": given.base}
        parameters = Parameters(queues=given.queues, vhost=given.vhost, rate=given.rate, more=more)
        CaseEvidence(case, Mechanism.NONE, Role.CHECKS, started_ns=1, parameters=parameters).write(folder)
"""


def test_each_point_has_its_case_and_its_qemu(tmp_path: Path) -> None:
    (tmp_path / "test_light.py").write_text(SOURCE)
    plan = plan_matrix("push", ["q4-*-cpr-*"], None, own_qemu=False)
    qemus = {base: QemuBinary(Path(f"/builds/{base}/qemu"), Path("/firmware")) for base in plan.bases("10.0")}
    results = tmp_path / "results"
    results.mkdir()
    plan.record(results, Environment())
    matrix = plan.write(results, {"rate": "500"}, qemus, "10.0")
    suite = SuiteRun(results, [str(tmp_path / "test_light.py")], {}, matrix=matrix)
    with (tmp_path / "avocado.log").open("w") as log:
        run_avocado(suite, log)
    collect_cases(results)
    cases = [CaseEvidence.read(folder) for folder in sorted((results / "cases").iterdir())]
    assert [case.id for case in cases] == [
        "update-q4-tap-pc-cpr-10.2-ip4",
        "update-q4-vhost-pc-cpr-10.0-ip6",
        "update-q4-vhost-q35-cpr-10.2-ip4",
    ]
    for case in cases:
        given = case.parameters
        assert given.more["qemu"] == f"/builds/{given.more['base']}/qemu"
        assert (given.queues, given.rate) == (4, 500.0)
    record = MatrixRecord.read(results)
    assert record is not None
    assert set(record.points) == {case.parameters.more["point"] for case in cases}
