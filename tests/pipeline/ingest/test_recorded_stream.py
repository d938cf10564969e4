"""The thread that keeps a recorded stream connected, on a stream that the test plays."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

import pytest

from framegate.pipeline.contracts.errors import SourceFault
from framegate.pipeline.contracts.source import SOUND_RATE, PacketSource, SoundBlock
from framegate.pipeline.ingest.credit import CHANGES_S, MAX_CHANGES
from framegate.pipeline.ingest.recorded_sound import RecordedSound
from framegate.pipeline.ingest.recorded_stream import RecordedStream, RecordedStreamState
from framegate.pipeline.recording.alignment import Alignment
from framegate.pipeline.recording.segment_writer import Take
from tests.support.played_stream import Played, PlayedStream
from tests.support.runs import DEADLINE_S, wait_until

GONE = SourceFault("the camera ended the stream", "closed")


class Bench:
    """A recorded stream, and what it reported."""

    def __init__(self, stall_s: float = DEADLINE_S) -> None:
        self.pieces: queue.Queue[Played] = queue.Queue()
        self.reports: queue.Queue[RecordedStreamState] = queue.Queue()
        self.streams: list[PlayedStream] = []
        self.takes: list[Alignment] = []
        changed = threading.Condition()
        self.recorded = RecordedStream(
            "door", self._open, self._new_take, changed, self.reports.put, stall_s, 0.01
        )
        self.recorded.start()

    def _new_take(self, alignment: Alignment) -> Take | None:
        self.takes.append(alignment)
        return None

    def _open(self, take: Take | None) -> PlayedStream:  # noqa: ARG002
        self.streams.append(PlayedStream(self.pieces))
        return self.streams[-1]

    def next_report(self) -> str | None:
        return self.reports.get(timeout=DEADLINE_S).fault

    def end(self) -> None:
        self.recorded.stop()
        self.recorded.join(DEADLINE_S)
        assert not self.recorded.is_alive()
        assert all(stream.closed for stream in self.streams)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.end()


def test_it_reports_the_first_picture_and_the_loss_and_connects_again(bench: Bench) -> None:
    bench.pieces.put((1920, 1080))
    assert bench.next_report() is None
    assert (bench.recorded.size, bench.recorded.has_tried) == ((1920, 1080), True)
    bench.pieces.put(GONE)
    assert bench.next_report() == "closed: the camera ended the stream"
    bench.pieces.put((1280, 720))
    assert bench.next_report() is None
    assert bench.recorded.size == (1280, 720)
    assert bench.takes == [bench.recorded.alignment] * 2  # each connection has its own take


def test_a_first_attempt_that_fails_lets_the_frames_of_the_other_stream_begin() -> None:
    bench = Bench(stall_s=0.0)
    bench.pieces.put(None)  # longer silent than a stall may last
    assert bench.next_report() == "stalled: no picture for 0.0 s"
    assert (bench.recorded.size, bench.recorded.has_tried) == (None, True)
    bench.end()


def test_it_ends_between_two_attempts() -> None:
    bench = Bench()
    bench.pieces.put(SourceFault("it refuses this user name and password", "permission"))
    assert bench.next_report() == "permission: it refuses this user name and password"
    bench.end()


def test_a_connect_that_fails_after_the_stop_is_not_reported() -> None:
    """The loop that would take the report may be gone."""
    connecting, may_fail = threading.Event(), threading.Event()
    reports: list[RecordedStreamState] = []

    def open_stream(take: Take | None) -> PlayedStream:  # noqa: ARG001
        connecting.set()
        assert may_fail.wait(DEADLINE_S)
        raise SourceFault("nobody answers", "unreachable")

    recorded = RecordedStream(
        "door", open_stream, lambda _: None, threading.Condition(), reports.append, DEADLINE_S, 0.01
    )
    recorded.start()
    assert connecting.wait(DEADLINE_S)
    recorded.stop()
    may_fail.set()
    recorded.join(DEADLINE_S)
    assert not recorded.is_alive()
    assert reports == []


class CancelledStream(PlayedStream):
    """A stream that ends without a fault when it is cancelled, once the test allows it."""

    def __init__(self) -> None:
        super().__init__(queue.Queue())
        self.is_abandoned = threading.Event()
        self.may_end = threading.Event()

    def __iter__(self) -> Iterator[bool]:
        yield True
        assert self.may_end.wait(DEADLINE_S)

    def abandon(self) -> None:
        self.is_abandoned.set()


def test_a_camera_that_must_be_closed_while_it_connects_is_closed() -> None:
    connecting, may_connect = threading.Event(), threading.Event()
    streams: list[PlayedStream] = []
    pieces: queue.Queue[Played] = queue.Queue()

    def open_stream(take: Take | None) -> PlayedStream:  # noqa: ARG001
        connecting.set()
        assert may_connect.wait(DEADLINE_S)
        pieces.put((64, 64))
        streams.append(PlayedStream(pieces))
        return streams[-1]

    recorded = RecordedStream(
        "door", open_stream, lambda _: None, threading.Condition(), lambda _: None, DEADLINE_S, 0.01
    )
    recorded.start()
    assert connecting.wait(DEADLINE_S)
    recorded.keep_closed(True)
    may_connect.set()
    wait_until("the connection is closed", lambda: streams and streams[0].closed)
    recorded.stop()
    recorded.join(DEADLINE_S)


def test_a_camera_that_may_connect_again_before_its_stream_ended_is_recorded_again() -> None:
    streams: list[CancelledStream] = []
    reports: queue.Queue[RecordedStreamState] = queue.Queue()

    def open_stream(take: Take | None) -> PlayedStream:  # noqa: ARG001
        streams.append(CancelledStream())
        return streams[-1]

    recorded = RecordedStream(
        "door", open_stream, lambda _: None, threading.Condition(), reports.put, DEADLINE_S, 0.01
    )
    recorded.start()
    assert reports.get(timeout=DEADLINE_S).fault is None
    recorded.keep_closed(True)
    assert streams[0].is_abandoned.is_set()
    recorded.keep_closed(False)
    streams[0].may_end.set()
    fault = reports.get(timeout=DEADLINE_S).fault or ""
    assert fault.startswith("closed: this host cannot reach the store")
    assert reports.get(timeout=DEADLINE_S).fault is None, "it is connected again"
    assert len(streams) == 2
    recorded.stop()
    streams[1].may_end.set()
    recorded.join(DEADLINE_S)
    assert not recorded.is_alive()


def test_a_size_that_changes_too_often_is_not_followed(bench: Bench) -> None:
    for n in range(3 * MAX_CHANGES):
        bench.pieces.put((100 + n, 100))
    bench.pieces.put(GONE)
    assert bench.next_report() is None
    assert bench.next_report() == "closed: the camera ended the stream"
    assert bench.recorded.size == (100 + MAX_CHANGES, 100)


def test_a_size_that_changed_too_often_is_followed_once_it_stays() -> None:
    recorded = RecordedStream(
        "door", no_stream, lambda _: None, threading.Condition(), lambda _: None, DEADLINE_S, 0.01
    )
    for n in range(2 * MAX_CHANGES):
        recorded._see((100 + n, 100), 5.0 + n / 10)
    stays = (99 + 2 * MAX_CHANGES, 100)
    changed_s = 5.0 + (2 * MAX_CHANGES - 1) / 10
    recorded._see(stays, changed_s + CHANGES_S - 1.0)
    assert recorded.size != stays
    recorded._see(stays, changed_s + CHANGES_S)
    assert recorded.size == stays


def no_stream(take: Take | None) -> PacketSource:  # noqa: ARG001
    raise SourceFault("nobody answers", "unreachable")


def test_sound_on_the_clock_of_another_epoch_is_dropped() -> None:
    sound = RecordedSound()

    def block(begins_s: float) -> SoundBlock:
        return SoundBlock(0, begins_s, True, bytes(4 * SOUND_RATE // 2))

    sound.put([block(0.0), block(0.5)], 1000.0, epoch=1)
    assert [each.begins_s for each in sound.take(1000.5, 1)] == [1000.0]
    sound.put([block(1.0), block(1.5)], -1.0, epoch=2)  # its clock begins again
    assert [each.begins_s for each in sound.take(0.5, 2)] == [0.0]
    assert sound.take_dropped() == 1
    assert [each.begins_s for each in sound.take(None, 2)] == [0.5]
    sound.put([block(n / 2) for n in range(50)], 0.0, epoch=2)
    assert (sound.take_dropped(), len(sound.take(None, 2))) == (2, 48)
