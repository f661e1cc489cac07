"""The metrics agree with slow, obvious models of their RFCs, for any packets in any order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cprlib.traffic import metrics
from cprlib.traffic.metrics import LossBySequence

SENT = 12
MS = 1_000_000  # ns
arrivals = st.lists(st.integers(0, SENT - 1), max_size=24)


@given(arrivals)
def test_lost_packets_are_those_that_never_arrived(arrived: list[int]) -> None:
    assert metrics.missing_sequences(SENT, arrived) == tuple(s for s in range(SENT) if s not in arrived)


@given(st.permutations(range(SENT)))
def test_late_packets_are_not_lost(arrived: list[int]) -> None:
    assert metrics.missing_sequences(SENT, arrived) == ()


@given(arrivals)
def test_duplicates_are_copies_beyond_the_first(arrived: list[int]) -> None:
    assert metrics.duplicated_sequences(arrived) == tuple(s for i, s in enumerate(arrived) if s in arrived[:i])


@given(arrivals)
def test_reordering_is_rfc_4737(arrived: list[int]) -> None:
    """RFC 4737 literally: NextExp for the singleton."""
    next_expected = 0
    late: list[int] = []
    for sequence in (s for i, s in enumerate(arrived) if s not in arrived[:i]):
        if sequence >= next_expected:
            next_expected = sequence + 1
        else:
            late.append(sequence)
    assert metrics.reordered_sequences(arrived) == tuple(late)


def test_reordering_example_of_rfc_4737() -> None:
    # Section 4.2.3, table 1: packets 4, 5, 6 come after 7 and 8
    assert metrics.reordered_sequences([1, 2, 3, 7, 8, 9, 10, 4, 5, 6, 11]) == (4, 5, 6)
    assert metrics.reordered_sequences([0, 1, 2]) == metrics.reordered_sequences([]) == ()


@given(st.lists(st.sampled_from(["ok", "forward", "return"]), min_size=1, max_size=20))
def test_sequence_numbers_separate_the_directions(fates: list[str]) -> None:
    answers, own = [], 0
    for sequence, fate in enumerate(fates):
        if fate == "forward":
            continue
        if fate == "ok":
            answers.append((sequence, own))
        own += 1
    last = max((sequence for sequence, _ in answers), default=-1)
    expected = LossBySequence(
        fates[: last + 1].count("forward"), fates[: last + 1].count("return"), len(fates) - last - 1
    )
    assert metrics.loss_by_sequence(len(fates), answers) == expected


periods = st.integers(1, 5)
starts = st.integers(0, 400)
lengths = st.integers(0, 300)


@given(periods, starts, lengths, st.booleans(), st.integers(0, 20))
def test_an_interruption_lies_in_the_range(period: int, start: int, length: int, held: bool, delay: int) -> None:
    """The path is closed from start to start + length; its packets are delayed or lost."""
    sent = list(range(0, 1000, period))
    arrived = []
    for sequence, moment in enumerate(sent):
        if not start <= moment < start + length:
            arrived.append((sequence, moment + delay))
        elif held:
            arrived.append((sequence, start + length + delay))
    found = metrics.interruption_by_timestamps(sent, arrived)
    assert found is not None
    if length > 2 * period and start > period:
        assert found.low_ns <= length <= found.high_ns
        assert found.high_ns - found.low_ns <= 2 * period
    assert 0 <= found.low_ns <= found.high_ns


@given(st.integers(1, 500))
def test_a_pause_of_the_sender_is_no_interruption(pause: int) -> None:
    sent = [*range(0, 100, 2), *range(100 + pause, 200 + pause, 2)]
    found = metrics.interruption_by_timestamps(sent, [(s, moment + 7) for s, moment in enumerate(sent)])
    assert found is not None
    assert found.low_ns == 0


def test_one_arrival_has_no_interruption() -> None:
    assert metrics.interruption_by_timestamps([0, 1], [(0, 5)]) is None


def test_a_sender_stands_still_for_what_a_gap_has_beyond_two_intervals() -> None:
    even = range(0, 20_000_000, MS)
    assert metrics.stalled_ms(even, MS, 500_000, 10_500_000) == 0
    gap = [time for time in even if not 5 * MS < time < 15 * MS]  # 10 ms
    assert metrics.stalled_ms(gap, MS, 0, 20 * MS) == 8
    assert metrics.stalled_ms(gap, MS, 0, 10 * MS) == 3  # of the part within the period
    assert metrics.stalled_ms([], MS, 0, 10 * MS) == 8
