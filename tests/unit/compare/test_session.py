"""Sessions: both sides in each round, a recorded random order, an end as soon as everything is decided, resuming."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from cprlib.build.assets import Assets
from cprlib.build.progress import Progress
from cprlib.campaign import session as session_module
from cprlib.campaign.compare import Effect
from cprlib.campaign.compare import run as run_module
from cprlib.campaign.compare.comparison import Comparison, Round, Side, compare_saved
from cprlib.campaign.compare.decision import Change
from cprlib.campaign.compare.guest import GuestResult, read_guests
from cprlib.campaign.compare.run import CompareStrategy, conclude, random_order
from cprlib.campaign.compare.session import (
    A_TO_B_CASE,
    STORE,
    UPDATES_CASE,
    Arm,
    CompareRequest,
    CompareState,
    GuestJobs,
    make_arms,
    read_state,
)
from cprlib.campaign.job import FinishedJob, SuiteTest
from cprlib.campaign.pool import Children, Pool
from cprlib.campaign.session import Session
from cprlib.campaign.store import PARTIAL
from cprlib.cli.main import main
from cprlib.errors import EnvironmentFailure, ExitStatus, InstrumentError, UsageError
from cprlib.guest.image import GuestImage
from cprlib.qemu.binary import QemuBinary
from cprlib.qemu.facts import QemuFacts
from cprlib.report.environment import Environment
from cprlib.verdict.policy_file import load_policy

from .samples import ASSETS, CASE, guest, guest_evidence, refused

ENVIRONMENT = Environment(mode="lab", engine="uml", kernel="6.18", python="3.11", cprlib="0.1.0")
TESTS = (SuiteTest(CASE, f"/x/test_chain.py:Chain.{CASE}"), SuiteTest("other", "/x/test_other.py:Other.test_other"))
A_TO_B = SuiteTest(A_TO_B_CASE, "/x/test_cross_base.py:CrossBase.test_update_to_another_base")
ARMS = tuple(Arm(name, {"qemu": f"/{name[0]}"}, TESTS) for name in ("a", "b", "a-again"))
ARMS = (*ARMS, Arm("a-to-b", {"qemu": "/a", "target_qemu": "/b"}, TESTS[1:]))
POLICY = load_policy("default")
REQUEST = CompareRequest(QemuBinary(Path("/b")), seed=5)


def test_arms_differ_in_their_qemu_alone(tmp_path: Path) -> None:
    first, second = tmp_path / "qemu-a", tmp_path / "qemu-b"
    for path in (first, second):
        path.write_text(path.name)
    assets = Assets(QemuBinary(first, Path("/firmware-a")), GuestImage(Path("/k"), Path("/i"), "x"))
    request = CompareRequest(QemuBinary(second), noise=True, engine="uml")
    made = make_arms(assets, request, (*TESTS, A_TO_B))
    given = {arm.name: arm.parameters for arm in made}
    assert list(given) == ["a", "b", "a-again", "a-to-b"]
    assert [given[name]["qemu"] for name in given] == [str(first), str(second), str(first), str(first)]
    assert given["a-to-b"]["target_qemu"] == str(second)
    assert "firmware" not in given["b"]
    assert {parameters["chain"] for parameters in given.values()} == {"4"}


def test_lab_with_kvm_has_its_own_rate_unless_one_is_given(tmp_path: Path) -> None:
    (tmp_path / "qemu").write_text("x")
    assets = Assets(QemuBinary(tmp_path / "qemu"), GuestImage(Path("/k"), Path("/i"), "x"))
    request = replace(REQUEST, b=assets.qemu, engine="kvm")
    arm, _ = make_arms(assets, request, TESTS)
    assert [arm.parameters[name] for name in ("chain", "rate", "control_run")] == ["4", "200", "8"]
    assert request.used_parameters == {"chain": "4", "rate": "200", "control_run": "8"}
    arm, _ = make_arms(assets, replace(request, parameters={"rate": "300"}), TESTS)
    assert arm.parameters["rate"] == "300"


def test_equal_qemus_have_no_update_from_a_to_b(tmp_path: Path) -> None:
    (tmp_path / "qemu").write_text("x")
    assets = Assets(QemuBinary(tmp_path / "qemu"), GuestImage(Path("/k"), Path("/i"), "x"))
    made = make_arms(assets, replace(REQUEST, b=assets.qemu), (*TESTS, A_TO_B))
    assert [arm.name for arm in made] == ["a", "b"]
    assert made[0].parameters["accelerator"] == "kvm"


@dataclass(frozen=True)
class FakeSession(Session):
    """Leaves good evidence instead of running Avocado."""

    ran: list[tuple[str, str]] = field(default_factory=list)
    broken: bool = False

    def run(self, place: str, test: SuiteTest, *_: object) -> FinishedJob:
        if self.broken:
            raise EnvironmentFailure("run Avocado", "there is none")
        self.ran.append((place.rpartition("/")[0], test.id))
        folder = self.partial / place
        guest_evidence(2, case=test.id).write(folder / "cases" / test.id)
        return FinishedJob(folder, 1, 1.0, 0)


def fake_session(folder: Path, *, broken: bool = False) -> FakeSession:
    return FakeSession(folder, folder / PARTIAL, ASSETS, None, workers=2, broken=broken)


def run_rounds(fake: FakeSession, rounds: int = 1, arms: Sequence[Arm] = ARMS) -> CompareStrategy:
    """Rounds on two workers until the budget is used up, by a made-up clock: a round takes 15 s."""
    ticks = iter(range(10**6))
    request = replace(REQUEST, budget=rounds / 3, whole=True)
    jobs = GuestJobs(fake, POLICY)
    strategy = CompareStrategy(fake.folder, request, arms, jobs, CompareState(), print, lambda: 5.0 * next(ticks))
    fake.run_all(strategy)
    return strategy


def test_round_runs_every_case_on_every_arm_and_records_the_order(tmp_path: Path) -> None:
    fake = fake_session(tmp_path)
    strategy = run_rounds(fake)
    guests, done = strategy.rounds[0], strategy.state.rounds[0]
    first = [item for item in fake.ran if item[0].endswith("/round-1")]
    assert sorted(first) == sorted((f"{arm}/round-1", case) for arm, case in done.order)
    assert len(done.order) == 7
    assert [item.case for item in guests["b"]] == [CASE, "other"]
    assert guests["b"][0].folder == f"results/b/round-1/{CASE}/cases/{CASE}"
    assert (tmp_path / guests["b"][0].folder / "case.json").exists()


def test_order_is_random_in_each_round() -> None:
    first = [random_order(5, number, ARMS[:2])[0][0].name for number in range(1, 13)]
    assert 2 <= first.count("a") <= 10


def test_both_sides_of_a_case_run_side_by_side() -> None:
    order = [test.id for _, test in random_order(5, 1, ARMS[:2])]
    assert order[0] == order[1] != order[2] == order[3]


def test_error_of_a_job_ends_the_round(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFailure, match="there is none"):
        run_rounds(fake_session(tmp_path, broken=True))


def test_round_is_read_again_from_its_results(tmp_path: Path) -> None:
    fake = fake_session(tmp_path)
    before = run_rounds(fake)
    again = CompareStrategy(tmp_path, REQUEST, ARMS, GuestJobs(fake, POLICY), before.state, print)
    assert again.rounds == before.rounds


def test_saved_guests_are_read_from_a_folder_of_rounds_in_their_order(tmp_path: Path) -> None:
    count = len(run_rounds(fake_session(tmp_path), 3, ARMS[:2]).rounds)
    assert count >= 3
    (tmp_path / "results" / "latest").symlink_to("a")
    guests = read_guests(tmp_path / "results" / "a", POLICY)
    assert {case: len(found) for case, found in guests.items()} == {CASE: count, "other": count}
    made = compare_saved(tmp_path / "results" / "a", tmp_path / "results" / "b", POLICY, Effect())
    assert (made.kind, made.exit_status, len(made.samples[0].a)) == ("saved", ExitStatus.INCONCLUSIVE, count)
    with pytest.raises(InstrumentError, match="no case of a live update"):
        read_guests(tmp_path / PARTIAL, POLICY)


def test_saved_runs_without_a_case_in_common_are_refused(tmp_path: Path) -> None:
    for name, case in (("one", "x"), ("two", "y")):
        folder = tmp_path / name / "cases" / case
        folder.mkdir(parents=True)
        guest_evidence(2, case=case).write(folder)
    with pytest.raises(UsageError, match="no case in common"):
        compare_saved(tmp_path / "one", tmp_path / "two", POLICY, Effect())


class FakeJobs:
    """Made-up guests; a round takes half a minute of its clock."""

    def __init__(self, b: Sequence[GuestResult] | None = None, ratio: float = 1.0, again: float | None = None) -> None:
        self.now = 0.0
        self.ran: list[int] = []
        self.interrupt_in_round: int | None = None
        self.again = again
        self._b = b
        self._ratio = ratio
        self._noise = random.Random(2)  # noqa: S311

    def run(self, number: int, arm: Arm, test: SuiteTest) -> bool:
        del test
        if number == self.interrupt_in_round:
            raise KeyboardInterrupt
        if arm.name == "a":
            self.now += 30
            self.ran.append(number)
        return True

    def read(self, number: int, arm: Arm, test: SuiteTest) -> GuestResult:
        del test
        if arm.name == "b" and self._b is not None:
            return self._b[min(number, len(self._b)) - 1]
        ratio = {"a": 1.0, "b": self._ratio, "a-again": self.again or 1.0, "a-to-b": 1.0}[arm.name]
        return guest(170 * ratio * 2.718281828 ** self._noise.gauss(0, 0.03))


def session(
    folder: Path, fake: FakeJobs, minutes: float = 7.0, state: CompareState | None = None, whole: bool = False
) -> tuple[Comparison, list[str]]:
    """A comparison with made-up guests and a made-up clock."""
    lines: list[str] = []
    request = replace(REQUEST, budget=minutes, whole=whole)
    arms = [replace(arm, tests=TESTS[:1]) for arm in (ARMS if fake.again else ARMS[:2])]
    jobs: GuestJobs = fake  # type: ignore[assignment]
    strategy = CompareStrategy(folder, request, arms, jobs, state or CompareState(), lines.append, lambda: fake.now)
    Pool(strategy, 1, Children()).run()
    return conclude(request, strategy, (Side("/a"), Side("/b")), POLICY, ENVIRONMENT), lines


def test_slower_b_is_reported_before_the_budget_is_used_up(tmp_path: Path) -> None:
    made, lines = session(tmp_path, FakeJobs(ratio=1.3), minutes=20)
    assert (made.verdict, made.exit_status) == (Change.REGRESS, ExitStatus.FAIL)
    assert 10 <= len(made.rounds) <= 15
    assert made.interim_analyses[-1] == len(made.rounds)
    assert any("interim analysis after round" in line for line in lines)
    assert "round 1: interruption return: a 182 ms" in lines[0]


def test_equals_end_without_regression(tmp_path: Path) -> None:
    made, _ = session(tmp_path, FakeJobs(), minutes=20)
    assert (made.verdict, made.exit_status) == (Change.SAME, ExitStatus.PASS)


def test_no_round_begins_that_would_not_end_in_the_budget(tmp_path: Path) -> None:
    made, _ = session(tmp_path, FakeJobs(ratio=1.1), minutes=2.3)
    assert len(made.rounds) == 4
    assert made.exit_status == ExitStatus.INCONCLUSIVE
    assert "undecided: " in made.reason


def test_lost_packet_ends_it_at_once_unless_the_whole_budget_is_to_be_used(tmp_path: Path) -> None:
    lossy = [guest(), guest(lost=[1]), guest()]
    made, _ = session(tmp_path, FakeJobs(b=lossy))
    assert (len(made.rounds), made.exit_status) == (2, ExitStatus.FAIL)
    assert "loss: 1 packets lost" in made.reason
    made, _ = session(tmp_path, FakeJobs(b=lossy), whole=True)
    assert (len(made.rounds), made.exit_status) == (14, ExitStatus.FAIL)


def test_guests_that_are_never_valid_end_it_undecided(tmp_path: Path) -> None:
    made, _ = session(tmp_path, FakeJobs(b=[guest(problems=("instrument: dead",))]))
    assert (len(made.rounds), made.exit_status) == (2, ExitStatus.INCONCLUSIVE)
    assert "instrument: dead" in made.reason


def test_where_a_differs_from_itself_durations_decide_nothing(tmp_path: Path) -> None:
    made, _ = session(tmp_path, FakeJobs(ratio=1.3, again=1.4), minutes=20)
    assert made.a_against_a is not None
    assert made.exit_status == ExitStatus.INCONCLUSIVE
    assert "A against A differs" in made.reason


def test_refused_update_from_a_to_b_is_a_regression(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeJobs(again=1.0)
    usual = fake.read

    def read(number: int, arm: Arm, test: SuiteTest) -> GuestResult:
        if arm.name == "a-to-b":
            return guest(updates=1, failures=(refused("update-completes", "refused"),))
        return usual(number, arm, test)

    monkeypatch.setattr(fake, "read", read)
    made, _ = session(tmp_path, fake)
    assert made.exit_status == ExitStatus.FAIL
    assert made.reason == "update from A to B: update-completes: refused"


def test_interrupted_comparison_continues_with_its_rounds_its_budget_and_its_alpha(tmp_path: Path) -> None:
    fake = FakeJobs(ratio=1.3)
    fake.interrupt_in_round = 7
    with pytest.raises(KeyboardInterrupt):
        session(tmp_path, fake, minutes=20)
    state = read_state(tmp_path)
    assert (len(state.rounds), state.elapsed_s, state.ended) == (6, 180.0, False)
    again = FakeJobs(ratio=1.3)
    made, _ = session(tmp_path, again, minutes=20, state=state)
    assert again.ran == list(range(7, len(made.rounds) + 1))
    assert made.verdict == Change.REGRESS
    assert len(made.rounds) > 6
    (tmp_path / "compare.json").touch()
    with pytest.raises(UsageError, match="it has ended"):
        read_state(tmp_path)


def test_comparison_that_was_interrupted_after_its_last_round_has_its_result(tmp_path: Path) -> None:
    made, _ = session(tmp_path, FakeJobs(ratio=1.3), minutes=20)
    state = read_state(tmp_path)
    assert state.ended
    again = FakeJobs(ratio=1.3)
    resumed, _ = session(tmp_path, again, minutes=20, state=state)
    assert again.ran == []
    assert (resumed.verdict, resumed.exit_status) == (Change.REGRESS, ExitStatus.FAIL)
    assert (resumed.rounds, resumed.interim_analyses, resumed.confidence) == (
        made.rounds,
        made.interim_analyses,
        made.confidence,
    )


def facts(qemu: QemuBinary) -> QemuFacts:
    return QemuFacts(str(qemu.path), "10", qemu.path.name, True, True, False)


def test_comparison_is_not_resumed_with_other_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "kernel", "initramfs"):
        (tmp_path / name).write_text("x")
    assets = Assets(QemuBinary(tmp_path / "a"), GuestImage(tmp_path / "kernel", tmp_path / "initramfs", "x"))
    monkeypatch.setattr(session_module, "build_assets", lambda *_, **__: assets)
    monkeypatch.setattr(run_module, "probe", facts)
    request = CompareRequest(QemuBinary(tmp_path / "b"), seed=5, a_to_b=False)
    folder = STORE.begin(tmp_path / "sessions", request)
    (tmp_path / "test_chain.py").write_text("")
    tests = [SuiteTest(UPDATES_CASE, f"{tmp_path}/test_chain.py:Chain.test_x")]
    CompareState(("a", "b"), ("the key of other tests",)).write(folder)
    with pytest.raises(UsageError, match="cprlib, a test, the guest"):
        run_module.compare(folder, request, tests, parallel=1, progress=Progress(), say=print)


def test_comparison_that_was_interrupted_in_its_first_round_can_be_resumed(tmp_path: Path) -> None:
    folder = STORE.begin(tmp_path, REQUEST)
    fake = FakeJobs(ratio=1.3)
    fake.interrupt_in_round = 1
    with pytest.raises(KeyboardInterrupt):
        session(folder, fake)
    assert STORE.latest(tmp_path) == folder
    assert STORE.read(folder) == REQUEST
    assert read_state(folder) == CompareState()


def test_the_interrupted_comparison_is_resumed_and_not_a_later_one_that_ended(tmp_path: Path) -> None:
    interrupted = STORE.begin(tmp_path, replace(REQUEST, started_ns=1))
    ended = STORE.begin(tmp_path, replace(REQUEST, started_ns=2))
    assert STORE.latest(tmp_path) == ended
    (ended / "compare.json").touch()
    assert STORE.latest(tmp_path) == interrupted
    (interrupted / "compare.json").touch()
    assert STORE.latest(tmp_path) == ended


def test_alpha_that_earlier_analyses_spent_is_gone(tmp_path: Path) -> None:
    round_one = Round(1, (("a", CASE), ("b", CASE)), 30.0, 1)
    state = CompareState(rounds=(round_one,), analyses=((1, 1.0),), elapsed_s=30.0)
    made, _ = session(tmp_path, FakeJobs(ratio=1.3), minutes=5.5, state=state)
    assert made.exit_status == ExitStatus.INCONCLUSIVE


@pytest.mark.parametrize("text", ["", "{", "[]", '{"rounds": 1}'])
def test_broken_state_is_a_usage_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(UsageError, match=r"state\.json"):
        read_state(tmp_path)


def test_resume_beside_a_running_comparison_is_refused_and_keeps_its_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(session_module, "build_assets", lambda *_, **__: pytest.fail("something was built"))
    folder = STORE.begin(tmp_path, REQUEST)
    with STORE.locked(folder) as partial:
        running = partial / "a" / "round-1" / CASE
        running.mkdir(parents=True)
        assert main(["compare", "--resume", "--out", str(tmp_path)]) == ExitStatus.USAGE
        assert running.is_dir()
    assert "another cprlib compare runs in it" in capsys.readouterr().err


def test_resume_of_an_older_version_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "session.json").write_text('{"asked": {"b": "/b", "started_ns": 1}, "version": 1}')
    assert main(["compare", "--resume", "--out", str(tmp_path)]) == ExitStatus.USAGE
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "store version 1, this program reads 4" in lines[0]
