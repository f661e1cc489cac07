"""The scoreboard's rows, their figures from evidence, and its page, which says what was not measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cprlib.build.series import find_series
from cprlib.campaign import session as session_module
from cprlib.campaign.job import SuiteTest
from cprlib.campaign.outcome import Policies
from cprlib.campaign.scoreboard.figures import Measured, measure
from cprlib.campaign.scoreboard.page import scoreboard_page
from cprlib.campaign.scoreboard.plan import Qemu, Row, ScoreboardRequest, all_rows, choose_rows
from cprlib.campaign.scoreboard.run import BuiltRow, RowJob, ScoreboardJobs, build_rows, make_jobs
from cprlib.campaign.session import ResultRecord, Session
from cprlib.errors import BuildFailed, UsageError
from cprlib.evidence.case import CaseEvidence
from cprlib.evidence.records import Check, DescriptorCount, FaultRecord, Outcome, Role
from cprlib.qemu.binary import QemuBinary
from cprlib.report.environment import Environment
from cprlib.traffic.figures import Interruption, InterruptionPerDirection, PerDirection
from cprlib.update.faults import faults_named
from cprlib.update.mechanism import Mechanism
from cprlib.verdict.policy import Policy
from tests.unit.compare.samples import ASSETS, guest_evidence
from tests.unit.mutation.samples import put_job

POLICY = Policy()
REQUEST = ScoreboardRequest(2, engine="uml", load=0.1, command="cprlib scoreboard --runs 2", started_ns=10**18)
MACHINE = Environment(mode="lab", engine="uml", cpu="A CPU", cores=2, kernel="6.12", accelerator="tcg")


def row(name: str = "series-10.0", *, shown_by: tuple[str, ...] = ()) -> Row:
    qemu = Qemu(name, "a QEMU", lambda _: QemuBinary(Path("/qemu")), shown_by)
    return Row(qemu, Mechanism.CPR, True, ("failed-updates-lose-nothing",))


def losing(forward: int, back: int) -> CaseEvidence:
    """A guest whose second update lost packets."""
    case = guest_evidence(3)
    bad = replace(case.per_update[1], loss=PerDirection(forward, back), fds=DescriptorCount(1, 1))
    return replace(case, per_update=(case.per_update[0], bad, case.per_update[2]))


def measured(tmp_path: Path, *cases: CaseEvidence, one: Row | None = None) -> Measured:
    folders = [put_job(tmp_path / f"run-{number}", "PASS", "", case) for number, case in enumerate(cases)]
    return measure(one or row(), "10.0.13", folders, [], POLICY)


def test_rows_are_stock_series_and_each_missing_patch() -> None:
    names = [item.name for item in all_rows()]
    assert len(set(names)) == len(names)
    assert {"stock-10.0-link-switch-vhost", "stock-10.2-fd-share-tap", "stock-11.1-link-switch-tap"} <= set(names)
    assert {"series-10.0-cpr-vhost", "series-10.2-cpr-tap"} <= set(names)
    assert sum(name.startswith("without-") for name in names) == 2 * len(find_series("10.0").patches)
    assert not any(item.vhost for item in all_rows() if item.mechanism is Mechanism.FD_SHARE)


def test_rows_are_chosen_by_pattern() -> None:
    assert [item.name for item in choose_rows(["series-10.0-*"])] == ["series-10.0-cpr-tap", "series-10.0-cpr-vhost"]
    with pytest.raises(UsageError, match="no row matches"):
        choose_rows(["series-9*"])


def test_lost_packets_are_per_update_and_direction(tmp_path: Path) -> None:
    found = measured(tmp_path, guest_evidence(3), losing(4, 1))
    forward, back = found.lost("forward"), found.lost("return_")
    assert forward
    assert back
    assert (forward.total, forward.most, forward.updates) == (4, 4, 6)
    assert (back.total, back.most) == (1, 1)
    assert found.identity == (1, 2)


def test_spread_is_median_and_range(tmp_path: Path) -> None:
    found = measured(tmp_path, guest_evidence(3), guest_evidence(3, ratio=2.0))
    assert found.interruption("forward") == [102.0] * 3 + [204.0] * 3
    assert "| 153 (102 to 204) |" in scoreboard_page([found], REQUEST, MACHINE)


def test_overlong_pause_counts_for_time_and_not_for_packets(tmp_path: Path) -> None:
    found = measured(tmp_path, guest_evidence(1), replace(losing(90, 0), budget=None))
    assert len(found.counted) == len(found.updates) == 4
    case = losing(90, 0)
    pause = Interruption(2_000.0, 2_004.0, 0.0, 2.0)
    slow = replace(case.per_update[1], interruption=InterruptionPerDirection(pause, pause))
    found = measured(tmp_path / "long", replace(case, per_update=(case.per_update[0], slow, case.per_update[2])))
    forward = found.lost("forward")
    assert forward
    assert (len(found.updates), forward.updates, forward.total) == (3, 2, 0)


def test_unsound_instrument_discards_a_guest(tmp_path: Path) -> None:
    case = guest_evidence(3)
    found = measured(tmp_path, replace(case, instrument=replace(case.instrument, capture_drops=3)), guest_evidence(3))
    assert len(found.updates) == 3
    assert found.discarded
    assert found.discarded[0].startswith("instrument")


def test_guest_without_evidence_is_discarded(tmp_path: Path) -> None:
    found = measure(row(), "10.0.13", [put_job(tmp_path / "x", "ERROR", "lab died")], [], POLICY)
    assert found.problem
    assert found.discarded == ("no evidence",)


def test_faults_survived_are_counted_by_their_checks(tmp_path: Path) -> None:
    faults = tuple(
        FaultRecord(fault, reached=True) for fault in faults_named("target-killed-mode-set", "target-killed-loading")
    )
    outcomes = (Outcome.PASS, Outcome.FAIL)
    checks = tuple(
        Check(f"{item.fault.name}-source-runs", outcome, fault=item.fault.name)
        for item, outcome in zip(faults, outcomes, strict=True)
    )
    case = replace(guest_evidence(1), role=Role.CHECKS, faults=faults, checks=checks)
    found = measure(row(), "10.0.13", [], [put_job(tmp_path / "f", "FAIL", "", case)], POLICY)
    assert (found.faults, found.survived, found.inconclusive) == (2, 1, 0)


@pytest.mark.parametrize(("status", "stored"), [("PASS", True), ("ERROR", False)])
def test_guest_that_would_be_discarded_runs_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str, stored: bool
) -> None:
    monkeypatch.setattr(session_module, "code_digest", lambda: "code")
    session = Session(tmp_path, tmp_path / ".partial", ASSETS, "uml")
    job = RowJob(BuiltRow(row(), QemuBinary(Path("/qemu"))), SuiteTest("update", f"{__file__}:X.test_update"), 1)
    work = ScoreboardJobs(session, Policies(POLICY, POLICY))
    folder = put_job(session.final(job.place), status, "lab died", guest_evidence(3))
    ResultRecord(session.key(job.test, work._parameters(job), sha256="")).write(folder)
    assert work.is_stored(job) == stored


def test_faults_are_injected_in_the_first_run_only() -> None:
    tests = [SuiteTest(name, f"/x/test_x.py:X.{name}") for name in ("update", "failed-updates-lose-nothing")]
    jobs = make_jobs([BuiltRow(row(), QemuBinary(Path("/qemu"))), BuiltRow(row("x"), problem="gone")], 2, tests)
    assert [(job.number, job.test.id) for job in jobs] == [
        (1, "update"),
        (1, "failed-updates-lose-nothing"),
        (2, "update"),
    ]


def test_qemu_that_cannot_be_built_leaves_its_row_unmeasured() -> None:
    def fail(_: object) -> QemuBinary:
        raise BuildFailed("apply 0001", "hunk 1 FAILED")

    (built,) = build_rows([Row(Qemu("series-9", "t", fail), Mechanism.CPR, False)], None)  # type: ignore[arg-type]
    assert "hunk 1 FAILED" in built.problem


def test_page_has_no_folder_of_this_machine(tmp_path: Path) -> None:
    case = replace(
        guest_evidence(3),
        skip_word="no-vhost",
        skipped="cannot use vhost with /root/.cache/store/qemu/61d0/qemu-system-x86_64: <b>none",
    )
    rows = [measured(tmp_path, case), Measured(row("stock-9"), problem="build in /root/.cache/x failed")]
    page = scoreboard_page(rows, REQUEST, MACHINE)
    assert "/root" not in page
    assert r"(no-vhost: cannot use vhost with qemu-system-x86\_64: &lt;b&gt;none)" in page


def test_qemu_without_cpr_is_measured_and_failed(tmp_path: Path) -> None:
    case = replace(guest_evidence(3), skip_word="no-cpr", skipped="the QEMU has no cpr=on")
    found = measured(tmp_path, case, case)
    assert (found.measured, found.failures, found.discarded) == (True, ("no cpr=on",), ())
    assert "| failed: `no cpr=on` |" in scoreboard_page([found], REQUEST, MACHINE)


def test_page_has_figures_command_machine_and_gaps(tmp_path: Path) -> None:
    rows = [measured(tmp_path, guest_evidence(3), losing(4, 0)), Measured(row("stock-9"), problem="no such package")]
    page = scoreboard_page(rows, replace(REQUEST, only=("series-*",), load=3.0), MACHINE)
    assert "| 0.7 (4) | 0 |" in page
    assert "102 (102 to 102)" in page
    assert "    cprlib scoreboard --runs 2\n" in page
    assert "A CPU" in page
    assert "the machine was busy" in page
    assert "not measured: no such package" in page
    assert "Rows without a valid figure: `stock-9-cpr-vhost`." in page
    assert "All rows but those that match `series-*`." in page
    assert "`link-switch`" in page.partition("## Not measured")[2]


def test_page_names_the_tests_that_show_what_the_figures_do_not(tmp_path: Path) -> None:
    hidden = row("without-0012-full-ring", shown_by=("packet-waits-in-replaced-netdev",))
    quiet = measured(tmp_path / "quiet", guest_evidence(3), one=hidden)
    worse = measured(tmp_path / "worse", losing(2, 0), one=hidden)
    assert "shown by `packet-waits-in-replaced-netdev`" in scoreboard_page([quiet], REQUEST, MACHINE)
    assert "shown by" not in scoreboard_page([worse], REQUEST, MACHINE)


def test_machine_without_a_known_cpu_is_described() -> None:
    page = scoreboard_page([], REQUEST, replace(MACHINE, cpu="", cores=8))
    assert "| machine | unknown CPU, 8 cores, Linux 6.12 |" in page


def test_failed_check_is_a_remark(tmp_path: Path) -> None:
    case = guest_evidence(3)
    failed = case.with_checks(Check("vhost-worker", Outcome.FAIL, "a worker", "none", "the NIC has no worker"))
    found = measured(tmp_path, failed)
    assert found.failures == ("vhost-worker",)
    assert "failed: `vhost-worker`" in scoreboard_page([found], REQUEST, MACHINE)
