"""Batching on a virtual clock: the time of a batch, its keys, and fairness between sources."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framegate.pipeline.heavy.batching import Batching, BatchLimits, KeptBack

SOURCES = ("a", "b", "c")
Key = tuple[str, int]


def waiting(most: int, *keys: str, delay_s: float = 0.0) -> Batching[str]:
    """Keys such as "a1" of source "a", all urgent and of one moment."""
    batching: Batching[str] = Batching(BatchLimits(most, delay_s))
    for key in keys:
        batching.add(key[0], key, True, 0.0)
    return batching


class TestWhen:
    def test_a_first_question_goes_at_once(self) -> None:
        assert waiting(4, "a1", delay_s=1.0).take(0.0) == ["a1"]

    def test_nothing_waits_for_what_comes_too_seldom(self) -> None:
        batching: Batching[int] = Batching(BatchLimits(4, delay_s=0.005))
        for number in range(5):
            batching.add("a", number, True, 0.1 * number)
            assert batching.take(0.1 * number) == [number]

    def test_a_batch_waits_for_what_comes_soon_and_goes_when_it_is_full(self) -> None:
        batching: Batching[int] = Batching(BatchLimits(3, delay_s=0.005))
        for number in range(8):
            batching.add("a", number, True, 0.001 * number)
            if number == 0:
                assert batching.take(0.0) == [0]  # no rate is known yet
            elif number % 3:
                assert batching.take(0.001 * number) == []
            else:
                assert batching.take(0.001 * number) == [number - 2, number - 1, number]

    def test_it_waits_no_longer_than_two_gaps_once_nothing_comes(self) -> None:
        batching: Batching[int] = Batching(BatchLimits(8, delay_s=0.005))
        for number in range(3):
            batching.add("a", number, True, 0.001 * number)
        assert batching.take(0.0039) == []
        assert batching.ready_at() == pytest.approx(0.004)
        assert batching.take(0.0041) == [0, 1, 2]

    def test_nothing_waits_where_nothing_is(self) -> None:
        assert waiting(4).ready_at() is None
        assert waiting(4).take(1.0) == []

    @given(
        st.lists(st.floats(0, 0.01), min_size=1, max_size=30), st.floats(0, 0.02), st.integers(1, 8)
    )
    def test_no_question_waits_longer_than_the_delay(
        self, gaps: list[float], delay_s: float, most: int
    ) -> None:
        batching: Batching[int] = Batching(BatchLimits(most, delay_s))
        now, arrived = 0.0, {}
        for number, gap in enumerate(gaps):
            now += gap
            while (ready_s := batching.ready_at()) is not None and ready_s <= now:
                for key in batching.take(max(ready_s, arrived[number - 1])):
                    assert ready_s <= arrived[key] + delay_s
            batching.add("a", number, True, now)
            arrived[number] = now
        ready_s = batching.ready_at()
        assert ready_s is None or ready_s <= min(arrived[k] for k in arrived if k in batching) + (
            delay_s
        )


class TestWho:
    def test_sources_take_turns(self) -> None:
        assert waiting(4, "a1", "a2", "a3", "b1", "b2").take(0.0) == ["a1", "b1", "a2", "b2"]

    def test_who_was_served_goes_behind_who_was_not(self) -> None:
        batching = waiting(1, "a1")
        assert batching.take(0.0) == ["a1"]
        for key in ("a2", "b1"):
            batching.add(key[0], key, True, 0.0)
        assert batching.take(0.0) == ["b1"]

    def test_what_is_urgent_goes_first_and_others_fill_the_room(self) -> None:
        batching = waiting(3)
        batching.add("a", "audit", False, 0.0)
        batching.add("a", "urgent", True, 0.0)
        assert batching.take(0.0) == ["urgent", "audit"]

    def test_one_place_in_eight_is_for_what_is_not_urgent(self) -> None:
        batching = waiting(1, *(f"a{n}" for n in range(100)))
        for number in range(3):
            batching.add("b", f"b{number}", False, 0.0)
        taken = [batching.take(0.0)[0] for _ in range(24)]
        assert [n for n, key in enumerate(taken) if key[0] == "b"] == [7, 15, 23]

    def test_one_that_is_put_back_goes_before_the_rest_of_its_source(self) -> None:
        batching = waiting(1, "a1", "a2")
        assert batching.take(0.0) == ["a1"]
        batching.put_back("a", "a1", True, 0.0)
        assert [batching.take(0.0), batching.take(0.0)] == [["a1"], ["a2"]]

    def test_sources_that_are_to_wait_are_in_no_batch_and_make_none_ready(self) -> None:
        batching = waiting(4, "a1", "b1", "a2")
        batching.add("b", "audit", False, 0.0)
        assert batching.take(0.0, without=KeptBack({"a"}, others=True)) == ["b1"]
        assert batching.ready_at(KeptBack({"a"}, others=True)) is None
        assert batching.take(0.0, without=KeptBack({"a"}, others=True)) == []
        assert batching.take(0.0, without=KeptBack({"a"})) == ["audit"]
        assert batching.take(0.0) == ["a1", "a2"]

    def test_what_is_discarded_does_not_come(self) -> None:
        batching = waiting(4, "a1", "a2")
        batching.discard("a1")
        batching.discard("never there")
        assert "a1" not in batching
        assert "a2" in batching
        assert batching.take(0.0) == ["a2"]

    def test_sources_that_are_gone_are_forgotten(self) -> None:
        batching: Batching[int] = Batching(BatchLimits(1, 0.0))
        for number in range(5000):
            batching.add(f"source{number}", number, bool(number % 2), 0.0)
            assert batching.take(0.0) == [number]
        assert len(batching._urgent) + len(batching._others) <= 1025


@given(
    st.lists(st.one_of(st.sampled_from(SOURCES), st.integers(1, 3)), max_size=120),
    st.integers(1, 4),
)
def test_a_flood_delays_itself_only_and_each_key_comes_once_in_order(
    events: list[str | int], most: int
) -> None:
    """A letter is a question of that source, a number so many batches taken."""
    batching: Batching[Key] = Batching(BatchLimits(most, 0.0))
    asked: Counter[str] = Counter()
    came: list[Key] = []
    bounds: dict[Key, tuple[int, int]] = {}  # how many came before it, and its source's that wait
    backlog: Counter[str] = Counter()

    def take() -> None:
        for key in batching.take(0.0):
            since, ahead = bounds.pop(key)
            others = Counter(source for source, _ in came[since:])
            del others[key[0]]
            assert all(n <= ahead + 1 for n in others.values())
            came.append(key)
            backlog[key[0]] -= 1

    for event in events:
        if isinstance(event, str):
            key = event, asked[event]
            bounds[key] = len(came), backlog[event]
            asked[event] += 1
            backlog[event] += 1
            batching.add(event, key, True, 0.0)
        else:
            for _ in range(event):
                take()
    while len(batching):
        take()
    assert sorted(came) == sorted((s, n) for s, count in asked.items() for n in range(count))
    for source in SOURCES:
        assert [n for s, n in came if s == source] == list(range(asked[source]))
