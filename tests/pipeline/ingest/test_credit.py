"""When a decoder may go on: how far ahead it is, in how many picture sizes, how often changed."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.ingest.credit import (
    CHANGES_S,
    MAX_CHANGES,
    MAX_SIZES,
    Credit,
    SizeChanges,
    Sizes,
)


class TestCredit:
    def test_full_at_its_limit_not_before(self) -> None:
        credit = Credit(2)
        credit.take(Position(1, 0))
        assert not credit.full
        credit.take(Position(1, 1))
        assert credit.full
        assert not credit.release(Position(0, 9))
        assert credit.release(Position(1, 0))
        assert not credit.full

    @given(st.integers(1, 40), st.lists(st.integers(0, 60), max_size=60))
    def test_in_flight_is_what_was_taken_and_not_read(self, limit: int, reads: list[int]) -> None:
        credit, expected, seq = Credit(limit), deque[Position](), 0
        for read in reads:
            while not credit.full:
                credit.take(Position(1, seq))
                expected.append(Position(1, seq))
                seq += 1
            assert credit.low_water in list(expected)[: max(1, limit - 1)]
            credit.release(Position(1, read))
            expected = deque(at for at in expected if at > Position(1, read))
            assert len(credit) == len(expected) <= limit

    def test_a_later_epoch_releases_an_earlier_one(self) -> None:
        credit = Credit(4)
        for at in (Position(1, 7), Position(1, 8), Position(2, 0)):
            credit.take(at)
        credit.release(Position(2, 0))
        assert len(credit) == 0


class TestSizes:
    @given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 60)), max_size=60))
    def test_no_more_at_once_than_allowed_and_none_that_is_wanted_goes(
        self, steps: list[tuple[int, int]]
    ) -> None:
        """Against a list of all frames with their forms."""
        sizes, out, read = Sizes(), list[tuple[Form, int]](), -1
        for width, passed in steps:
            form = Form(2 + width, 2)
            read = max(read, min(passed, len(out) - 1))
            sizes.release(Position(1, read))
            unread = {form for form, seq in out if seq > read}
            newest = {out[-1][0]} if out else set()
            assert set(sizes) == unread | newest
            until = sizes.waits_for(form)
            if until is not None:
                assert len({*unread, *newest, form}) > MAX_SIZES
                sizes.release(until)
                read = max(read, until.seq)
                assert sizes.waits_for(form) is None
            assert sizes.take(form, Position(1, len(out))) == (
                form not in {f for f, seq in out if seq > read} | newest
            )
            out.append((form, len(out)))
            assert len(list(sizes)) <= MAX_SIZES

    def test_so_many_changes_within_so_long_and_not_one_more(self) -> None:
        def first_too_many(every_s: float, changes: int) -> int | None:
            rule = SizeChanges()
            found = [rule.too_many(Form(2 + n % 7, 2), n * every_s) for n in range(changes + 1)]
            return found.index(True) if True in found else None

        often = CHANGES_S / MAX_CHANGES
        assert first_too_many(often * 0.9, 1000) == MAX_CHANGES + 1
        assert first_too_many(often * 1.01, 1000) is None
        assert first_too_many(1 / 30, MAX_CHANGES) is None
        assert not any(SizeChanges().too_many(Form(2, 2), 0.0) for _ in range(1000))

    @pytest.mark.parametrize("times", ["none", "from 0 again", "leaps"])
    def test_time_stamps_that_say_nothing_count_as_a_25th_of_a_second(self, times: str) -> None:
        def at(n: int) -> float | None:
            return {"none": None, "from 0 again": (n % 3) / 25, "leaps": n * 1e6}[times]

        rule = SizeChanges()
        slow = [rule.too_many(Form(2 + n // 75 % 2, 2), at(n)) for n in range(75 * 100)]
        assert not any(slow), "one in three seconds"
        rule = SizeChanges()
        assert any(rule.too_many(Form(2 + n % 2, 2), at(n)) for n in range(40))


def test_sound_that_is_unread_takes_credit_too() -> None:
    credit = Credit(32, max_sound_s=24.0)
    for n in range(3):
        assert not credit.full
        credit.take(Position(1, n), sound_s=10.0)
    assert credit.full
    assert credit.low_water == Position(1, 1)
    assert credit.release(Position(1, 0))
    assert not credit.full
