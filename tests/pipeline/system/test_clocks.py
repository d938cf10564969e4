"""A camera's clock is believed within a day; this host's only for the time that has passed."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from framegate.pipeline.system.clocks import (
    HostClock,
    camera_ahead_s,
    camera_time,
    clock_in_words,
    first_kept_time,
    kept_time,
    read_host_clock,
)

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


# -- This host's clock.


def kept_of(*moments: HostClock) -> float:
    """The kept time of a store after it was looked at in these moments."""
    kept = first_kept_time(moments[0])
    for moment in moments[1:]:
        kept = kept_time(kept, moment)
    return kept.kept_s


def test_kept_time_is_that_of_the_host_while_its_clock_goes_right() -> None:
    first = HostClock(NOW, 50.0, "a")
    assert kept_of(first) == NOW
    assert kept_of(first, HostClock(NOW + 60, 110.0, "a")) == NOW + 60
    over_night = HostClock(NOW + 60 + 9 * 3600, 20.0, "b")
    assert kept_of(first, HostClock(NOW + 60, 110.0, "a"), over_night) == NOW + 60 + 9 * 3600


@pytest.mark.parametrize("step_s", [-3600.0, 3600.0, 3653 * DAY_S, -20_605 * DAY_S])
def test_a_step_of_the_wall_clock_is_no_time_that_passed(step_s: float) -> None:
    first, stepped = HostClock(NOW, 50.0, "a"), HostClock(NOW + step_s + 60, 110.0, "a")
    assert kept_of(first, stepped) == NOW + 60
    corrected = HostClock(NOW + 120, 170.0, "a")
    assert kept_of(first, stepped, corrected) == NOW + 120


@pytest.mark.parametrize("boot", ["b", ""])
@pytest.mark.parametrize("step_s", [-3600.0, 5 * DAY_S, 3653 * DAY_S])
def test_over_a_boot_a_wall_clock_that_is_not_plausible_counts_nothing(
    boot: str, step_s: float
) -> None:
    first = HostClock(NOW, 50.0, boot and "a")
    assert kept_of(first, HostClock(NOW + step_s, 10.0, boot)) == NOW
    later = HostClock(NOW + step_s + 60, 70.0, boot)
    assert kept_of(first, HostClock(NOW + step_s, 10.0, boot), later) == NOW + 60


def test_the_clocks_of_this_host_go_on_together() -> None:
    first, second = read_host_clock(), read_host_clock()
    assert first.boot == second.boot != ""
    assert second.up_s >= first.up_s > 0
