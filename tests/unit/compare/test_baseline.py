"""Baselines: saved small, read strictly, refused for another machine, and fed to a policy's max_ratio."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cprlib.campaign.compare import Effect
from cprlib.campaign.compare.baseline import (
    Baseline,
    check_baseline,
    interruption_ms,
    make_baseline,
    read_baseline,
    read_run_baseline,
    write_baseline,
)
from cprlib.campaign.compare.comparison import Comparison, compare_saved
from cprlib.campaign.compare.conditions import machine_differences
from cprlib.cli.main import main
from cprlib.errors import ExitStatus, InstrumentError, SkipWord, UsageError
from cprlib.evidence.case import CaseEvidence
from cprlib.evidence.records import Check, Outcome, Parameters
from cprlib.report.build_report import build_report
from cprlib.report.environment import Environment
from cprlib.report.run_json import record_begin
from cprlib.traffic.figures import PerDirection
from cprlib.verdict.policy_file import load_policy

from .samples import CASE, guest_evidence

HERE = Environment(
    mode="lab",
    engine="uml",
    kernel="6.18.5",
    architecture="x86_64",
    cpu="Some CPU",
    cores=2,
    python="3.11",
    cprlib="0.1.0",
    lab_kernel="0123456789abcdef",
    accelerator="tcg",
)
POLICY = load_policy("default")


def run_folder(top: Path, name: str, ratio: float = 1.0, guests: int = 8, environment: Environment = HERE) -> Path:
    """A results folder with guests of one case, each a little different, and its run.json."""
    folder = top / name
    for number in range(1, guests + 1):
        case = CASE if number == 1 else f"{CASE}-{number}"
        place = folder / "cases" / case
        place.mkdir(parents=True)
        guest_evidence(5, ratio * (1 + number / 200), case).write(place)
    build_report(folder, POLICY, environment=environment)
    return folder


def saved(top: Path) -> Path:
    path = top / "baseline.json"
    write_baseline(make_baseline(run_folder(top, "good"), POLICY), path)
    return path


def test_baseline_is_small_and_is_read_back(tmp_path: Path) -> None:
    path = saved(tmp_path)
    baseline = read_baseline(path)
    assert baseline.environment == HERE
    assert len(baseline.cases[CASE].guests) == 8
    assert baseline.cases[CASE].guests[0].durations_ms["stop-to-resume"] == (90.45,) * 5
    assert baseline.qemu[0].sha256
    assert path.stat().st_size < 6000
    assert json.loads(path.read_text())["version"] == 2


def check(top: Path, results: Path, **more: bool) -> tuple[int, str]:
    path = top / "baseline.json"
    made = check_baseline(results, read_baseline(path), path, POLICY, Effect(), anyway=more.get("anyway", False))
    assert made.started is not None
    assert made.finished is not None
    return made.exit_status, made.reason


def test_baseline_keeps_the_number_of_updates_without_counted_packets(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, "good", guests=1)
    replace(guest_evidence(5), per_update=guest_evidence(3).per_update).write(folder / "cases" / CASE)
    write_baseline(make_baseline(folder, POLICY), tmp_path / "baseline.json")
    made = check_baseline(
        folder,
        read_baseline(tmp_path / "baseline.json"),
        tmp_path / "baseline.json",
        POLICY,
        Effect(),
        anyway=False,
    )
    assert {(item.a_updates, item.b_updates) for item in made.decision.counts} == {(3, 3)}


def test_baseline_counts_no_packets_of_a_guest_with_an_overlong_pause(tmp_path: Path) -> None:
    folder, path = run_folder(tmp_path, "good", guests=1), tmp_path / "baseline.json"
    case = guest_evidence(5)
    lost = replace(case.per_update[0], loss=PerDirection(90, 0))
    assert case.budget is not None
    replace(
        case,
        per_update=(lost, *case.per_update[1:]),
        loss=PerDirection(90, 0),
        budget=replace(case.budget, queue_length=50),
    ).write(folder / "cases" / CASE)
    write_baseline(make_baseline(folder, POLICY), path)
    made = check_baseline(
        run_folder(tmp_path, "same", guests=1), read_baseline(path), path, POLICY, Effect(), anyway=False
    )
    assert [(item.a, item.a_updates, item.b_updates) for item in made.decision.counts] == [(0, 0, 5)] * 3


def test_slower_run_is_a_regression_and_an_equal_run_is_not(tmp_path: Path) -> None:
    saved(tmp_path)
    assert check(tmp_path, run_folder(tmp_path, "slow", 1.3))[0] == ExitStatus.FAIL
    assert check(tmp_path, run_folder(tmp_path, "same", 1.01))[0] == ExitStatus.PASS


def test_run_of_one_guest_is_undecided(tmp_path: Path) -> None:
    saved(tmp_path)
    status, reason = check(tmp_path, run_folder(tmp_path, "single", guests=1))
    assert status == ExitStatus.INCONCLUSIVE
    assert "undecided" in reason


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"cpu": "Another CPU"}, "CPU: Some CPU before, Another CPU now"),
        ({"cores": 4}, "number of cores: 2 before, 4 now"),
        ({"kernel": "6.19.1"}, "kernel: 6.18 before, 6.19 now"),
        ({"engine": "kvm"}, "engine"),
        ({"lab_kernel": "fedcba"}, "lab's kernel"),
        ({"accelerator": ""}, "accelerator: tcg before, unknown now"),
    ],
)
def test_baseline_of_another_machine_is_refused_unless_accepted(
    tmp_path: Path, changes: dict[str, object], word: str
) -> None:
    saved(tmp_path)
    other = replace(HERE, **changes)  # type: ignore[arg-type]
    results = run_folder(tmp_path, "elsewhere", environment=other)
    with pytest.raises(InstrumentError, match="another machine") as caught:
        check(tmp_path, results)
    assert word in caught.value.one_line()
    assert caught.value.exit_status == ExitStatus.INCONCLUSIVE
    assert check(tmp_path, results, anyway=True)[0] == ExitStatus.PASS


def test_a_newer_python_or_a_patch_of_the_kernel_is_the_same_machine() -> None:
    assert machine_differences(HERE, replace(HERE, python="3.13", kernel="6.18.9", memory_mib=1, commit="x")) == ()


def test_run_that_the_policy_refuses_cannot_become_a_baseline(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, "lossy", guests=1)
    replace(guest_evidence(5), loss=PerDirection(1, 0)).write(folder / "cases" / CASE)
    with pytest.raises(UsageError, match=r"the policy refuses .*: loss: 1 packet lost forward"):
        make_baseline(folder, POLICY)


def test_a_run_with_other_parameters_is_not_compared(tmp_path: Path) -> None:
    saved(tmp_path)
    folder = run_folder(tmp_path, "faster", guests=1)
    case = guest_evidence(5)
    replace(case, parameters=replace(case.parameters, rate=2000.0)).write(folder / "cases" / CASE)
    status, reason = check(tmp_path, folder)
    assert status == ExitStatus.INCONCLUSIVE
    assert "the baseline has rate=1000.0" in reason


def compare_runs(a: Path, b: Path) -> Comparison:
    return compare_saved(a, b, POLICY, Effect())


def test_saved_runs_with_other_parameters_are_not_compared(tmp_path: Path) -> None:
    good, slow = run_folder(tmp_path, "good"), run_folder(tmp_path, "slow", 1.3)
    assert compare_runs(good, slow).exit_status == ExitStatus.FAIL
    for path in slow.glob("cases/*"):
        case = guest_evidence(5, 1.3, path.name)
        replace(case, parameters=replace(case.parameters, rate=2000.0)).write(path)
    made = compare_runs(good, slow)
    assert made.exit_status == ExitStatus.INCONCLUSIVE
    assert made.reason == f"{CASE}: A has rate=1000.0"
    assert made.samples == ()


def test_run_whose_first_update_fails_is_a_regression(tmp_path: Path) -> None:
    saved(tmp_path)
    bad = run_folder(tmp_path, "bad", guests=2)
    for path in bad.glob("cases/*"):
        case = replace(guest_evidence(5, case=path.name), updates=0, per_update=())
        case.with_checks(Check("update-completes", Outcome.FAIL, "completed", "failed", "no CPR state")).write(path)
    assert check(tmp_path, bad) == (ExitStatus.FAIL, "update-completes: no CPR state")
    assert compare_runs(tmp_path / "good", bad).exit_status == ExitStatus.FAIL


def test_case_that_b_lacks_is_a_problem(tmp_path: Path) -> None:
    good, same = run_folder(tmp_path, "good"), run_folder(tmp_path, "same")
    assert compare_runs(good, same).exit_status == ExitStatus.PASS
    replace(guest_evidence(case="other"), test="1-x.py:X.test_other").write(good / "cases" / "other")
    made = compare_runs(good, same)
    assert (made.exit_status, made.reason) == (ExitStatus.INCONCLUSIVE, "B has no guest of other")
    write_baseline(make_baseline(good, POLICY), tmp_path / "baseline.json")
    assert check(tmp_path, same) == (ExitStatus.INCONCLUSIVE, "B has no guest of other")


def with_parameters(case: CaseEvidence, more: dict[str, str], **changes: object) -> CaseEvidence:
    parameters = replace(case.parameters, more={**case.parameters.more, **more}, **changes)  # type: ignore[arg-type]
    return replace(case, parameters=parameters)


@pytest.mark.parametrize("side", ["good", "slow"])
@pytest.mark.parametrize("more", [{"nic.packed": "on"}, {"qemu_args": "-sandbox on"}, {"mode": "cpr-exec"}])
def test_guests_with_given_options_are_not_compared_with_others(
    tmp_path: Path, side: str, more: dict[str, str]
) -> None:
    good, slow = run_folder(tmp_path, "good"), run_folder(tmp_path, "slow", 1.3)
    for path in (tmp_path / side).glob("cases/*"):
        with_parameters(CaseEvidence.read(path), more).write(path)
    made = compare_runs(good, slow)
    assert made.exit_status == ExitStatus.INCONCLUSIVE
    ((name, value),) = more.items()
    assert made.reason == f"{CASE}: A has {name}={value if side == 'good' else 'not set'}"


def test_guests_of_one_side_with_different_parameters_are_not_one_sample(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    run_folder(runs, "first", guests=4)
    for path in run_folder(runs, "second", guests=4).glob("cases/*"):
        with_parameters(CaseEvidence.read(path), {}, rate=500.0).write(path)
    with pytest.raises(UsageError, match=r"guests with rate=1000\.0 and rate=500\.0"):
        make_baseline(runs, POLICY)
    made = compare_runs(runs, run_folder(tmp_path, "other"))
    assert made.reason == f"{CASE}: A has guests with rate=1000.0 and rate=500.0"


def test_a_skipped_first_guest_of_a_hides_no_difference(tmp_path: Path) -> None:
    good, slow = run_folder(tmp_path, "good"), run_folder(tmp_path, "slow", 1.3)
    skipped = replace(guest_evidence(5), parameters=Parameters(), updates=0, skip_word=SkipWord.NO_CPR, skipped="no")
    skipped.write(good / "cases" / CASE)
    for path in slow.glob("cases/*"):
        with_parameters(CaseEvidence.read(path), {}, rate=500.0).write(path)
    assert compare_runs(good, slow).reason == f"{CASE}: A has rate=1000.0"


def test_runs_of_two_machines_are_no_baseline(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    run_folder(runs, "first", guests=4)
    run_folder(runs, "second", guests=4, environment=replace(HERE, cores=4))
    with pytest.raises(UsageError, match="number of cores: 2 before, 4 now"):
        make_baseline(runs, POLICY)
    assert compare_runs(runs, run_folder(tmp_path, "other")).reason.startswith("different machines: number of cores")


def test_a_skipped_guest_is_compared_whatever_its_parameters(tmp_path: Path) -> None:
    good, none = run_folder(tmp_path, "good"), run_folder(tmp_path, "without-feature", guests=1)
    skipped = replace(
        guest_evidence(5), parameters=Parameters(), updates=0, skip_word=SkipWord.NO_CPR, skipped="no cpr=on"
    )
    skipped.write(none / "cases" / CASE)
    assert compare_runs(good, none).exit_status == ExitStatus.FAIL


def test_nothing_is_decided_between_saved_runs_of_different_machines(tmp_path: Path) -> None:
    good = run_folder(tmp_path, "good")
    slow = run_folder(tmp_path, "slow", 1.3, environment=replace(HERE, cores=4))
    made = compare_runs(good, slow)
    assert made.exit_status == ExitStatus.INCONCLUSIVE
    assert made.reason == "different machines: number of cores: 2 before, 4 now"
    assert made.environment.cpu == HERE.cpu
    assert made.environment.cores is None


def test_runs_without_a_description_are_compared_only_within_a_session(tmp_path: Path) -> None:
    good, slow = run_folder(tmp_path, "good"), run_folder(tmp_path, "slow", 1.3)
    for folder in (good, slow):
        (folder / "run.json").unlink()
    made = compare_runs(good, slow)
    assert made.exit_status == ExitStatus.INCONCLUSIVE
    assert made.reason.endswith("architecture, CPU, number of cores, kernel, mode, accelerator: unknown before and now")
    (tmp_path / "session.json").write_text("{}")  # of a comparison that was interrupted
    assert compare_runs(good, slow).exit_status == ExitStatus.FAIL


def test_two_unknown_machines_are_not_one_machine() -> None:
    unknown = replace(HERE, cpu="", cores=None)
    assert machine_differences(unknown, unknown) == ("CPU, number of cores: unknown before and now",)
    native = replace(HERE, mode="native", engine="", lab_kernel="")
    assert machine_differences(native, native) == ()


def test_a_broken_baseline_is_a_usage_error(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    for text, why in (("{", "Expecting"), ("{}", "version missing, this program reads"), (None, "No such file")):
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_text(text)
        with pytest.raises(UsageError, match=why):
            read_baseline(path)
    made = Baseline("x", HERE, (), {}, version=9)
    write_baseline(replace(made, cases=read_baseline(saved(tmp_path)).cases), path)
    with pytest.raises(UsageError, match="version 9"):
        read_baseline(path)


def test_max_ratio_is_judged_by_the_baseline(tmp_path: Path) -> None:
    path = saved(tmp_path)
    policy_file = tmp_path / "gate.toml"
    policy_file.write_text('extends = "default"\n[interruption]\nmax_ratio = 1.3\n')
    policy = load_policy(policy_file)
    known = interruption_ms(read_run_baseline(path, policy))
    assert known
    results = run_folder(tmp_path, "again", guests=2)
    record_begin(results, policy, HERE, "cprlib run", known)
    for case in build_report(results, policy).cases:
        assert case.outcome == Outcome.PASS, case.evidence.id
    record_begin(results, policy, HERE, "cprlib run", {CASE: known[CASE] / 2})
    assert build_report(results, policy).verdict.outcome == Outcome.FAIL


def test_baseline_is_refused_with_a_policy_without_max_ratio(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no max_ratio"):
        read_run_baseline(saved(tmp_path), POLICY)


def test_command_saves_checks_and_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run_folder(tmp_path / "results", "monday")
    assert main(["baseline", "save", "--run", "monday", "b.json"]) == ExitStatus.PASS
    assert f"{CASE}: 8 guests, 40 updates" in capsys.readouterr().out
    slow = run_folder(tmp_path / "results", "tuesday", 1.4)
    assert main(["baseline", "check", str(slow), "b.json", "--out", "checks"]) == ExitStatus.FAIL
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1].startswith("verdict: REGRESSION")
    assert Path("checks/latest/compare.html").exists()
    elsewhere = run_folder(tmp_path / "results", "friday", environment=replace(HERE, cores=64))
    assert main(["baseline", "check", str(elsewhere), "b.json"]) == ExitStatus.INCONCLUSIVE
    assert "number of cores: 2 before, 64 now" in capsys.readouterr().err
    assert main(["baseline", "check", "b.json"]) == ExitStatus.USAGE
    assert main(["baseline", "check", "a", "b", "c"]) == ExitStatus.USAGE
