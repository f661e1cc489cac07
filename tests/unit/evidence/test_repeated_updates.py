"""A chain's evidence: each update has its words and figures, and growth from QEMU to QEMU is seen."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from cprlib.evidence.case import CaseEvidence
from cprlib.evidence.records import Check, DescriptorRow, Outcome, UpdateFigures
from cprlib.evidence.repeated_updates import figures_of, growth_checks, numbered_check, numbered_row
from cprlib.linux.descriptors import Descriptor, DescriptorTable
from cprlib.traffic.figures import Interruption, InterruptionPerDirection, PerDirection
from cprlib.update.mechanism import Mechanism
from cprlib.update.results import ProcessView

from .test_update_checks import GOOD

pytestmark = pytest.mark.fast


def generation(eventfds: int = 3, anonymous_kib: int | None = 20_000) -> ProcessView:
    rows = [Descriptor(n, "anon_inode:[eventfd]", 0, 1, os.O_RDWR) for n in range(eventfds)]
    return ProcessView(DescriptorTable(1, tuple(rows)), (), anonymous_kib)


def outcomes(*views: ProcessView) -> dict[str, Outcome]:
    return {check.name: check.outcome for check in growth_checks(views)}


def test_equal_generations_do_not_grow() -> None:
    assert set(outcomes(*[generation()] * 5).values()) == {Outcome.PASS}


def test_one_descriptor_more_is_named_with_its_kind_and_target() -> None:
    check = growth_checks([generation(), generation(), generation(4)])[0]
    assert check.outcome is Outcome.FAIL
    assert "target 3 has 4 eventfd instead of 3" in check.message


def test_leak_that_every_target_has_is_seen() -> None:
    found = growth_checks([generation(4)] * 3, generation(3))
    assert [check.name for check in found if check.outcome is Outcome.FAIL] == ["descriptors-as-in-the-source"]
    assert "4 eventfd instead of 3" in found[0].message
    assert growth_checks([generation()] * 3, generation())[0].outcome is Outcome.PASS


def test_memory_that_grows_is_seen() -> None:
    assert outcomes(generation(), generation(anonymous_kib=50_000))["memory-does-not-grow"] is Outcome.FAIL


@pytest.mark.parametrize("known", [20_000, None])
def test_memory_that_was_not_read_is_inconclusive(known: int | None) -> None:
    views = generation(anonymous_kib=known), generation(anonymous_kib=None)
    assert outcomes(*views)["memory-does-not-grow"] is Outcome.INCONCLUSIVE


def test_checks_and_descriptors_of_later_updates_say_which() -> None:
    check = Check("x", Outcome.FAIL, "a", "b", "it broke")
    assert numbered_check(check, 1) == check
    assert numbered_check(check, 7) == replace(check, observed="update 7: b", message="update 7: it broke")
    assert numbered_check(replace(check, message=""), 7).message == ""
    assert numbered_row(DescriptorRow("tap", "net0"), 2).note == "update 2"


def test_figures_survive_the_case_file() -> None:
    seen = InterruptionPerDirection(Interruption(100.0, 102.0, 1.0, 1.0), Interruption(100.0, 102.0, 1.0, 1.0))
    figures = figures_of(
        [GOOD, GOOD],
        [UpdateFigures(1, 900, PerDirection(1, 0), seen), UpdateFigures(2, 800, PerDirection(0, 0), seen)],
        ["", "10.0 to 10.2"],
    )
    case = CaseEvidence("c", Mechanism.CPR, per_update=figures)
    assert CaseEvidence.from_json(case.to_json()).per_update == figures
    assert [(item.number, item.sent, item.loss.forward, item.note) for item in figures] == [
        (1, 900, 1, ""),
        (2, 800, 0, "10.0 to 10.2"),
    ]
    assert figures[0].descriptors == {"tap": 1, "vhost": 1}
    assert figures[0].stop_to_resume_ms == 8.0
    assert figures[0].duplicates.total is None


def test_an_update_without_a_stop_event_has_no_stop_to_resume() -> None:
    silent = replace(GOOD, events=GOOD.events[1:])
    assert figures_of([silent], [])[0].stop_to_resume_ms is None


def test_copies_and_late_packets_of_an_update_are_in_its_figures() -> None:
    seen = InterruptionPerDirection(Interruption(100.0, 102.0, 1.0, 1.0), Interruption(100.0, 102.0, 1.0, 1.0))
    copies, late = PerDirection(1, 0), PerDirection(0, 2)
    part = UpdateFigures(1, 900, PerDirection(0, 0), seen, duplicates=copies, reordered=late, traffic_after_ms=7.5)
    figures = figures_of([GOOD], [part])[0]
    assert (figures.duplicates.forward, figures.reordered.return_, figures.traffic_after_ms) == (1, 2, 7.5)


def test_without_traffic_descriptors_are_still_reported() -> None:
    assert [(item.sent, item.fds.paired) for item in figures_of([GOOD], [])] == [(None, 2)]
