"""Rounds: both sides in each, an order by lot that is recorded, and an end as soon as everything is decided."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from cprlib.campaign.compare import run as run_module
from cprlib.campaign.compare.chain import Chain
from cprlib.campaign.compare.comparison import Comparison, Side
from cprlib.campaign.compare.findings import Change, Effect
from cprlib.campaign.compare.kept import Asked, Kept, KeptRound, latest_kept, read_kept
from cprlib.campaign.compare.run import Wanted, compare, make_arms
from cprlib.campaign.compare.saved import compare_saved, read_chains
from cprlib.campaign.compare.session import Arm, Round, Session
from cprlib.campaign.job import FinishedJob, SuiteTest
from cprlib.campaign.pool import Children
from cprlib.errors import EnvironmentFailure, ExitStatus, InstrumentError, UsageError
from cprlib.report.environment import Environment
from cprlib.verdict.policy_file import load_policy

from .samples import CASE, chain, chain_evidence

ENVIRONMENT = Environment(mode="lab", engine="uml", kernel="6.18", python="3.11", cprlib="0.1.0")
TESTS = (SuiteTest(CASE, f"/x/test_chain.py:Chain.{CASE}"), SuiteTest("other", "/x/test_other.py:Other.test_other"))
ARMS = make_arms(TESTS, {"qemu": "/a"}, {"qemu": "/b", "firmware": "/fw"}, again=True, crossing=TESTS[1:])


@dataclass
class FakeCells:
    """Leaves good evidence in place of Avocado."""

    aside: Path
    ran: list[tuple[str, str]] = field(default_factory=list)
    broken: bool = False

    def run(self, folder: Path, reference: str, parameters: Mapping[str, str]) -> FinishedJob:
        del parameters, reference
        if self.broken:
            raise EnvironmentFailure("run Avocado", "there is none")
        self.ran.append((str(folder.parent.relative_to(self.aside)), folder.name))
        case = folder / "cases" / folder.name
        case.mkdir(parents=True)
        chain_evidence(2, case=folder.name).write(case)
        return FinishedJob(folder, 1, 1.0, 0)


def session(folder: Path, cells: FakeCells, seed: int = 5) -> Session:
    return Session(
        folder,
        folder / ".aside",
        cells,  # type: ignore[arg-type]
        load_policy("default"),
        2,
        seed,
        Children(),
        ENVIRONMENT,
    )


def test_arms_differ_in_their_qemu_alone() -> None:
    assert [arm.name for arm in ARMS] == ["a", "b", "a-again", "a-to-b"]
    assert ARMS[3].parameters == {"qemu": "/a", "target_qemu": "/b", "target_firmware": "/fw"}
    assert [arm.name for arm in make_arms(TESTS, {"qemu": "/a"}, {"qemu": "/b"}, again=False)] == ["a", "b"]


def test_a_round_runs_every_case_on_every_side_and_records_the_order(tmp_path: Path) -> None:
    cells = FakeCells(tmp_path / ".aside")
    done = session(tmp_path, cells).run(1, ARMS)
    assert sorted(cells.ran) == sorted((f"{arm}/round-1", case) for arm, case in done.order)
    assert len(done.order) == 7
    assert [chain.case for chain in done.chains["b"]] == [CASE, "other"]
    assert done.chains["b"][0].folder == f"cells/b/round-1/{CASE}/cases/{CASE}"
    assert (tmp_path / done.chains["b"][0].folder / "case.json").exists()


def test_who_goes_first_is_drawn_anew_each_round(tmp_path: Path) -> None:
    running = session(tmp_path, FakeCells(tmp_path / ".aside"))
    first = [running.run(number, ARMS[:2]).order[0][0] for number in range(1, 13)]
    assert 2 <= first.count("a") <= 10


def test_cases_of_one_round_run_side_by_side(tmp_path: Path) -> None:
    order = session(tmp_path, FakeCells(tmp_path / ".aside")).run(1, ARMS[:2]).order
    assert order[0][1] == order[1][1] != order[2][1] == order[3][1]


def test_what_ends_a_cell_ends_the_round(tmp_path: Path) -> None:
    running = session(tmp_path, FakeCells(tmp_path / ".aside", broken=True))
    with pytest.raises(EnvironmentFailure):
        running.run(1, ARMS)
    assert running.children.stopped


def test_saved_chains_are_read_from_a_folder_of_rounds_in_their_order(tmp_path: Path) -> None:
    running = session(tmp_path, FakeCells(tmp_path / ".aside"))
    for number in (1, 2, 3):
        running.run(number, ARMS[:2])
    (tmp_path / "cells" / "latest").symlink_to("a")
    chains = read_chains(tmp_path / "cells" / "a", load_policy("default"), ENVIRONMENT)
    assert {case: len(found) for case, found in chains.items()} == {CASE: 3, "other": 3}
    made = compare_saved(
        tmp_path / "cells" / "a", tmp_path / "cells" / "b", load_policy("default"), Effect(), ENVIRONMENT
    )
    assert (made.kind, made.exit_status, len(made.samples[0].a)) == ("saved", ExitStatus.INCONCLUSIVE, 3)
    with pytest.raises(InstrumentError, match="no case of a live update"):
        read_chains(tmp_path / ".aside", load_policy("default"), ENVIRONMENT)


def test_saved_runs_without_a_case_in_common_are_refused(tmp_path: Path) -> None:
    for name, case in (("one", "x"), ("two", "y")):
        folder = tmp_path / name / "cases" / case
        folder.mkdir(parents=True)
        chain_evidence(2, case=case).write(folder)
    with pytest.raises(UsageError, match="no case in common"):
        compare_saved(tmp_path / "one", tmp_path / "two", load_policy("default"), Effect(), ENVIRONMENT)


class FakeSession:
    """Rounds of made-up chains, half a minute each."""

    def __init__(
        self, folder: Path, b: Sequence[Chain] | None = None, ratio: float = 1.0, again: float | None = None
    ) -> None:
        self.folder = folder
        self.now = 0.0
        self.read_again: list[int] = []
        self._b = b
        self._ratio = ratio
        self._again = again
        self._lot = random.Random(2)  # noqa: S311

    def read(self, kept: KeptRound, arms: Sequence[Arm]) -> Round:
        self.read_again.append(kept.number)
        done = self.run(kept.number, arms)
        self.now -= 30
        return done

    def run(self, number: int, arms: Sequence[Arm]) -> Round:
        self.now += 30
        made = {}
        for arm in arms:
            ratio = {"a": 1.0, "b": self._ratio, "a-again": self._again or 1.0, "a-to-b": 1.0}[arm.name]
            made[arm.name] = (chain(170 * ratio * 2.718281828 ** self._lot.gauss(0, 0.03)),)
        if self._b is not None:
            made["b"] = (self._b[min(number, len(self._b)) - 1],)
        return Round(number, tuple((arm.name, CASE) for arm in arms), made, 30.0, number)


def rounds(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    fake: FakeSession,
    minutes: float = 7.0,
    kept: Kept | None = None,
    **more: object,
) -> tuple[Comparison, list[str]]:
    """A comparison with a fake session and its clock."""
    monkeypatch.setattr(run_module, "Session", lambda *_: fake)
    said: list[str] = []
    arms = ARMS if fake._again else ARMS[:2]
    wanted = Wanted(arms, Side("/a"), Side("/b"), Effect(), load_policy("default"), 60 * minutes, False, 1)
    made = compare(
        folder,
        replace(wanted, **more),  # type: ignore[arg-type]
        kept or Kept(Asked("/b")),
        engine=None,
        lab_kernel=None,
        workers=1,
        environment=ENVIRONMENT,
        say=said.append,
        clock=lambda: fake.now,
    )
    return made, said


def test_a_slower_b_is_told_before_the_budget_is_used_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made, said = rounds(monkeypatch, tmp_path, FakeSession(tmp_path, ratio=1.3), minutes=20)
    assert (made.change, made.exit_status) == (Change.REGRESS, ExitStatus.FAIL)
    assert 10 <= len(made.rounds) <= 15
    assert made.looks[-1] == len(made.rounds)
    assert any("look after round" in line for line in said)


def test_equals_end_without_regression(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made, _ = rounds(monkeypatch, tmp_path, FakeSession(tmp_path), minutes=20)
    assert (made.change, made.exit_status) == (Change.SAME, ExitStatus.PASS)


def test_no_round_is_begun_that_would_not_end_in_the_budget(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made, _ = rounds(monkeypatch, tmp_path, FakeSession(tmp_path, ratio=1.1), minutes=2.3)
    assert len(made.rounds) == 4
    assert made.exit_status == ExitStatus.INCONCLUSIVE
    assert "not decided" in made.reason


def test_a_lost_packet_ends_it_at_once_unless_the_whole_budget_is_wanted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lossy = [chain(), chain(lost=[1]), chain()]
    made, _ = rounds(monkeypatch, tmp_path, FakeSession(tmp_path, b=lossy))
    assert (len(made.rounds), made.exit_status) == (2, ExitStatus.FAIL)
    assert "loss: 1 packets lost" in made.reason
    made, _ = rounds(monkeypatch, tmp_path, FakeSession(tmp_path, b=lossy), whole=True)
    assert (len(made.rounds), made.exit_status) == (14, ExitStatus.FAIL)


def test_chains_that_are_never_believed_end_it_undecided(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made, _ = rounds(monkeypatch, tmp_path, FakeSession(tmp_path, b=[chain(doubts=("instrument: dead",))]))
    assert (len(made.rounds), made.exit_status) == (2, ExitStatus.INCONCLUSIVE)
    assert "instrument: dead" in made.reason


def test_where_a_differs_from_itself_durations_say_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made, _ = rounds(monkeypatch, tmp_path, FakeSession(tmp_path, ratio=1.3, again=1.4), minutes=20)
    assert made.control is not None
    assert made.exit_status == ExitStatus.INCONCLUSIVE
    assert "A against A differs" in made.reason


def test_updates_from_a_to_b_that_are_refused_are_a_regression(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = FakeSession(tmp_path, again=1.0)
    usual = fake.run

    def run(number: int, arms: Sequence[Arm]) -> Round:
        done = usual(number, arms)
        bad = chain(updates=1, failures=("update-completes: refused",))
        return replace(done, chains={**done.chains, "a-to-b": (bad,)})

    monkeypatch.setattr(fake, "run", run)
    made, _ = rounds(monkeypatch, tmp_path, fake)
    assert made.exit_status == ExitStatus.FAIL
    assert made.reason == "update from A to B: update-completes: refused"


def test_an_interrupted_comparison_goes_on_with_its_rounds_its_budget_and_its_looks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = FakeSession(tmp_path, ratio=1.3)
    usual = fake.run

    def run(number: int, arms: Sequence[Arm]) -> Round:
        if number == 7:
            raise KeyboardInterrupt
        return usual(number, arms)

    monkeypatch.setattr(fake, "run", run)
    with pytest.raises(KeyboardInterrupt):
        rounds(monkeypatch, tmp_path, fake, minutes=20)
    kept = read_kept(tmp_path)
    assert (len(kept.rounds), kept.elapsed_s, kept.ended) == (6, 180.0, False)
    again = FakeSession(tmp_path, ratio=1.3)
    made, _ = rounds(monkeypatch, tmp_path, again, minutes=20, kept=kept)
    assert again.read_again == [1, 2, 3, 4, 5, 6]
    assert made.change == Change.REGRESS
    assert len(made.rounds) > 6
    assert read_kept(tmp_path).ended


def test_one_that_is_interrupted_in_its_first_round_can_be_resumed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = FakeSession(tmp_path / "one", ratio=1.3)
    fake.folder.mkdir()

    def run(*_: object) -> Round:
        raise KeyboardInterrupt

    monkeypatch.setattr(fake, "run", run)
    with pytest.raises(KeyboardInterrupt):
        rounds(monkeypatch, fake.folder, fake)
    folder, kept = latest_kept(tmp_path)
    assert (folder, kept.rounds, kept.elapsed_s) == (fake.folder, (), 0.0)


def test_what_earlier_looks_used_is_gone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    round_one = KeptRound(1, (("a", CASE), ("b", CASE)), 30.0, 1)
    kept = Kept(Asked("/b"), rounds=(round_one,), looks=(1,), used=1.0, elapsed_s=30.0)
    made, _ = rounds(monkeypatch, tmp_path, FakeSession(tmp_path, ratio=1.3), minutes=5.5, kept=kept)
    assert made.exit_status == ExitStatus.INCONCLUSIVE


def test_the_latest_comparison_is_resumed_unless_it_has_ended(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is none"):
        latest_kept(tmp_path)
    for name, started, ended in (("one", 5, False), ("two", 3, True)):
        (tmp_path / name).mkdir()
        Kept(Asked("/b", started_ns=started), ended=ended).write(tmp_path / name)
    assert latest_kept(tmp_path)[0] == tmp_path / "one"
    Kept(Asked("/b", started_ns=9), ended=True).write(tmp_path / "two")
    with pytest.raises(UsageError, match="it has ended"):
        latest_kept(tmp_path)
    (tmp_path / "two" / "session.json").write_text("{}")
    with pytest.raises(UsageError, match="asked: missing"):
        latest_kept(tmp_path)


def test_a_round_is_read_again_from_its_cells(tmp_path: Path) -> None:
    running = session(tmp_path, FakeCells(tmp_path / ".aside"))
    done = running.run(1, ARMS)
    assert running.read(KeptRound(1, done.order, done.seconds, done.started_ns), ARMS) == done
