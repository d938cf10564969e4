"""What an ingest worker commits for its decoder's events: ends, counters, and lost replies."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import nullcontext

import pytest

from framegate.pipeline.contracts import records
from framegate.pipeline.contracts.errors import SourceFault
from framegate.pipeline.contracts.records import START, DecodeState, End, Position
from framegate.pipeline.contracts.source import DecoderGuard, Form, Source, UndecodedFrame
from framegate.pipeline.contracts.spec import SourceSpec
from framegate.pipeline.engine.inbox import Arrival
from framegate.pipeline.ingest.decoder import DecoderContext, DecoderThread
from framegate.pipeline.ingest.decoder_events import (
    Decoded,
    Event,
    Lost,
    NewEpoch,
    ResumePoint,
    SourceEnded,
)
from framegate.pipeline.ingest.feed import Feed
from framegate.pipeline.shared_memory.frame_store import FrameStore
from framegate.pipeline.store.hop import Attached

FORM = Form(4, 4)


class Told(DecoderThread):
    """A decoder thread that reports what a test says, and ends."""

    def __init__(self, wake: int, events: Sequence[Event]) -> None:
        super().__init__("a", _decoder_context(wake), ResumePoint(START))
        self._script = events

    def _decode_to_the_end(self) -> SourceEnded | None:
        for event in self._script:
            self._report(event)
        return None


def _decoder_context(wake: int) -> DecoderContext:
    def nothing(guard: DecoderGuard) -> Source:  # noqa: ARG001
        raise SourceFault("there is nothing to open", "missing")

    def no_store(form: Form) -> FrameStore:
        raise AssertionError(f"no pixels are asked for, of {form}")

    return DecoderContext(nothing, no_store, 1, 4, wake, lambda position: nullcontext(), START)  # noqa: ARG005


@pytest.fixture
def wake() -> Iterator[int]:
    descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    yield descriptor
    os.close(descriptor)


def camera() -> SourceSpec:
    return SourceSpec("rtsp://x", True, name="a", past=0, credit=4, slots=5, pace="fast")


def fed(wake: int, *events: Event, wall: float = 100.0) -> Feed:
    """A camera's feed that has taken all of these, in epoch 1."""
    feed = Feed(camera(), "run", 1.0)
    thread = Told(wake, [NewEpoch(), *events])
    thread.start()
    thread.join()
    feed.restart(START, DecodeState("run"), thread)
    feed.begin_epoch(1)
    feed.gather(2.0, wall)
    return feed


def frame(seq: int, **counts: int) -> Decoded:
    return Decoded(Position(1, seq), seq, seq / 10, FORM, 1.0, counts=counts)


def counts(feed: Feed) -> dict[str, int]:
    commit = feed.commit()
    assert commit is not None
    return dict(commit.counts)


def test_the_end_of_a_lost_epoch_says_how_many_of_its_frames_were_dropped(wake: int) -> None:
    feed = fed(wake, frame(0), Lost("no frame for 5 s", "stalled", dropped=6, burst=2))
    [_, ended] = feed.unconfirmed()
    assert isinstance(ended.record, End)
    assert (ended.position, ended.record.frames, ended.record.dropped) == (Position(1, 7), 7, 6)
    said = counts(feed)
    assert (said["decoded"], said["dropped:replaced"], said["dropped:burst"]) == (7, 4, 2)


def test_an_end_of_an_older_framegate_dropped_nothing() -> None:
    assert records.decode_versioned(records.encode(End(1, 3, False)), End).dropped == 0


def test_counters_that_were_not_committed_are_added_to_those_of_the_end(wake: int) -> None:
    feed = fed(wake, frame(0, damaged=5), SourceEnded({"damaged": 2, "late": 0}, "died: x"))
    assert counts(feed)["damaged"] == 7


@pytest.mark.parametrize("lost_reply", [False, True])
def test_a_source_s_end_is_told_once_though_the_reply_was_lost(wake: int, lost_reply: bool) -> None:
    feed = fed(wake, frame(0), SourceEnded({"damaged": 2}))
    feed.commit()
    assert feed.take_end() is None
    if lost_reply:
        assert feed.attach(Attached(b"2", Position(1, 1), None, START))
    else:
        feed.confirm()
    ended = feed.take_end()
    assert ended is not None
    assert ended.counts == {"damaged": 2}
    assert feed.take_end() is None
    assert feed.commit() is None


@pytest.mark.parametrize(("began", "wait"), [(1.0, 30.0), (2.0, 0.0)])
def test_a_file_s_pace_is_kept_under_the_run_s_process_only(
    wake: int, began: float, wait: float
) -> None:
    """Another worker goes on with it; a run that was resumed has not played meanwhile."""
    spec = SourceSpec("a.mkv", name="a", past=0, credit=4, slots=5, pace="realtime")
    state = DecodeState("run", 1, open=True, pace=(1.0, 100.0))
    due_later = Decoded(Position(1, 1), 1, 40.0, FORM, 110.0)
    thread = Told(wake, [due_later])
    thread.start()
    thread.join()
    feed = Feed(spec, "run", began)
    feed.restart(Position(1, 0), state, thread)
    assert feed.due_s(110.0) == wait


def test_no_more_frames_are_taken_than_fit_a_batch(wake: int) -> None:
    """A frame that was not decoded is a sixteenth of one; a group is never divided."""
    events = []
    for group in range(1, 6):
        undecoded = tuple(UndecodedFrame(None, None) for _ in range(9))
        at = Position(1, 10 * group - 1)
        events.append(Decoded(at, group - 1, None, FORM, 1.0, undecoded=undecoded))
    spec = SourceSpec("a.mp4", False, name="a", past=0, credit=32, slots=33, pace="fast")
    feed = Feed(spec, "run", 1.0)
    thread = Told(wake, [NewEpoch(), *events])
    thread.start()
    thread.join()
    feed.restart(START, DecodeState("run"), thread)
    feed.begin_epoch(1)
    taken = [len(feed.gather(2.0, 100.0, most)) for most in (1, 2 * (16 + 9), 2 * (16 + 9) - 1)]
    assert taken == [10, 20, 10]


def test_while_a_camera_is_away_its_end_is_said_again_ever_more_rarely(wake: int) -> None:
    feed = fed(wake, frame(0), Lost("no frame for 5 s", "stalled"))
    feed.confirm()
    said: list[tuple[Position, float]] = []
    now, last = 2.0, 2.0 + 86_400
    while (due_s := feed.due_s(now)) is not None and now < last:
        now += due_s
        for arrival in feed.gather(now, 100.0):
            assert isinstance(arrival.record, End)
            assert (arrival.record.frames, arrival.record.last) == (1, False)
            said.append((arrival.position, arrival.record.away_s))
        feed.confirm()
    assert said[0] == (Position(1, 2), 2.0), "its last frame came at 1.0, it was lost at 2.0"
    assert [seq for (_, seq), _ in said] == list(range(2, 2 + len(said)))
    waits = [(b - a) / a for (_, a), (_, b) in itertools.pairwise(said) if a > 10]
    assert max(waits) <= 0.101
    assert len(said) < 120
    feed.begin_epoch(2)
    assert (feed.gather(now + 1e4, 100.0), feed.due_s(now)) == ([], None)


def test_a_camera_that_never_came_has_an_epoch_without_frames(wake: int) -> None:
    feed = Feed(camera(), "run", 1.0)
    thread = Told(wake, [Lost("refused", "unreachable")])
    thread.start()
    thread.join()
    feed.restart(START, DecodeState("run"), thread)
    assert feed.gather(2.0, 100.0) == []
    assert feed.needs_epoch()
    assert feed.begin_epoch(7) == []
    assert not feed.needs_epoch()
    said: list[Arrival] = []
    for now in (3.0, 4.5):
        assert (feed.due_s(now) or 0.0) <= 0.0
        said += feed.gather(now, 98.0 + now)
        feed.confirm()
    assert [one.position for one in said] == [Position(7, 0), Position(7, 1)]
    assert [one.record for one in said] == [
        End(1, 0, False, fault="unreachable: refused", away_s=away_s, since=100.0)
        for away_s in (1.0, 2.5)
    ]


def test_undecoded_frames_of_a_file_at_its_own_pace_arrive_when_they_are_due(wake: int) -> None:
    """Their packets were all read at 1 s, ahead of the pace."""
    spec = SourceSpec("a.mkv", name="a", past=0, credit=4, slots=5, pace="realtime")
    undecoded = tuple(UndecodedFrame(float(pts), 1.0) for pts in range(1, 4))
    first = Decoded(Position(1, 0), 0, 0.0, FORM, 1.0)
    second = Decoded(Position(1, 4), 1, 4.0, FORM, 1.0, undecoded=undecoded)
    thread = Told(wake, [NewEpoch(), first, second])
    thread.start()
    thread.join()
    feed = Feed(spec, "run", 0.0)
    feed.restart(START, DecodeState("run"), thread)
    feed.begin_epoch(1)
    taken = [*feed.gather(1.0, 101.0), *feed.gather(5.0, 105.0)]
    entries = [entry.record for entry in taken if isinstance(entry.record, records.Record)]
    assert [entry.arrived for entry in entries] == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert [entry.captured for entry in entries] == [101.0, 102.0, 103.0, 104.0, 105.0]


NOW_S = 1_780_000_000.0
YEAR_S = 365.25 * 86_400


def told_frames(wake: int, clocks: Sequence[float | None]) -> tuple[Feed, list[records.Record]]:
    """A feed of a camera, and its records, whose clock is so far ahead with each frame."""
    events = [
        Decoded(
            Position(1, n), n, n / 10, FORM, 1.0, captured=None if off_s is None else NOW_S + off_s
        )
        for n, off_s in enumerate(clocks)
    ]
    feed = fed(wake, *events, wall=NOW_S + 1.0)  # gathered a second after they arrived
    return feed, [
        one.record for one in feed.unconfirmed() if isinstance(one.record, records.Record)
    ]


def clock_off_s(feed: Feed) -> float:
    """What the store is told of the camera's clock."""
    commit = feed.commit()
    assert commit is not None
    return records.decode(dict(commit.fields)["c"], records.Connection).clock_off_s


@pytest.mark.parametrize("off_s", [0.0, -3600.0, 3600.0])
def test_a_camera_s_clock_says_when_a_frame_was_taken(wake: int, off_s: float) -> None:
    feed, [record] = told_frames(wake, [off_s])
    assert (record.captured, record.captured_from) == (NOW_S + off_s, "rtcp")
    assert clock_off_s(feed) == 0.0


@pytest.mark.parametrize("off_s", [-56 * YEAR_S, 10 * YEAR_S, 86_401.0])
def test_a_camera_whose_clock_is_wrong_has_times_of_arrival_and_is_told_once(
    wake: int, caplog: pytest.LogCaptureFixture, off_s: float
) -> None:
    feed, taken = told_frames(wake, [off_s] * 3)
    assert {(one.captured, one.captured_from) for one in taken} == {(NOW_S, "arrival")}
    [line] = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert line.startswith("source a: its clock shows ")
    assert clock_off_s(feed) == off_s


def test_a_camera_whose_clock_steps_with_each_frame_does_not_fill_the_log(
    wake: int, caplog: pytest.LogCaptureFixture
) -> None:
    feed, taken = told_frames(wake, [10 * YEAR_S, 0.0] * 10)
    assert [one.captured_from for one in taken] == ["arrival", "rtcp"] * 10
    assert len([one for one in caplog.records if one.levelname == "WARNING"]) == 1
    assert clock_off_s(feed) == 0.0


def test_a_camera_whose_clock_was_set_right_is_believed_again(wake: int) -> None:
    feed, taken = told_frames(wake, [None, -56 * YEAR_S, 0.5])
    assert [one.captured_from for one in taken] == ["arrival", "arrival", "rtcp"]
    assert clock_off_s(feed) == 0.0
