"""Start a source's decoder thread from where the store says that it stands, and end it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from framegate.pipeline.contracts import keys
from framegate.pipeline.contracts.errors import OutOfMeans, SourceFault
from framegate.pipeline.contracts.records import START, DecodeState, Position, Record
from framegate.pipeline.contracts.source import DecoderGuard, Source
from framegate.pipeline.contracts.spec import SourceSpec, WorkerSpec
from framegate.pipeline.engine.control import ControlLine, RecordInHand
from framegate.pipeline.engine.runner import read_entry
from framegate.pipeline.engine.shared_views import SharedViews
from framegate.pipeline.ingest.agenda import Pace
from framegate.pipeline.ingest.camera_decoder import CameraDecoder
from framegate.pipeline.ingest.decoder import DecoderContext, DecoderThread, InFlight, ResumePoint
from framegate.pipeline.ingest.feed import Feed
from framegate.pipeline.ingest.file_decoder import FileDecoder
from framegate.pipeline.ingest.masks import Masks
from framegate.pipeline.ingest.store_waits import slowest_reader
from framegate.pipeline.recording.take import Recording, Take
from framegate.pipeline.store.connection import Link

OpenSource = Callable[..., Source]
"""Opens a Request with a guard, and with the Take that its packets are recorded in, if any."""


class DecoderLauncher:
    """Makes the threads that the feeds of an ingest worker follow. One thread."""

    def __init__(
        self,
        spec: WorkerSpec,
        line: ControlLine,
        shared: SharedViews,
        open_source: OpenSource,
        note: Callable[[str], None],
    ) -> None:
        """note: called by a source's thread when it has something for the loop."""
        self._note = note
        self._spec, self._line, self._shared = spec, line, shared
        self._open_source = open_source
        self._recordings: dict[str, Recording] = {}
        self.turn = threading.Lock()
        """Held while a careful source decodes: its stages run at other times."""

    def start(self, link: Link, feed: Feed, position: Position, state: DecodeState) -> None:
        """Let the feed go on from a position with a new thread; without one if all is done.

        position, state: of decode, as the store has them. OutOfMeans if the system has no thread
        for it now.
        """
        end_thread(feed)
        in_flight = self._in_flight(link, feed)
        if state.done and (not in_flight or feed.spec.live):
            feed.restart(position, state, None)
            return
        start = ResumePoint(position, state.number, state.open, state.done, in_flight)
        thread = self._thread(feed, start, feed.pace_after(state))
        feed.restart(position, state, thread)
        if feed.spec.ending:
            thread.finish()
        try:
            thread.start()
        except RuntimeError as error:
            feed.restart(position, state, None)
            raise OutOfMeans(f"it cannot be decoded now: {error}") from error

    def _thread(self, feed: Feed, start: ResumePoint, pace: Pace) -> DecoderThread:
        name, spec = feed.spec.name, feed.spec

        def due_from(pts: float | None, ready: float) -> float | None:
            pace.passed(pts, ready)
            return pace.shift

        context = DecoderContext(
            open_source=lambda guard, take=None: self._open(spec, guard, take),
            new_take=lambda epoch: self._take(spec, epoch),
            frame_store=lambda form: self._shared.frame_store(name, form),
            sound_store=lambda: self._shared.sound_store(name, spec.request.sound, make=True),
            keep_frames=lambda forms: self._shared.keep_frames(name, forms),
            token=int(feed.token),
            credit_limit=spec.credit,
            wake=self._line.wake,
            announce=lambda position: self._in_turn(name, position),
            careful_until=self._spec.careful.get(name, START),
            note=lambda: self._note(name),
            masks=Masks(spec.masks) if spec.masks else None,
            due_from=due_from,
        )
        if spec.live:
            return CameraDecoder(name, context, start, spec.request.stall_s, spec.retry_most_s)
        return FileDecoder(name, context, start)

    def lacks_pixels(self, link: Link, feed: Feed) -> bool:
        """Return whether readers of a file still want pixels that its decoder is through with: the
        store was set back.
        """
        thread, spec = feed.thread, feed.spec
        if thread is None or spec.live:
            return False
        return any(
            not (
                thread.will_fill(frame.number)
                or self._shared.holds(spec.name, frame.form, frame.number, frame.position)
            )
            for frame in self._in_flight(link, feed)
        )

    def _in_flight(self, link: Link, feed: Feed) -> tuple[InFlight, ...]:
        """Committed frames of this run that some reliable reader has yet to read."""
        source = feed.spec.name
        _, read = slowest_reader(link, source, self._spec.last_readers(feed.spec.live))
        reply = link.call("XRANGE", keys.out(source, "decode"), f"({read}", "+")
        arrivals = [read_entry(entry, self._spec.stage("decode")) for entry in reply]
        return tuple(
            InFlight(a.position, a.record.number, a.record.form)
            for a in arrivals
            if isinstance(a.record, Record) and a.position.epoch > feed.spec.past
        )

    def _open(self, spec: SourceSpec, guard: DecoderGuard, take: Take | None) -> Source:
        if spec.fault is not None:
            raise SourceFault(spec.fault, "died")
        if take is None:
            return self._open_source(spec.request, guard)
        return self._open_source(spec.request, guard, take)

    def _take(self, spec: SourceSpec, epoch: int) -> Take | None:
        """What to record a connection of a source in; None if it is not recorded."""
        if spec.record is None:
            return None
        recording = self._recordings.get(spec.name)
        if recording is None or recording.spec != spec.record:
            recording = Recording(Path(self._spec.folder), spec.name, spec.record)
            self._recordings[spec.name] = recording
        return recording.take(epoch)

    @contextmanager
    def _in_turn(self, source: str, position: Position) -> Iterator[None]:
        """Careful sources decode in turn and say so before: a crash then has one suspect."""
        with self.turn:
            self._line.say(RecordInHand(source, "decode", position))
            try:
                yield
            finally:
                self._line.say(RecordInHand(source, "decode", None))


def end_thread(feed: Feed) -> None:
    """End a feed's thread, if it has one, after the frame in hand."""
    if feed.thread is not None:
        feed.thread.abandon()
        feed.thread.join()
