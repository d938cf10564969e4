"""A file's decoder thread, over sources that a test makes: progress, stopping, and its end."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace

import pytest

from framegate.pipeline.contracts.errors import (
    FramegateError,
    FrameLost,
    FrameStoreFull,
    SourceFault,
)
from framegate.pipeline.contracts.records import START, Position, Record
from framegate.pipeline.contracts.source import (
    Form,
    Frame,
    SoundBlock,
    Source,
    UndecodedFrame,
)
from framegate.pipeline.engine.inbox import Arrival
from framegate.pipeline.ingest.decoder import DecoderContext
from framegate.pipeline.ingest.decoder_events import (
    Decoded,
    InFlight,
    NewEpoch,
    ResumePoint,
    SourceEnded,
)
from framegate.pipeline.ingest.file_decoder import FileDecoder
from framegate.pipeline.ingest.launcher import in_flight_of
from framegate.pipeline.shared_memory.frame_store import (
    FrameStore,
    SoundStore,
    frame_store_bytes,
    sound_store_bytes,
)
from framegate.pipeline.shared_memory.mapping import make_shared_file
from framegate.pipeline.shared_memory.masks import Masks
from tests.support.runs import DEADLINE_S, wait_until

FORM = Form(16, 8)
UNWANTED = 1000
BLOCK = 8000


class Unwanted:
    """A file of which no frame is wanted; `more` is asked before each."""

    counts: Mapping[str, int] = {}

    def __init__(self, more: Callable[[], bool]) -> None:
        self._more = more

    def __iter__(self) -> Iterator[Frame | None]:
        while self._more():
            yield None

    def close(self) -> None:
        """Nothing is open."""


class ClosesBadly(Unwanted):
    def close(self) -> None:
        raise OSError("the file system went away")


@pytest.fixture
def wake() -> Iterator[int]:
    descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    yield descriptor
    os.close(descriptor)


def decoder(
    wake: int,
    open_source: Callable[[], Source],
    start: ResumePoint | None = None,
    frame_store: Callable[[Form], FrameStore] | None = None,
) -> FileDecoder:
    def no_store(form: Form) -> FrameStore:
        raise FramegateError(f"there is no room for {form}")

    context = DecoderContext(
        open_source=lambda guard: open_source(),  # noqa: ARG005
        frame_store=frame_store or no_store,
        keep_frames=lambda forms: None,  # noqa: ARG005
        token=1,
        credit_limit=4,
        wake=wake,
        announce=lambda position: nullcontext(),  # noqa: ARG005
        careful_until=START,
    )
    return FileDecoder("a", context, start or ResumePoint(START))


def events(of: FileDecoder) -> list[object]:
    of.join(DEADLINE_S)
    assert not of.is_alive()
    found: list[object] = []
    while of.first() is not None:
        found.append(of.take())
    return found


def test_frames_that_are_not_wanted_are_progress(wake: int) -> None:
    numbers = iter(range(UNWANTED))
    thread = decoder(wake, lambda: Unwanted(lambda: next(numbers, None) is not None))
    thread.start()
    assert events(thread) == [SourceEnded({})]
    assert thread.done == UNWANTED


def test_it_can_be_stopped_while_no_frame_is_wanted(wake: int) -> None:
    thread = decoder(wake, lambda: Unwanted(lambda: True))
    thread.start()
    wait_until("it decodes", lambda: thread.done)
    thread.stop()
    assert events(thread) == []


def test_a_file_that_cannot_be_closed_has_ended_all_the_same(wake: int) -> None:
    thread = decoder(wake, lambda: ClosesBadly(lambda: False))
    thread.start()
    assert events(thread) == [SourceEnded({})]


def test_whatever_is_raised_is_an_end_that_is_told(wake: int) -> None:
    class Odd(FileDecoder):
        def _open(self) -> Source:
            raise MemoryError("no room")

        def _give_up_refills(self) -> None:
            raise OSError("nor here")

    found = decoder(wake, lambda: Unwanted(lambda: False))
    thread = Odd("a", found._worker, ResumePoint(START))
    thread.start()
    [end] = events(thread)
    assert isinstance(end, SourceEnded)
    assert end.fault is not None
    assert "nor here" in end.fault


@pytest.mark.parametrize("how", ["abandon", "finish"])
def test_pixels_may_be_given_up_by_the_loop_and_by_the_thread_at_once(wake: int, how: str) -> None:
    """A resumed file that cannot be read is removed at that moment."""
    in_flight = tuple(InFlight(Position(1, n), n, FORM) for n in range(2000))
    start = ResumePoint(Position(1, 1999), 2000, open=True, in_flight=in_flight)
    for _ in range(5):
        both = threading.Barrier(2)

        def open_source(both: threading.Barrier = both) -> Source:
            both.wait(DEADLINE_S)
            raise SourceFault("it is gone", "missing")

        thread = decoder(wake, open_source, start)
        thread.start()
        both.wait(DEADLINE_S)
        getattr(thread, how)()
        assert events(thread) == [SourceEnded({}, "missing: it is gone")]


def test_an_epoch_is_asked_for_before_the_first_frame(wake: int) -> None:
    class One:
        pts = arrived_mono = captured = None
        key_frame, sound, form, nbytes = True, (), FORM, 0
        undecoded = ()
        camera_events = None

        def write(self, slot: memoryview) -> None:
            """No pixels."""

    class Single(Unwanted):
        def __iter__(self) -> Iterator[Frame | None]:
            yield None
            yield One()

    thread = decoder(wake, lambda: Single(lambda: True))
    thread.start()
    wait_until("it asks", thread.first)
    thread.stop()
    assert events(thread) == [NewEpoch()]
    assert thread.done == 2


class Shown:
    """A frame of a file of one picture."""

    pts = arrived_mono = captured = None
    key_frame = False
    undecoded: tuple[UndecodedFrame, ...] = ()
    camera_events = None
    sound: tuple[SoundBlock, ...] = ()
    form, nbytes = FORM, FORM.nbytes

    def write(self, slot: memoryview) -> None:
        slot[: self.nbytes] = bytes(self.nbytes)


class Sounding(Unwanted):
    """Three pictures, the first of which has no sound."""

    def __iter__(self) -> Iterator[Frame | None]:
        for number in range(3):
            frame = Shown()
            frame.sound = tuple(
                SoundBlock(n, n / 2, n > 0, bytes([n]) * BLOCK * 4)
                for n in range(2 * number - 2, 2 * number)
                if n >= 0
            )
            yield frame


def test_sound_goes_with_the_frame_that_carries_it_and_comes_again_with_a_file(wake: int) -> None:
    store, sounds = stores()
    thread = decoder(wake, lambda: Sounding(lambda: False), None, lambda form: store)  # noqa: ARG005
    thread._worker = replace(thread._worker, sound_store=lambda: sounds)
    thread.begin_epoch(1)
    thread.start()
    said = [event for event in events(thread) if isinstance(event, Decoded)]
    assert [event.sound for event in said] == [None, (0, 2), (2, 2)]
    assert [sounds.read(Position(1, n)).samples[0] for n in range(4)] == [0, 1, 2, 3]

    store, sounds = stores()  # as after a restart: all is to be decoded again, for the last frame
    in_flight = (InFlight(Position(1, 2), 2, FORM),)
    start = ResumePoint(Position(1, 2), 3, open=True, done=True, in_flight=in_flight)
    thread = decoder(wake, lambda: Sounding(lambda: False), start, lambda form: store)  # noqa: ARG005
    thread._worker = replace(thread._worker, sound_store=lambda: sounds)
    thread.start()
    assert events(thread) == []
    assert [sounds.read(Position(1, n)).begins_s for n in range(4)] == [0.0, 0.5, 1.0, 1.5]


def test_without_memory_for_sound_the_pictures_go_on(wake: int) -> None:
    def none() -> SoundStore:
        raise FrameStoreFull("no room")

    store, _ = stores()
    thread = decoder(wake, lambda: Sounding(lambda: False), None, lambda form: store)  # noqa: ARG005
    thread._worker = replace(thread._worker, sound_store=none)
    thread.begin_epoch(1)
    thread.start()
    said = [event for event in events(thread) if isinstance(event, Decoded)]
    assert [event.sound for event in said] == [None, None, None]
    assert [dict(event.counts) for event in said] == [{}, *2 * [{"sound_dropped": 2}]]


def stores() -> tuple[FrameStore, SoundStore]:
    pictures = make_shared_file(frame_store_bytes(4, FORM.nbytes), "the test")
    sound = make_shared_file(sound_store_bytes(BLOCK), "the test")
    made = FrameStore(pictures, 4, FORM.nbytes), SoundStore(sound, BLOCK)
    os.close(pictures)
    os.close(sound)
    return made


class OnePicture(Unwanted):
    def __iter__(self) -> Iterator[Frame | None]:
        yield Shown()


def test_what_is_masked_is_blank_in_the_frame_store_and_when_a_frame_is_put_again(
    wake: int,
) -> None:
    left = ((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0))
    blank = (bytes([16]) * 8 + bytes(8)) * 8 + (bytes([128]) * 4 + bytes(4)) * 8
    at = Position(1, 0)
    again = ResumePoint(at, 1, open=True, done=True, in_flight=(InFlight(at, 0, FORM),))
    for start in (None, again):
        store, _ = stores()
        thread = decoder(wake, lambda: OnePicture(lambda: False), start, lambda form: store)  # noqa: ARG005, B023
        thread._worker = replace(thread._worker, masks=Masks([left]))
        if start is None:
            thread.begin_epoch(1)
        thread.start()
        events(thread)
        with store.reading(0, at) as pixels:
            assert bytes(pixels[: FORM.nbytes]) == blank


@pytest.mark.parametrize("tries", [3, 10**9])
def test_memory_that_is_short_is_waited_for_for_a_while(
    wake: int, tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes free, and the file goes on; or it does not, and the file fails alone. Meanwhile the
    thread shows that it is alive.
    """
    monkeypatch.setattr("framegate.pipeline.ingest.decoder.FULL_REST_S", 0.01)
    monkeypatch.setattr(FileDecoder, "patience_s", 20.0 if tries == 3 else 0.1)
    descriptor = make_shared_file(frame_store_bytes(4, FORM.nbytes), "the test")
    store = FrameStore(descriptor, 4, FORM.nbytes)
    os.close(descriptor)
    asked = []

    def sometimes(form: Form) -> FrameStore:
        asked.append(form)
        if len(asked) < tries:
            raise FrameStoreFull("no room for a picture")
        return store

    thread = decoder(wake, lambda: OnePicture(lambda: False), frame_store=sometimes)
    thread.start()
    wait_until("it wants an epoch", lambda: isinstance(thread.first(), NewEpoch))
    thread.take()
    thread.begin_epoch(1)
    *frames, end = events(thread)
    assert isinstance(end, SourceEnded)
    assert end.fault == (None if tries == 3 else "no room for a picture")
    assert len(frames) == (1 if tries == 3 else 0)
    assert thread.done >= min(tries, 3)
    store.close()


class Calm(Unwanted):
    """Three decoded pictures, with two frames before the second that were not decoded."""

    def __iter__(self) -> Iterator[Frame | None]:
        for number in range(3):
            frame = Shown()
            if number == 1:
                frame.undecoded = (UndecodedFrame(0.1, None), UndecodedFrame(0.2, None))
            yield frame


def test_frames_that_were_not_decoded_have_positions_and_no_slot(wake: int) -> None:
    store, _ = stores()
    thread = decoder(wake, lambda: Calm(lambda: False), None, lambda form: store)  # noqa: ARG005
    thread.begin_epoch(1)
    thread.start()
    said = [event for event in events(thread) if isinstance(event, Decoded)]
    assert [(event.position.seq, event.number) for event in said] == [(0, 0), (3, 1), (4, 2)]
    assert [len(event.undecoded) for event in said] == [0, 2, 0]

    # A restarted decoder is behind four frames, of which two were decoded.
    store, _ = stores()
    in_flight = (InFlight(Position(1, 3), 1, FORM, 2),)
    start = ResumePoint(Position(1, 3), 4, open=True, in_flight=in_flight, undecoded=2)
    thread = decoder(wake, lambda: Calm(lambda: False), start, lambda form: store)  # noqa: ARG005
    thread.start()
    said = [event for event in events(thread) if isinstance(event, Decoded)]
    assert [(event.position.seq, event.number) for event in said] == [(4, 2)]
    assert store.holds(1, Position(1, 3))


@pytest.mark.parametrize("committed", [2, 4])
def test_a_file_whose_frames_are_left_undecoded_otherwise_than_before_continues_in_order(
    wake: int, committed: int
) -> None:
    """Its first frames were all decoded; now the second and the third are not."""
    store, _ = stores()
    in_flight = tuple(InFlight(Position(1, n), n, FORM) for n in range(committed))
    start = ResumePoint(Position(1, committed - 1), committed, open=True, in_flight=in_flight)
    thread = decoder(wake, lambda: Calm(lambda: False), start, lambda form: store)  # noqa: ARG005
    thread.release(Position(1, 1))  # room for the frames that are new
    thread.start()
    said = [event for event in events(thread) if isinstance(event, Decoded)]
    if committed == 4:
        assert [(event.position.seq, event.number) for event in said] == [(4, 4)]
        assert store.holds(3, Position(1, 3))
        lost = [2]
    else:
        assert [(event.position.seq, event.number) for event in said] == [(3, 2), (4, 3)]
        assert said[0].undecoded == (UndecodedFrame(0.2, None),)
        lost = [1]
    for number in lost:
        with pytest.raises(FrameLost), store.reading(number, Position(1, number)):
            pass


def test_frames_in_flight_are_counted_among_all_frames() -> None:
    """Of ten committed frames, five of them undecoded, the last four are unread."""
    unread = [
        Arrival(Position(1, seq), record(number, is_undecoded))
        for seq, number, is_undecoded in [(6, 3, True), (7, 3, False), (8, 4, True), (9, 4, False)]
    ]
    later = Arrival(Position(1, 10), record(5, False))
    frames = in_flight_of([*unread, later], Position(1, 9), 5)
    assert [(frame.number, frame.index) for frame in frames] == [(3, 7), (4, 9)]


def record(number: int, is_undecoded: bool) -> Record:
    return Record(1, None, 0.0, 0.0, number, FORM, undecoded=is_undecoded)
