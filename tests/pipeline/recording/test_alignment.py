"""The clocks of a camera's two streams: worked by hand, in seconds."""

from __future__ import annotations

import pytest

from framegate.pipeline.recording.alignment import Aligned, Alignment

NOW = 1_800_000_000.0


def test_nothing_is_known_before_both_streams_gave_a_time() -> None:
    alignment = Alignment()
    assert alignment.now() is None
    alignment.see_frame(3, 0.0, 100.0, None)
    assert alignment.now() is None
    alignment.see_packet(None, 100.0, None)
    assert alignment.now() is None
    alignment.see_packet(50.0, 100.0, None)
    assert alignment.now() == Aligned(3, -50.0, exact=False)


def test_the_least_delay_counts_because_large_key_frames_arrive_late() -> None:
    alignment = Alignment()
    for second in range(5):
        alignment.see_frame(1, 10.0 + second, 200.0 + second, None)
        late_s = 0.4 if second == 0 else 0.0  # a key frame of the large stream
        alignment.see_packet(70.0 + second, 200.0 + second + late_s, None)
    assert alignment.now() == Aligned(1, -60.0, exact=False)


def test_sender_reports_of_both_streams_are_exact_whatever_the_arrivals_say() -> None:
    alignment = Alignment()
    # A picture taken at NOW has the time stamp 10 in one stream and 500 in the other.
    alignment.see_frame(1, 10.0, 300.0, NOW)
    alignment.see_packet(500.0, 300.7, NOW)
    assert alignment.now() == Aligned(1, -490.0, exact=True)


def test_reports_that_contradict_the_arrivals_do_not_count() -> None:
    alignment = Alignment()
    alignment.see_frame(1, 10.0, 300.0, NOW)
    alignment.see_packet(500.0, 300.0, NOW + 3600.0)  # a clock of its own
    assert alignment.now() == Aligned(1, -490.0, exact=False)


def test_a_new_epoch_and_a_new_connection_have_new_clocks() -> None:
    alignment = Alignment()
    alignment.see_frame(1, 10.0, 300.0, None)
    alignment.see_packet(10.0, 300.0, None)
    alignment.see_frame(2, 0.0, 310.0, None)
    assert alignment.now() == Aligned(2, -20.0, exact=False)
    alignment.begin_packets()
    assert alignment.now() is None
    alignment.see_packet(0.0, 312.0, None)
    assert alignment.now() == Aligned(2, 2.0, exact=False)


def test_a_clock_that_leaps_is_followed() -> None:
    alignment = Alignment()
    alignment.see_frame(1, 10.0, 300.0, None)
    alignment.see_packet(10.0, 300.0, None)
    alignment.see_packet(9000.0, 301.0, None)
    alignment.see_frame(1, 11.0, 301.0, None)
    assert alignment.now() == Aligned(1, 11.0 - 9000.0, exact=False)


def test_a_clock_that_runs_slowly_is_followed() -> None:
    alignment = Alignment()
    for second in range(600):  # the camera loses a millisecond a second in one stream
        alignment.see_frame(1, float(second), 100.0 + second, None)
        alignment.see_packet(second * 0.999, 100.0 + second, None)
    aligned = alignment.now()
    assert aligned is not None
    assert 0.53 <= aligned.offset_s <= 0.6  # the least of the last half minute or minute


def test_recorded_pictures_have_the_clock_of_the_results() -> None:
    alignment = Alignment()
    assert alignment.captured(500.0, NOW, NOW) == NOW  # nothing is decoded so far
    alignment.see_frame(1, 10.0, 300.0, NOW - 40.0)  # the camera is 40 s behind
    alignment.see_packet(500.0, 300.0, None)
    assert alignment.captured(501.0, None, NOW + 1.0) == pytest.approx(NOW - 39.0)
    alignment.see_frame(2, 0.0, 310.0, None)  # results have the time of arrival
    assert alignment.captured(510.0, NOW, NOW + 10.0) is None


@pytest.mark.parametrize(
    ("now", "differs"),
    [
        (Aligned(1, 0.05, exact=True), False),
        (Aligned(1, 0.15, exact=True), True),  # it was by arrival, or a report moved
        (Aligned(1, 0.4, exact=False), False),
        (Aligned(1, 0.6, exact=False), True),
        (Aligned(2, 0.0, exact=True), True),
    ],
)
@pytest.mark.parametrize("was_exact", [True, False])
def test_what_requires_a_new_file(now: Aligned, differs: bool, was_exact: bool) -> None:
    assert now.differs(Aligned(1, 0.0, was_exact)) is differs
