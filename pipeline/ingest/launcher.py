"""Start a source's decoder thread from the store's position, and end it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeGuard

from msgspec import structs

from framegate.pipeline.contracts import keys
from framegate.pipeline.contracts.errors import OutOfMeans, SourceFault
from framegate.pipeline.contracts.records import START, DecodeState, End, Position, Record
from framegate.pipeline.contracts.source import DecoderGuard, PacketSource, Source
from framegate.pipeline.contracts.spec import SourceSpec, WorkerSpec
from framegate.pipeline.engine.control_line import ControlLine
from framegate.pipeline.engine.control_messages import RecordInHand
from framegate.pipeline.engine.inbox import Arrival
from framegate.pipeline.engine.shared_views import SharedViews
from framegate.pipeline.engine.stream_entries import read_entry
from framegate.pipeline.ingest.camera_connection import CameraDecoder
from framegate.pipeline.ingest.decoder import DecoderContext, DecoderThread
from framegate.pipeline.ingest.decoder_events import InFlight, ResumePoint
from framegate.pipeline.ingest.due_times import Pace
from framegate.pipeline.ingest.feed import Feed
from framegate.pipeline.ingest.file_decoder import FileDecoder
from framegate.pipeline.ingest.store_waits import slowest_reader
from framegate.pipeline.promise import audit_coin
from framegate.pipeline.promise.secret import secret_of
from framegate.pipeline.recording.alignment import Alignment
from framegate.pipeline.recording.segment_writer import Recording, Take
from framegate.pipeline.store.worker_connections import Link

OpenSource = Callable[..., Source]
"""Opens a Request with a guard and, optionally, the Take to record its packets in."""
OpenRecorded = Callable[[SourceSpec, DecoderGuard, Take | None], PacketSource]
"""Opens the stream at a Request's `url` to record it only."""


class DecoderLauncher:
    """Makes the decoder threads of an ingest worker's feeds. One thread."""

    def __init__(
        self,
        spec: WorkerSpec,
        line: ControlLine,
        shared: SharedViews,
        open_source: OpenSource,
        open_recorded: OpenRecorded | None,
        note: Callable[[str], None],
    ) -> None:
        """Make no thread.

        open_recorded  None: the decoder cannot read a second stream
        note           a source's thread calls it when it has an event for the loop
        """
        self._note = note
        self._spec = spec
        self._line = line
        self._shared = shared
        self._open_source = open_source
        self._open_recorded = open_recorded
        self._recordings: dict[str, Recording] = {}
        self.turn = threading.Lock()
        """Held while a careful source decodes, so that no stage runs at the same time."""

    def start(self, link: Link, feed: Feed, position: Position, state: DecodeState) -> None:
        """Let a feed continue with a new thread, or without one if the source is done.

        position, state: of decode, as stored. OutOfMeans: the system has no thread for it now.
        """
        end_thread(feed)
        in_flight = in_flight_of(self._unread(link, feed), position, state.undecoded)
        if state.done and (not in_flight or feed.spec.live):
            feed.restart(position, state, None)
            return
        start = ResumePoint(
            position,
            state.number,
            state.open,
            state.done,
            in_flight,
            state.shown,
            state.undecoded,
        )
        thread = self._thread(feed, start, feed.pace_after(state))
        feed.restart(position, state, thread)
        if feed.spec.hands_over:
            thread.stop()
        elif feed.spec.ending:
            thread.finish()
        try:
            thread.start()
        except RuntimeError as error:
            feed.restart(position, state, None)
            raise OutOfMeans(f"it cannot be decoded now: {error}") from error

    def _thread(self, feed: Feed, start: ResumePoint, pace: Pace) -> DecoderThread:
        spec = feed.spec
        name = spec.name
        open_recorded = None
        if spec.look_at:
            open_recorded = partial(self._open_stream, spec)
        context = DecoderContext(
            open_source=partial(self._open, spec.decoded()),
            open_recorded=open_recorded,
            new_take=partial(self._take, spec),
            frame_store=partial(self._shared.frame_store, name),
            sound_store=partial(self._shared.sound_store, name, spec.sound, make=True),
            packet_store=partial(self._shared.packet_store, name, make=True),
            keep_frames=partial(self._shared.keep_frames, name),
            token=int(feed.token),
            credit_limit=spec.credit,
            wake=self._line.wake,
            announce=partial(self._in_turn, name),
            careful_until=self._spec.careful.get(name, START),
            note=partial(self._note, name),
            masks=feed.masks,
            due_from=pace.due_from,
        )
        if spec.live:
            return CameraDecoder(name, context, start, spec.stall_s, spec.retry_most_s)
        return FileDecoder(name, context, start)

    def lacks_pixels(self, link: Link, feed: Feed) -> bool:
        """Return whether readers of a file want pixels that its decoder has passed: the store was
        rolled back.
        """
        thread = feed.thread
        if thread is None or feed.spec.live:
            return False
        for arrival in self._unread(link, feed):
            record = arrival.record
            if not _has_pixels(record):
                continue
            holds = self._shared.holds(feed.spec.name, record.form, record.number, arrival.position)
            if not holds and not thread.will_fill(record.number):
                return True
        return False

    def _unread(self, link: Link, feed: Feed) -> list[Arrival]:
        """Return the committed entries of this run that some reliable reader has not read."""
        source = feed.spec.name
        _, read = slowest_reader(link, source, self._spec.last_readers(feed.spec.live))
        reply = link.call("XRANGE", keys.out(source, "decode"), f"({read}", "+")
        arrivals = [read_entry(entry, self._spec.stage("decode")) for entry in reply]
        return [arrival for arrival in arrivals if arrival.position.epoch > feed.spec.past]

    def _open(self, spec: SourceSpec, guard: DecoderGuard, take: Take | None = None) -> Source:
        if spec.fault is not None:
            raise SourceFault(spec.fault, "died")
        if spec.decode == "lazy":
            secret = secret_of(Path(self._spec.folder))
            spec = structs.replace(spec, coin=audit_coin.group_key(secret, spec.name))
        if take is None:
            return self._open_source(spec, guard)
        return self._open_source(spec, guard, take)

    def _open_stream(
        self, spec: SourceSpec, guard: DecoderGuard, take: Take | None
    ) -> PacketSource:
        if self._open_recorded is None:
            raise SourceFault("the stage that decodes cannot read a second stream", "died")
        return self._open_recorded(spec, guard, take)

    def _take(
        self, spec: SourceSpec, epoch: int, alignment: Alignment | None = None
    ) -> Take | None:
        """Return the Take for a connection of a source; None if the source is not recorded."""
        if spec.record is None:
            return None
        recording = self._recordings.get(spec.name)
        if recording is None or recording.spec != spec.record:
            recording = Recording(Path(self._spec.folder), spec.name, spec.record)
            self._recordings[spec.name] = recording
        return recording.take(epoch, alignment)

    @contextmanager
    def _in_turn(self, source: str, position: Position) -> Iterator[None]:
        """Decode careful sources one at a time and report each frame first, so that a crash has one
        suspect.
        """
        with self.turn:
            self._line.tell(RecordInHand(source, "decode", position))
            try:
                yield
            finally:
                self._line.tell(RecordInHand(source, "decode", None))


def in_flight_of(
    unread: Sequence[Arrival], position: Position, undecoded: int
) -> tuple[InFlight, ...]:
    """Return the frames with pixels among committed entries.

    unread     the entries that some reliable reader has not read, in order
    position   of the last committed entry
    undecoded  undecoded frames up to there
    """
    frames = []
    for arrival in reversed(unread):
        record = arrival.record
        if arrival.position > position or not isinstance(record, Record):
            continue
        if record.undecoded:
            undecoded -= 1
        else:
            frames.append(InFlight(arrival.position, record.number, record.form, undecoded))
    return tuple(reversed(frames))


def _has_pixels(record: Record | End) -> TypeGuard[Record]:
    return isinstance(record, Record) and not record.undecoded


def end_thread(feed: Feed) -> None:
    """End a feed's thread, if it has one, after the frame in hand."""
    if feed.thread is not None:
        feed.thread.abandon()
        feed.thread.join()
