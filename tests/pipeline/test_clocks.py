"""A camera's clock is believed within a day; this host's only for the time that has passed."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from framegate.pipeline.clocks import camera_ahead_s, camera_time, clock_in_words

DAY_S = 86_400.0
ERA_S = 2.0**32  # seconds that NTP counts before it begins at 0 again


def at(*moment: int) -> float:
    """UNIX seconds of a moment, UTC."""
    return datetime(*moment, tzinfo=UTC).timestamp()  # type: ignore[misc, arg-type]  # no tzinfo


NOW = at(2026, 6, 1)


@pytest.mark.parametrize("off_s", [0.0, 0.25, -3600.0, 3600.0, DAY_S, -DAY_S])
def test_a_camera_whose_clock_is_within_a_day_is_believed(off_s: float) -> None:
    assert camera_time(NOW + off_s, NOW) == NOW + off_s


@pytest.mark.parametrize(
    "camera_s",
    [
        100.0,
        at(1900, 1, 1),
        at(2000, 1, 1),
        at(2036, 6, 1),
        at(2099, 1, 1),
        NOW + DAY_S + 1,
        NOW - DAY_S - 1,
    ],
)
def test_another_clock_is_not_used(camera_s: float) -> None:
    assert camera_time(camera_s, NOW) is None
    assert abs(camera_ahead_s(camera_s, NOW)) > DAY_S


def test_a_camera_that_tells_no_time_has_none() -> None:
    assert camera_time(None, NOW) is None


@pytest.mark.parametrize("off_s", [-5.0, 0.0, 5.0])
def test_ntp_seconds_that_overflowed_are_of_the_next_era(off_s: float) -> None:
    host_s = at(2036, 2, 7, 6, 28, 18)  # two seconds after NTP's first era
    assert camera_time(host_s + off_s - ERA_S, host_s) == host_s + off_s
    assert camera_time(host_s + off_s, host_s) == host_s + off_s
    assert camera_ahead_s(host_s + off_s - ERA_S, host_s) == off_s


def test_a_camera_of_the_next_era_agrees_with_a_host_of_this_one() -> None:
    host_s = at(2036, 2, 7, 6, 28, 14)
    assert camera_time(host_s + 3 - ERA_S, host_s) == host_s + 3


def test_a_wrong_clock_is_told_with_its_time_and_what_to_do() -> None:
    behind = clock_in_words(camera_ahead_s(at(1970, 1, 1, 0, 1, 40), NOW), NOW)
    assert "its clock shows 1970-01-01 00:01:40 UTC, 20,605 days behind this host's" in behind
    assert "Set the clock of the camera by NTP, or that of this host" in behind
    ahead = clock_in_words(camera_ahead_s(at(2036, 6, 1), NOW), NOW)
    assert "its clock shows 2036-06-01 00:00:00 UTC, 3,653 days ahead of this host's" in ahead
