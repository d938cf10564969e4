"""Times and positions as a user types them."""

from __future__ import annotations

import pytest

from framegate.pipeline.client.when import moment
from framegate.pipeline.contracts.records import Position

NOW = 1_780_000_000.0


def test_seconds_ages_and_positions_are_read() -> None:
    assert moment("1779999000.25", NOW) == 1779999000.25
    assert moment("15m", NOW) == NOW - 900
    assert moment("2-17", NOW) == Position(2, 17)


@pytest.mark.parametrize("text", ["1779999000250", "9" * 400, "17799990", "yesterday", ""])
def test_milliseconds_and_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be a time"):
        moment(text, NOW)
