"""Times and positions as a user types them."""

from __future__ import annotations

import pytest

from framegate.pipeline.client.when import Span, TimeOrPosition, moment, time_of
from framegate.pipeline.contracts.records import Position
from tests.support.published import result

NOW = 1_780_000_000.0


def test_seconds_ages_and_positions_are_read() -> None:
    assert moment("1779999000.25", NOW) == 1779999000.25
    assert moment("15m", NOW) == NOW - 900
    assert moment("2-17", NOW) == Position(2, 17)


@pytest.mark.parametrize("text", ["1779999000250", "9" * 400, "17799990", "yesterday", ""])
def test_milliseconds_and_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be a time"):
        moment(text, NOW)


def test_a_position_is_no_time() -> None:
    assert time_of("15m", NOW) == NOW - 900
    for text in ("2-17", "yesterday"):
        with pytest.raises(ValueError, match="must be a time"):
            time_of(text, NOW)


@pytest.mark.parametrize(
    ("first", "last", "has"),
    [
        (None, None, True),
        (Position(2, 5), Position(2, 5), True),
        (Position(2, 6), None, False),
        (Position(1, 900), Position(3, 0), True),
        (None, Position(2, 4), False),
        (1.5, 1.5, True),  # the frame was captured at 1.5 s
        (1.6, None, False),
        (None, 1.4, False),
        (1.0, Position(2, 4), False),
    ],
)
def test_a_span_includes_both_of_its_ends(
    first: TimeOrPosition | None, last: TimeOrPosition | None, has: bool
) -> None:
    assert Span(first, last).has(result("door", 2, 5)) == has
