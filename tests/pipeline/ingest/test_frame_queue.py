"""Which decoded frames of a camera wait, and why the others are dropped."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framegate.pipeline.contracts.source import (
    SOUND_MOST_S,
    SOUND_RATE,
    CameraEvent,
    Form,
    SoundBlock,
    UndecodedFrame,
)
from framegate.pipeline.ingest.frame_queue import (
    CATCH_UP_S,
    MAX_BYTES,
    MAX_FRAMES,
    MAX_WAIT_S,
    MIN_FRAMES,
    FrameQueue,
)

SMALL, FULL_HD = Form(16, 8), Form(1920, 1080)
PERIOD = 0.1
CALM_S = 100.0  # a camera has been connected for so long


@dataclass
class Waiting:
    """A frame of which only the size counts."""

    number: int
    pts: float | None = None
    form: Form = SMALL
    arrived_mono: float | None = None
    sound: tuple[SoundBlock, ...] = ()
    undecoded: tuple[UndecodedFrame, ...] = ()
    camera_events: tuple[CameraEvent, ...] | None = None
    captured, key_frame = None, False

    @property
    def nbytes(self) -> int:
        return self.form.nbytes

    def write(self, slot: memoryview) -> None:  # noqa: ARG002
        raise AssertionError("a frame that waits is not copied")


def connected(form: Form = SMALL, pts: bool = True) -> FrameQueue:
    """The queue of a camera that has sent a frame each PERIOD until CALM_S, all of them taken."""
    queue = FrameQueue()
    for number in range(round(CALM_S / PERIOD)):
        came = number * PERIOD
        queue.put(Waiting(number, came if pts else None, form), came)
        queue.take()
    return queue


def numbers_left(queue: FrameQueue) -> list[int]:
    left = []
    while len(queue):
        frame = queue.take().frame
        assert isinstance(frame, Waiting)
        left.append(frame.number)
    return left


def put_all(queue: FrameQueue, frames: Iterable[Waiting], came_s: float) -> None:
    for frame in frames:
        queue.put(frame, came_s)


@pytest.mark.parametrize("form", [SMALL, FULL_HD, Form(3840, 2160)])
def test_a_burst_of_eight_waits_whole_and_in_order(form: Form) -> None:
    queue = connected(form)
    put_all(queue, [Waiting(n, CALM_S + n * PERIOD, form) for n in range(8)], CALM_S)
    drops = [queue.take() for n in range(8)]
    assert [(taken.frame.pts, taken.dropped) for taken in drops] == [
        (CALM_S + n * PERIOD, 0) for n in range(8)
    ]


def test_small_pictures_of_a_whole_second_wait() -> None:
    queue = FrameQueue()
    for number in range(30):
        queue.put(Waiting(number, number / 30), number / 30)
    assert len(queue) == 30


@pytest.mark.parametrize("pts", [True, False])
def test_what_a_burst_brings_beyond_the_bound_is_told_as_a_burst(pts: bool) -> None:
    queue = connected(FULL_HD, pts)
    stamps = [CALM_S + n * PERIOD if pts else None for n in range(MIN_FRAMES + 5)]
    put_all(queue, [Waiting(n, stamp, FULL_HD) for n, stamp in enumerate(stamps)], CALM_S)
    taken = queue.take()
    assert (taken.dropped, taken.burst) == (5, 5)
    assert isinstance(taken.frame, Waiting)
    assert [taken.frame.number, *numbers_left(queue)] == list(range(5, MIN_FRAMES + 5))


def test_a_server_that_begins_with_all_since_the_key_frame_sends_a_burst() -> None:
    """Nothing is known of its pace but what its time stamps say."""
    queue = FrameQueue()
    put_all(queue, [Waiting(n, n / 25, FULL_HD) for n in range(40)], 0.0)
    taken = queue.take()
    assert (taken.dropped, taken.burst) == (40 - MIN_FRAMES, 40 - MIN_FRAMES)


@pytest.mark.parametrize("pts", [True, False])
def test_frames_at_the_cameras_own_pace_that_do_not_fit_are_no_burst(pts: bool) -> None:
    queue = FrameQueue()
    for number in range(MIN_FRAMES + 3):
        came = number / 30
        queue.put(Waiting(number, came if pts else None, FULL_HD), came)
    taken = queue.take()
    assert (taken.dropped, taken.burst) == (3, 0)


def test_the_newest_replaces_all_once_the_oldest_has_waited_too_long() -> None:
    queue = connected()
    for number in range(10):
        queue.put(Waiting(number, CALM_S + number * PERIOD), CALM_S + number * PERIOD)
    assert len(queue) == 10
    late = CALM_S + MAX_WAIT_S + 0.01
    queue.put(Waiting(10, late), late)
    assert len(queue) == 1
    queue.put(Waiting(11, late + PERIOD), late + PERIOD)
    assert len(queue) == 1, "nothing was taken meanwhile, so the newest wins at once"
    taken = queue.take()
    assert isinstance(taken.frame, Waiting)
    assert (taken.frame.number, taken.dropped, taken.burst) == (11, 11, 0)


def test_after_the_pipeline_was_behind_the_next_burst_waits_again() -> None:
    queue = connected()
    queue.put(Waiting(0), CALM_S)
    queue.put(Waiting(1), CALM_S + 2.0)
    assert queue.take().dropped == 1
    put_all(queue, [Waiting(n) for n in range(2, 10)], CALM_S + 2.1)
    assert numbers_left(queue) == list(range(2, 10))


def test_what_is_taken_late_is_the_newest() -> None:
    queue = connected()
    put_all(queue, [Waiting(n) for n in range(3)], CALM_S)
    queue.expire(CALM_S + MAX_WAIT_S + 0.01)
    assert numbers_left(queue) == [2]


def test_a_frame_that_waits_alone_is_not_dropped() -> None:
    queue = connected()
    queue.put(Waiting(0), CALM_S)
    queue.expire(CALM_S + 60.0)
    assert numbers_left(queue) == [0]


def test_frames_that_wait_for_their_epoch_go_one_by_one() -> None:
    """That is no fault of the pipeline, which then has its own time for them."""
    queue = FrameQueue()
    queue.await_epoch()
    for number in range(40):
        queue.put(Waiting(number), number * PERIOD)
    queue.begin_epoch(3.95)
    assert len(queue) == 30
    queue.expire(3.95 + MAX_WAIT_S)
    taken = queue.take()
    assert isinstance(taken.frame, Waiting)
    assert (taken.frame.number, taken.dropped, taken.burst) == (10, 10, 0)
    queue.expire(3.95 + MAX_WAIT_S + 0.01)
    assert numbers_left(queue) == [39]


def test_frames_wait_for_their_epoch_also_if_the_pipeline_was_behind_before() -> None:
    queue = connected()
    queue.put(Waiting(0), CALM_S)
    queue.expire(CALM_S + MAX_WAIT_S + 0.01)
    queue.await_epoch()
    put_all(queue, [Waiting(n) for n in range(1, 4)], CALM_S + 1.1)
    queue.begin_epoch(CALM_S + 1.2)
    assert numbers_left(queue) == [0, 1, 2, 3]


def test_a_lost_connection_counts_what_still_waits() -> None:
    queue = connected(FULL_HD)
    put_all(queue, [Waiting(n, CALM_S + n, FULL_HD) for n in range(MIN_FRAMES + 2)], CALM_S)
    assert queue.clear() == (MIN_FRAMES + 2, 2)
    assert queue.clear() == (0, 0)


def sounding(number: int) -> Waiting:
    block = SoundBlock(number, number, number > 0, bytes(SOUND_RATE * 4))
    return Waiting(number, sound=(block,))


def blocks(sound: Iterable[SoundBlock]) -> list[int]:
    return [block.number for block in sound]


def test_each_frame_keeps_its_sound_and_that_of_those_that_it_replaced() -> None:
    queue = connected()
    put_all(queue, map(sounding, range(3)), CALM_S)
    assert blocks(queue.take().sound) == [0]
    queue.put(sounding(3), CALM_S + 1.5)
    assert blocks(queue.take().sound) == [1, 2, 3]


def test_no_frame_carries_more_sound_than_may_be_unread() -> None:
    queue = connected()
    for number in range(40):
        queue.put(sounding(number), CALM_S + 2.0 * number)
    most = int(SOUND_MOST_S)
    assert blocks(queue.take().sound) == list(range(40 - most, 40))
    assert queue.unheard == 40 - most


def test_sound_that_no_frame_will_carry_is_counted() -> None:
    queue = connected()
    queue.put(sounding(0), CALM_S)
    put_all(queue, map(sounding, range(1, 4)), CALM_S + 2.0)
    queue.clear()
    assert queue.unheard == 4


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "take", "expire", "hold", "free"]),
        st.sampled_from([0.0, 0.0, 0.01, 0.1, 0.9, 2.0]),
        st.sampled_from([SMALL, Form(640, 360), FULL_HD]),
    ),
    max_size=200,
)


@given(STEPS)
def test_every_frame_is_taken_or_counted_and_all_is_bounded(
    steps: list[tuple[str, float, Form]],
) -> None:
    queue, now, put, taken, dropped = FrameQueue(), 0.0, 0, [-1], 0
    released, held = 0.0, False
    came: dict[int, float] = {}
    for what, passed, form in steps:
        now += passed
        if what == "put":
            queue.put(Waiting(put, now, form), now)
            came[put] = now
            put += 1
        elif what == "expire":
            queue.expire(now)
        elif what == "take":
            queue.expire(now)
            if len(queue):
                waits = len(queue)
                given = queue.take()
                assert isinstance(given.frame, Waiting)
                number = given.frame.number
                assert number == taken[-1] + given.dropped + 1, "in order, and none uncounted"
                assert 0 <= given.burst <= given.dropped
                is_newest = waits == 1
                waited_s = now - max(came[number], released)
                assert is_newest or held or waited_s <= MAX_WAIT_S
                taken.append(number)
                dropped += given.dropped
        elif what == "hold":
            queue.await_epoch()
            held = True
        else:
            queue.begin_epoch(now)
            released, held = now, False
        assert len(queue) <= MAX_FRAMES
        assert queue.nbytes <= MAX_BYTES + MIN_FRAMES * FULL_HD.nbytes
    left = len(queue)
    at_end = queue.clear()
    assert at_end.dropped >= left
    assert put == len(taken) - 1 + dropped + at_end.dropped
    assert queue.nbytes == 0


def test_a_dropped_frame_takes_those_that_were_not_decoded_with_it() -> None:
    queue = connected()
    first = Waiting(0)
    first.undecoded = (UndecodedFrame(0.1, None), UndecodedFrame(0.2, None))
    queue.put(first, CALM_S)
    queue.put(Waiting(1), CALM_S + 2 * MAX_WAIT_S)
    taken = queue.take()
    assert (taken.frame.number, taken.dropped) == (1, 3)


def test_the_camera_events_of_dropped_frames_are_those_of_the_next() -> None:
    queue = connected()
    first, second = Waiting(0), Waiting(1)
    first.undecoded = (UndecodedFrame(0.1, None, camera_events=("line",)),)
    first.camera_events = ("motion",)
    second.camera_events = ()
    queue.put(first, CALM_S)
    queue.put(second, CALM_S + 2 * MAX_WAIT_S)
    assert queue.take().camera_events == ("line", "motion")
    queue.put(Waiting(2), CALM_S + 3 * MAX_WAIT_S)
    assert queue.take().camera_events is None


def test_a_woken_group_that_the_pipeline_takes_in_seconds_loses_nothing() -> None:
    """50 frames at once, then 10 a second, of which a pipeline takes 20 a second."""
    queue = FrameQueue()
    for number in range(50):
        queue.put(Waiting(number), CALM_S, was_held=True)
    numbers = []
    for step in range(100):
        now = CALM_S + step / 20
        if step % 2:
            queue.put(Waiting(50 + step // 2), now)
        queue.expire(now)
        taken = queue.take()
        assert taken.dropped == 0
        assert isinstance(taken.frame, Waiting)
        numbers.append(taken.frame.number)
    assert numbers == list(range(100))
    assert not queue


def test_a_pipeline_that_stops_taking_a_woken_group_gets_the_newest_frame() -> None:
    queue = FrameQueue()
    for number in range(50):
        queue.put(Waiting(number), CALM_S, was_held=True)
    queue.expire(CALM_S + CATCH_UP_S)
    assert len(queue) == 50
    queue.expire(CALM_S + CATCH_UP_S + 0.1)
    assert numbers_left(queue) == [49]
