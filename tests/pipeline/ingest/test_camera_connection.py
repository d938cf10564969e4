"""A camera's decoder, over sources that a test drives: bursts, drops, losses, epochs, counts."""

from __future__ import annotations

import os
import queue
import select
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from framegate.pipeline.contracts.errors import FrameStoreFull, SourceFault
from framegate.pipeline.contracts.records import START, Position
from framegate.pipeline.contracts.source import (
    SOUND_MOST_S,
    SOUND_RATE,
    CameraEvent,
    DecoderGuard,
    Form,
    SoundBlock,
    UndecodedFrame,
)
from framegate.pipeline.ingest import camera_reader
from framegate.pipeline.ingest.camera_connection import CameraDecoder, is_break
from framegate.pipeline.ingest.camera_reader import PATIENCE_S, CameraReader
from framegate.pipeline.ingest.credit import MAX_CHANGES
from framegate.pipeline.ingest.decoder import DecoderContext
from framegate.pipeline.ingest.decoder_events import (
    Decoded,
    Event,
    InFlight,
    Lost,
    NewEpoch,
    ResumePoint,
    SourceEnded,
)
from framegate.pipeline.ingest.frame_queue import MAX_FRAMES, MAX_WAIT_S
from framegate.pipeline.ingest.recorded_stream import RecordedStreamState
from framegate.pipeline.shared_memory.frame_store import (
    FrameStore,
    SoundStore,
    frame_store_bytes,
    sound_store_bytes,
)
from framegate.pipeline.shared_memory.mapping import make_shared_file
from tests.support.played_stream import Played, PlayedStream
from tests.support.runs import DEADLINE_S, wait_until

FORM = Form(16, 8)
SLOTS = 4
BLOCK = SOUND_RATE  # samples


@dataclass
class Picture:
    """A frame whose pixels all have one value."""

    value: int
    pts: float | None = None
    form: Form = FORM
    arrived_mono: float | None = None
    sound: tuple[SoundBlock, ...] = ()
    undecoded: tuple[UndecodedFrame, ...] = ()
    camera_events: tuple[CameraEvent, ...] | None = None
    captured, key_frame = None, False

    @property
    def nbytes(self) -> int:
        return self.form.nbytes

    def write(self, slot: memoryview) -> None:
        slot[: self.nbytes] = bytes([self.value]) * self.nbytes


@dataclass
class Camera:
    """Gives what the test puts in; a fault ends the connection. `drained` counts what it gave."""

    feed: queue.SimpleQueue[Picture | SourceFault | None] = field(default_factory=queue.SimpleQueue)
    given: queue.SimpleQueue[None] = field(default_factory=queue.SimpleQueue)
    counts: dict[str, int] = field(default_factory=dict)
    opened: int = 0
    closed: int = 0
    has_sound: bool = True

    def __iter__(self) -> Iterator[Picture | None]:
        while True:
            item = self.feed.get()
            if isinstance(item, SourceFault):
                raise item
            yield item
            self.given.put(None)  # it was taken: the next is asked for

    def close(self) -> None:
        self.closed += 1

    def show(self, *pictures: Picture) -> None:
        """Let these come, and wait until the last has been taken from the connection."""
        for picture in pictures:
            self.feed.put(picture)
        for _ in pictures:
            self.given.get(timeout=DEADLINE_S)


class Bench:
    """A decoder with a frame store and the loop's side of it."""

    def __init__(
        self,
        credit: int = SLOTS,
        stall_s: float = 60.0,
        retry_most_s: float = 0.01,
        recorded: PlayedStream | None = None,
    ) -> None:
        """recorded: the other stream of a camera with two."""
        self.camera = Camera()
        self.fault: SourceFault | None = None
        self.kept: list[Form] = []
        self.no_room_for: set[Form] = set()
        self.epoch = 0
        descriptor = make_shared_file(frame_store_bytes(SLOTS, 4 * FORM.nbytes), "the test")
        self.store = FrameStore(descriptor, SLOTS, 4 * FORM.nbytes)
        os.close(descriptor)
        descriptor = make_shared_file(sound_store_bytes(BLOCK), "the test")
        self.sounds = SoundStore(descriptor, BLOCK)
        os.close(descriptor)
        self.wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        context = DecoderContext(
            open_source=self.open,
            frame_store=self.frame_store,
            keep_frames=self.keep_frames,
            token=1,
            credit_limit=credit,
            wake=self.wake,
            announce=self.announce,
            careful_until=START,
            sound_store=lambda: self.sounds,
            open_recorded=None if recorded is None else lambda guard, take: recorded,  # noqa: ARG005
        )
        self.decoder = CameraDecoder("camera", context, ResumePoint(START), stall_s, retry_most_s)
        self.decoder.start()

    def open(self, guard: DecoderGuard) -> Camera:  # noqa: ARG002
        self.camera.opened += 1
        if self.fault is not None:
            raise self.fault
        return self.camera

    def frame_store(self, form: Form) -> FrameStore:
        if form in self.no_room_for:
            raise FrameStoreFull("no room for this size")
        return self.store

    def keep_frames(self, forms: Iterable[Form]) -> None:
        before, self.kept = self.kept, list(forms)
        if len(self.kept) < len(before):
            self.no_room_for = set()

    def announce(self, position: Position) -> AbstractContextManager[None]:  # noqa: ARG002
        return nullcontext()

    def event(self) -> Event:
        """The next event; a request for an epoch is answered at once."""
        while self.decoder.first() is None:
            ready, _, _ = select.select([self.wake], [], [], 20)
            assert ready, "no event in 20 s"
            os.eventfd_read(self.wake)
        event = self.decoder.take()
        if isinstance(event, NewEpoch):
            self.epoch += 1
            self.decoder.begin_epoch(self.epoch)
        return event

    def decoded(self) -> Decoded:
        event = self.event()
        assert isinstance(event, Decoded)
        return event

    def pixel(self, event: Decoded) -> int:
        with self.store.reading(event.number, event.position) as pixels:
            return pixels[0]

    def use_up_credit(self) -> None:
        """Begin an epoch, and let as many frames out as may be unread."""
        self.camera.show(Picture(0))
        assert isinstance(self.event(), NewEpoch)
        assert self.decoded().position == Position(self.epoch, 0)
        for value in range(1, SLOTS):
            self.camera.show(Picture(value))
            assert self.decoded().position == Position(self.epoch, value)

    def close(self) -> None:
        self.decoder.abandon()
        self.camera.feed.put(SourceFault("the test is over", "closed"))
        self.decoder.join(DEADLINE_S)
        self.store.close()
        self.sounds.close()
        os.close(self.wake)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


def test_frames_come_in_an_epoch_of_their_own(bench: Bench) -> None:
    bench.camera.show(Picture(7, 0.0))
    assert isinstance(bench.event(), NewEpoch)
    first = bench.decoded()
    assert (first.position, first.dropped, bench.pixel(first)) == (Position(1, 0), 0, 7)
    bench.camera.show(Picture(8, 0.1))
    second = bench.decoded()
    assert (second.position, second.number, bench.pixel(second)) == (Position(1, 1), 1, 8)


def long_ago() -> float:
    """When a frame came that has waited longer than any may."""
    return time.monotonic() - 2 * MAX_WAIT_S


def just_now() -> float:
    """When a frame came that does not wait too long before a test is over, however slow it is."""
    return time.monotonic() + 600.0


def test_a_burst_waits_for_credit_and_goes_out_whole_and_in_order(bench: Bench) -> None:
    bench.use_up_credit()
    bench.camera.show(*(Picture(value, arrived_mono=just_now()) for value in range(10, 18)))
    for n in range(8):
        bench.decoder.release(Position(1, n))
        frame = bench.decoded()
        assert (frame.position, frame.number) == (Position(1, SLOTS + n), SLOTS + n)
        assert (frame.dropped, bench.pixel(frame)) == (0, 10 + n)


def test_a_pipeline_that_is_behind_gets_the_newest_and_the_others_are_counted(
    bench: Bench,
) -> None:
    bench.use_up_credit()
    came = long_ago()
    bench.camera.show(*(Picture(value, arrived_mono=came) for value in range(10, 16)))
    bench.decoder.release(Position(1, 0))
    newest = bench.decoded()
    assert (newest.position, newest.number) == (Position(1, 9), SLOTS)
    assert (newest.dropped, newest.burst, bench.pixel(newest)) == (5, 0, 15)


def test_what_a_burst_brings_beyond_the_bound_is_counted_as_that(bench: Bench) -> None:
    bench.use_up_credit()
    came, frames = just_now(), range(MAX_FRAMES + 6)
    bench.camera.show(*(Picture(n, pts=n / 10, arrived_mono=came) for n in frames))
    bench.decoder.release(Position(1, 0))
    first = bench.decoded()
    assert (first.position, first.dropped, first.burst) == (Position(1, SLOTS + 6), 6, 6)
    assert bench.pixel(first) == 6


def sounding(value: int, numbers: range, arrived_mono: float | None = None) -> Picture:
    blocks = (SoundBlock(n, n, n > 0, bytes([n]) * BLOCK * 4) for n in numbers)
    return Picture(value, arrived_mono=arrived_mono, sound=tuple(blocks))


def test_the_newest_carries_the_sound_of_those_that_it_replaced(bench: Bench) -> None:
    bench.camera.show(sounding(0, range(1)))
    assert isinstance(bench.event(), NewEpoch)
    assert bench.decoded().sound == (0, 1)
    for value in range(1, SLOTS):
        bench.camera.show(Picture(value))
        assert bench.decoded().sound is None
    bench.camera.show(*(sounding(10 + n, range(n, n + 1), long_ago()) for n in range(1, 6)))
    bench.decoder.release(Position(1, 0))
    assert bench.decoded().sound == (1, 5)
    assert bench.sounds.read(Position(1, 5)).samples[0] == 5
    # A second each.
    bench.camera.show(*(sounding(n, range(n, n + 1), long_ago()) for n in range(6, 40)))
    bench.decoder.release(Position(1, SLOTS))
    newest = bench.decoded()
    assert newest.sound == (40 - int(SOUND_MOST_S), int(SOUND_MOST_S))
    assert newest.counts["sound_dropped"] == 34 - int(SOUND_MOST_S)


def test_sound_that_no_frame_carries_any_more_is_counted_as_a_connection_ends(
    bench: Bench,
) -> None:
    bench.camera.show(sounding(0, range(2)))
    assert isinstance(bench.event(), NewEpoch)
    assert bench.decoded().sound == (0, 2)
    for value in range(1, SLOTS):
        bench.camera.show(Picture(value))
        bench.decoded()
    came = long_ago()
    bench.camera.show(sounding(7, range(2, 4), came), sounding(8, range(4, 5), came))
    bench.camera.feed.put(SourceFault("gone", "closed"))
    lost = bench.event()
    assert isinstance(lost, Lost)
    assert (lost.dropped, lost.counts["sound_dropped"]) == (2, 3)


def test_a_loss_is_told_with_what_was_dropped_and_a_new_connection_is_a_new_epoch(
    bench: Bench,
) -> None:
    bench.use_up_credit()
    bench.camera.show(*(Picture(value, arrived_mono=long_ago()) for value in (7, 8, 9)))
    bench.camera.counts["damaged"] = 2
    bench.camera.feed.put(SourceFault("gone", "closed"))
    lost = bench.event()
    assert lost == Lost("gone", "closed", 3, {"damaged": 2})
    bench.decoder.release(Position(1, 99))
    bench.camera.show(Picture(9))
    assert isinstance(bench.event(), NewEpoch)
    again = bench.decoded()
    assert (again.position, again.number, again.dropped) == (Position(2, 0), SLOTS, 0)
    assert bench.camera.opened == 2
    assert bench.camera.closed == 1


def test_what_waits_when_a_connection_ends_is_given_once_there_is_room(bench: Bench) -> None:
    bench.use_up_credit()
    bench.camera.show(*(Picture(value, arrived_mono=just_now()) for value in (7, 8)))
    bench.camera.feed.put(SourceFault("gone", "closed"))
    wait_until("it is closed", lambda: bench.camera.closed == 1)
    bench.decoder.release(Position(1, 1))
    frames = [bench.decoded(), bench.decoded()]
    assert [(frame.position.seq, frame.dropped) for frame in frames] == [(4, 0), (5, 0)]
    assert bench.event() == Lost("gone", "closed")


def test_a_camera_that_is_off_is_tried_again_and_counts_no_frames() -> None:
    bench = _failing(SourceFault("no route", "unreachable"))
    for _ in range(3):
        assert bench.event() == Lost("no route", "unreachable")
    bench.fault = None
    bench.camera.feed.put(Picture(1))
    while not isinstance(event := bench.event(), NewEpoch):
        assert isinstance(event, Lost)
    assert bench.decoded().position == Position(1, 0)
    bench.close()


def _failing(fault: SourceFault) -> Bench:
    class Off(Bench):
        def open(self, guard: DecoderGuard) -> Camera:
            if not hasattr(self, "begun"):
                self.begun, self.fault = True, fault
            return super().open(guard)

    return Off()


def test_a_stall_is_a_loss_although_the_read_goes_on() -> None:
    bench = Bench(stall_s=0.05)
    bench.camera.show(Picture(0))
    assert isinstance(bench.event(), NewEpoch)
    bench.decoded()
    lost = bench.event()
    assert isinstance(lost, Lost)
    assert lost.reason == "stalled"
    bench.close()


@pytest.mark.parametrize(("what", "stalls"), [("skipped", False), ("late", False), ("", True)])
def test_frames_that_came_and_are_not_given_are_no_stall(what: str, stalls: bool) -> None:
    """One frame a minute is wanted of a camera, say: the first is long ago."""

    class Sparse(Camera):
        def __iter__(self) -> Iterator[Picture | None]:
            yield Picture(0, arrived_mono=1.0)
            self.counts[what] = 1
            yield None
            raise SourceFault("gone", "closed")

    began = time.monotonic()
    reader = CameraReader("camera", Sparse, threading.Condition())
    reader.start()
    reader.join(DEADLINE_S)
    assert (reader.stalled_at(5.0) < began + 5.0) is stalls


class Woken(Camera):
    """Gives one frame, holds 50 packets, and gives their 1080p frames at once."""

    is_lazy, n_held, n_pending = True, 0, 0

    def __iter__(self) -> Iterator[Picture | None]:
        yield Picture(0, arrived_mono=time.monotonic())
        self.n_held = 50
        yield None
        for number in range(50):
            yield Picture(number, arrived_mono=1.0, form=Form(1920, 1080))

    def ask(self) -> None:
        raise AssertionError("no viewer wants it")


class SlowPipeline(threading.Condition):
    """Takes a frame of `reader` whenever the reader has waited 0.3 s for it, on its own clock."""

    def __init__(self) -> None:
        super().__init__()
        self.reader: CameraReader | None = None
        self.waited_s = 0.0

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.waited_s += min(timeout, 0.3)
        assert self.reader is not None
        self.reader.waiting.take()
        return True


def test_a_reader_waits_for_all_frames_of_a_group_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for each of them: meanwhile it does not read the connection."""
    pipeline = SlowPipeline()
    reader = CameraReader("camera", Woken, pipeline)
    pipeline.reader = reader
    began = time.monotonic()
    clock = SimpleNamespace(monotonic=lambda: began + 10 + pipeline.waited_s)
    monkeypatch.setattr(camera_reader, "time", clock)
    reader.run()  # in this thread
    assert reader.frames == 51
    assert pipeline.waited_s == pytest.approx(PATIENCE_S)


def test_of_connections_that_were_given_up_one_at_most_is_open_beside_a_new_one() -> None:
    """Each hangs in a read, until the test lets it end."""
    bench = Bench(stall_s=0.02)
    for lost in range(1, 8):
        event = bench.event()
        assert isinstance(event, Lost)
        assert event.reason == "stalled"
        assert bench.camera.opened - bench.camera.closed <= 2
        if lost > 1:
            bench.camera.feed.put(None)  # one of them sees that nobody wants more
            wait_until("it ends", lambda lost=lost: bench.camera.closed == lost - 1)
    bench.decoder.abandon()
    for _ in range(2):
        bench.camera.feed.put(None)
    bench.close()


@pytest.mark.parametrize("has_two_streams", [False, True])
def test_a_camera_that_the_system_had_no_thread_for_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, has_two_streams: bool
) -> None:
    """A reader that never began has not to end, either, and nor has a recorded stream."""
    refused: list[threading.Thread] = []
    recorded = None
    if has_two_streams:
        sizes: queue.Queue[Played] = queue.Queue()
        sizes.put((1920, 1080))
        recorded = PlayedStream(sizes)

    start = threading.Thread.start

    def starts(thread: threading.Thread) -> None:
        if thread in refused:  # as Python 3.13 does
            raise RuntimeError("thread already started")
        if threading.current_thread().name == "decode-camera" and len(refused) < 3:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", starts)
    bench = Bench(recorded=recorded)
    for _ in range(3):
        event = bench.event()
        assert isinstance(event, Lost)
        assert (event.reason, event.dropped) == ("no_memory", 0)
    bench.camera.show(Picture(7))
    assert isinstance(frames_and_epochs(bench), NewEpoch)
    first = frames_and_epochs(bench)
    assert isinstance(first, Decoded)
    assert first.position == Position(1, 0)
    bench.close()
    assert recorded is None or recorded.closed  # before the decoder ended


def test_a_frame_that_cannot_be_put_costs_the_connection_not_the_camera(bench: Bench) -> None:
    bench.use_up_credit()
    bench.camera.show(Picture(SLOTS, arrived_mono=long_ago()))
    bench.camera.show(Picture(256, arrived_mono=long_ago()))  # no byte holds it
    bench.decoder.release(Position(1, 0))
    assert bench.event() == Lost("a frame could not be put: ValueError", "damaged", 2)
    bench.decoder.release(Position(1, SLOTS + 2))
    assert len(bench.decoder.credit) == 0
    bench.camera.feed.put(SourceFault("gone", "closed"))  # to the reader that was given up
    while bench.camera.closed == 0:
        os.sched_yield()
    bench.camera.show(Picture(1))
    assert isinstance(bench.event(), NewEpoch)
    assert bench.decoded().position == Position(2, 0)


def test_another_size_is_a_new_epoch_of_the_same_connection(bench: Bench) -> None:
    bench.camera.show(Picture(0))
    assert isinstance(bench.event(), NewEpoch)
    bench.decoded()
    bench.camera.show(Picture(1, form=Form(8, 8)))
    assert isinstance(bench.event(), NewEpoch)
    other = bench.decoded()
    assert (other.position, other.form, bench.camera.opened) == (Position(2, 0), Form(8, 8), 1)


def test_a_third_size_waits_until_readers_are_past_the_first(bench: Bench) -> None:
    """The loop is told where they must be; the memory of the first then goes."""
    forms = [FORM, Form(8, 8), Form(8, 4)]
    for form in forms[:2]:
        bench.camera.show(Picture(1, form=form))
        assert isinstance(bench.event(), NewEpoch)
        bench.decoded()
    bench.camera.show(Picture(1, form=forms[2]))
    assert isinstance(bench.event(), NewEpoch)
    while bench.decoder.waits_for is None:
        os.sched_yield()
    assert bench.decoder.waits_for == Position(1, 0)
    assert bench.kept == forms[:2]
    bench.decoder.release(Position(1, 0))
    third = bench.decoded()
    assert (third.form, third.position) == (forms[2], Position(3, 0))
    assert bench.kept == forms[1:]
    assert bench.decoder.waits_for is None


def test_memory_that_is_short_may_come_free_with_the_size_before(bench: Bench) -> None:
    bench.camera.show(Picture(1))
    assert isinstance(bench.event(), NewEpoch)
    bench.decoded()
    bench.no_room_for = {Form(8, 8)}
    bench.camera.show(Picture(2, form=Form(8, 8)))
    assert isinstance(bench.event(), NewEpoch)
    while bench.decoder.waits_for is None:
        os.sched_yield()
    bench.decoder.release(Position(1, 0))  # the first size goes
    assert bench.decoded().form == Form(8, 8)


def test_memory_that_does_not_come_is_a_loss(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CameraDecoder, "patience_s", 0.0)
    bench.no_room_for = {FORM}
    bench.camera.show(Picture(1))
    assert isinstance(bench.event(), NewEpoch)
    assert bench.event() == Lost("no room for this size", "no_memory", 1)


def test_a_size_that_changes_all_the_time_is_a_loss_that_is_not_tried_again_soon() -> None:
    bench = Bench(retry_most_s=3600.0)
    for n in range(MAX_CHANGES + 1):
        bench.camera.show(Picture(n, form=Form(2 + n % 3, 2)))
        assert isinstance(bench.event(), NewEpoch)
        bench.decoder.release(bench.decoded().position)
    bench.camera.show(Picture(0, form=FORM))
    assert isinstance(bench.event(), NewEpoch)
    lost = bench.event()
    assert isinstance(lost, Lost)
    assert (lost.reason, lost.dropped) == ("sizes", 1)
    assert "more than 30 times in 60 s" in lost.fault
    while bench.camera.closed == 0:  # the connection goes, and no other is made
        bench.camera.feed.put(SourceFault("gone", "closed"))
        os.sched_yield()
    assert bench.camera.opened == 1
    bench.decoder.stop()
    bench.close()


def test_a_removed_camera_finishes(bench: Bench) -> None:
    bench.camera.show(Picture(0))
    assert isinstance(bench.event(), NewEpoch)
    bench.decoded()
    bench.decoder.finish()
    assert bench.event() == SourceEnded({})


class Calm(Camera):
    """Gives one picture, and holds three more until it is asked for them."""

    is_lazy, n_held, n_pending, is_asked = True, 0, 0, False

    def __iter__(self) -> Iterator[Picture | None]:
        yield Picture(0)
        self.n_held = self.n_pending = 3
        while not self.is_asked:
            os.sched_yield()
            yield None
        for value in range(1, 4):
            yield Picture(value)
            self.n_pending -= 1
        while True:
            os.sched_yield()
            yield None

    def ask(self) -> None:
        self.is_asked = True

    def abandon(self) -> None:
        pass


class CalmBench(Bench):
    def open(self, guard: DecoderGuard) -> Camera:
        self.camera = self.calm = Calm()
        return super().open(guard)


def calm_bench() -> CalmBench:
    """A decoder of a camera that holds three packets."""
    bench = CalmBench()
    assert isinstance(bench.event(), NewEpoch)
    assert bench.decoded().position == Position(1, 0)
    wait_until("packets are held", lambda: bench.calm.n_pending == 3)
    return bench


def test_the_held_packets_of_a_removed_camera_are_decoded_and_put() -> None:
    bench = calm_bench()
    bench.decoder.finish()
    for seq in range(1, 4):
        frame = bench.decoded()
        assert (frame.position, bench.pixel(frame)) == (Position(1, seq), seq)
    assert bench.event() == SourceEnded({})
    bench.close()


def test_a_camera_that_the_system_has_no_timer_for_is_stopped_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = calm_bench()

    def refuse(timer: threading.Timer) -> None:  # noqa: ARG001
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Timer, "start", refuse)
    bench.decoder.stop()
    bench.decoder.join(DEADLINE_S)
    assert not bench.decoder.is_alive()
    bench.close()


def test_held_packets_that_cannot_be_put_are_counted_as_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = calm_bench()
    monkeypatch.setattr(CameraDecoder, "patience_s", 0.0)
    bench.no_room_for = {FORM}
    bench.decoder.stop()
    assert bench.event() == Lost("no room for this size", "no_memory", 3)
    bench.close()


def test_one_that_killed_its_decoder_is_not_tried_again() -> None:
    bench = _failing(SourceFault("it killed its decoder", "died"))
    assert bench.event() == SourceEnded({}, "died: it killed its decoder")
    bench.close()


def test_what_is_in_flight_takes_credit_and_numbers_go_on() -> None:
    in_flight = tuple(InFlight(Position(1, n), n, FORM) for n in range(SLOTS))
    bench = Bench()
    bench.close()
    start = ResumePoint(Position(1, SLOTS - 1), SLOTS, open=True, in_flight=in_flight)
    decoder = CameraDecoder("camera", bench.decoder._worker, start, 60.0, 0.01)
    assert decoder.credit.full
    assert len(decoder.credit) == SLOTS


def frame(pts: float | None, arrived: float, form: Form = FORM) -> Picture:
    return Picture(0, pts, form, arrived)


@pytest.mark.parametrize(
    ("after", "breaks"),
    [
        (frame(10.1, 100.1), False),
        (frame(9.5, 100.1), False),
        (frame(0.0, 100.1), True),
        (frame(15.0, 105.0), False),
        (frame(40.0, 100.1), True),
        (frame(None, 100.1), False),
        (frame(10.1, 100.1, Form(8, 8)), True),
    ],
)
def test_time_that_goes_back_or_leaps_is_a_break(after: Picture, breaks: bool) -> None:
    assert is_break(frame(10.0, 100.0), after) is breaks


def frames_and_epochs(bench: Bench) -> Event:
    """The next event that is no news of the recorded stream, which another thread reports."""
    while isinstance(event := bench.event(), RecordedStreamState):
        assert event.fault is None
    return event


def test_results_have_the_size_of_the_recorded_stream_and_a_change_of_it_begins_an_epoch() -> None:
    sizes: queue.Queue[Played] = queue.Queue()
    stream = PlayedStream(sizes)
    bench = Bench(recorded=stream)
    bench.camera.show(Picture(0))  # it waits for the size
    assert isinstance(frames_and_epochs(bench), NewEpoch)
    sizes.put((1920, 1080))
    first = frames_and_epochs(bench)
    assert isinstance(first, Decoded)
    assert (first.position, first.shown) == (Position(1, 0), (1920, 1080))
    sizes.put((1280, 720))
    sizes.put(None)
    wait_until("the new size", lambda: sizes.empty())
    bench.camera.show(Picture(1))
    assert isinstance(frames_and_epochs(bench), NewEpoch)
    second = frames_and_epochs(bench)
    assert isinstance(second, Decoded)
    assert (second.position, second.shown) == (Position(2, 0), (1280, 720))
    bench.close()


def test_an_epoch_with_a_new_size_begins_with_a_decoded_frame() -> None:
    """One that was not decoded looks like the frame before, which must be of its epoch."""
    sizes: queue.Queue[Played] = queue.Queue()
    sizes.put((1920, 1080))
    bench = Bench(recorded=PlayedStream(sizes))
    bench.camera.show(Picture(0))
    assert isinstance(frames_and_epochs(bench), NewEpoch)
    assert isinstance(frames_and_epochs(bench), Decoded)
    sizes.put((1280, 720))
    sizes.put(None)
    wait_until("the new size", lambda: sizes.empty())
    bench.camera.show(Picture(1, undecoded=(UndecodedFrame(None, None),) * 3))
    calm = frames_and_epochs(bench)
    assert isinstance(calm, Decoded)
    assert (calm.position, calm.shown) == (Position(1, 4), (1920, 1080))
    bench.camera.show(Picture(2))
    assert isinstance(frames_and_epochs(bench), NewEpoch)
    first = frames_and_epochs(bench)
    assert isinstance(first, Decoded)
    assert (first.position, first.shown) == (Position(2, 0), (1280, 720))
    bench.close()


@pytest.mark.parametrize("has_sound", [False, True])
def test_frames_without_sound_carry_that_of_the_recorded_stream(has_sound: bool) -> None:
    pieces: queue.Queue[Played] = queue.Queue()
    stream = PlayedStream(pieces)

    class Sounding(Bench):
        def open(self, guard: DecoderGuard) -> Camera:
            self.camera.has_sound = has_sound
            return super().open(guard)

    bench = Sounding(recorded=stream)
    recorded = bench.decoder._recorded
    assert recorded is not None
    pieces.put((1920, 1080))
    now = time.monotonic()
    recorded.alignment.see_packet(100.0, now, None)  # frames have the clock 0 at that moment
    bench.camera.show(Picture(0, 0.0, arrived_mono=now))
    assert isinstance(frames_and_epochs(bench), NewEpoch)
    first = frames_and_epochs(bench)
    assert isinstance(first, Decoded)
    assert first.sound is None
    assert recorded.is_heard is not has_sound
    samples = bytes([1]) * BLOCK * 4  # a second
    stream.sound = [SoundBlock(n + 7, 100.0 + n, n > 0, samples) for n in range(3)]
    for _ in range(2):
        pieces.put((1920, 1080))
    wait_until("both pieces were taken", pieces.empty)
    pieces.put((1920, 1080))
    wait_until("the sound was taken", pieces.empty)
    bench.camera.show(Picture(1, 2.5, arrived_mono=now + 2.5))
    second = frames_and_epochs(bench)
    assert isinstance(second, Decoded)
    expected = None if has_sound else (0, 2)  # the third block ends after the frame
    assert second.sound == expected
    if not has_sound:
        assert bench.sounds.read(Position(1, 1)).begins_s == pytest.approx(1.0, abs=0.01)
    bench.close()
