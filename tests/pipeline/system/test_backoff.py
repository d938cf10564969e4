"""The delays between attempts, without their jitter."""

from __future__ import annotations

from framegate.pipeline.system.retry import Backoff, camera_backoff

WHOLE, HALF = 1.0, 0.0  # of the delay, by the jitter


def delays(backoff: Backoff, count: int, chance: float) -> list[float]:
    return [backoff.delay_s(failures, chance) for failures in range(1, count + 1)]


def test_delays_double_up_to_the_longest() -> None:
    assert delays(Backoff(0.5, 5.0), 6, WHOLE) == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]
    assert Backoff(0.5, 5.0).delay_s(10_000, WHOLE) == 5.0


def test_a_camera_is_tried_often_until_its_old_host_has_closed_it() -> None:
    """That host closes it 10 s after it lost the store. Even the shortest delays last so long."""
    backoff = camera_backoff(30.0)
    assert delays(backoff, 18, WHOLE) == [0.5, 1.0, *[2.0] * 11, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert sum(delays(backoff, 13, HALF)) > 10.0


def test_a_short_longest_delay_is_kept() -> None:
    assert delays(camera_backoff(1.0), 4, WHOLE) == [0.5, 1.0, 1.0, 1.0]
    assert delays(camera_backoff(0.1), 4, WHOLE) == [0.1] * 4
