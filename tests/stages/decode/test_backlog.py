"""When packets are taken slower than a camera sends them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from framegate.stages.decode.camera import Backlog, Unread


def first_growth(read_at: list[float], fps: float = 10.0, waiting_share: float = 0.0) -> int | None:
    """The first packet at which a backlog is told, of packets with time stamps at this rate.

    waiting_share  of the time, in which the reader waits for packets
    """
    backlog = Backlog()
    before = read_at[0]
    for number, now in enumerate(read_at):
        if backlog.grows(number / fps, now, waiting_share * (now - before)):
            return number
        before = now
    return None


def test_a_decoder_at_half_the_rate_is_told_of_in_a_few_seconds() -> None:
    found = first_growth([n * 0.2 for n in range(100)])
    assert found is not None
    # late by 0.1 s more each packet: a second after 10 packets, for a second 5 packets later
    assert 15 <= found <= 17


def test_a_camera_whose_clock_is_slow_is_not_behind_for_ever() -> None:
    """Some cameras count pictures instead of time, and send fewer than they claim."""
    slow = [n * 0.101 for n in range(5000)]
    assert first_growth(slow, waiting_share=0.8) is None
    assert first_growth(slow, waiting_share=0.2) is not None, "that is a slow decoder"


def test_a_burst_after_a_pause_is_none() -> None:
    paused = [n * 0.1 for n in range(20)]
    burst = [4.9 + n * 0.005 for n in range(30)]
    after = [5.0 + n * 0.1 for n in range(50)]
    assert first_growth(paused + burst + after) is None


@given(st.lists(st.floats(-0.4, 0.4), min_size=100, max_size=100), st.floats(-9e-4, 9e-4))
def test_jitter_and_a_clock_that_drifts_are_none(jitter: list[float], drift: float) -> None:
    times = [n * 0.1 * (1 + drift) + jitter[n % 100] for n in range(5000)]
    assert first_growth(times) is None


def test_time_stamps_that_restart_begin_anew() -> None:
    backlog = Backlog()
    assert not any(backlog.grows(500 + n / 10, n / 10, 0.0) for n in range(50))
    assert not any(backlog.grows(n / 10, 5 + n / 10, 0.0) for n in range(50))
    assert not any(backlog.grows(None, 20.0 + n, 0.0) for n in range(5))


def test_without_time_stamps_it_is_behind_when_it_never_has_to_wait() -> None:
    unread = Unread()
    found = [unread.grows(False, n / 10) for n in range(40)]
    assert found.index(True) == 21
    assert not unread.grows(True, 4.0)
    assert not any(unread.grows(False, 4.0 + n / 10) for n in range(21))


@given(st.floats(0.01, 100.0))
def test_a_camera_that_is_waited_for_is_never_behind(period: float) -> None:
    unread = Unread()
    assert not any(unread.grows(True, n * period) for n in range(50))
