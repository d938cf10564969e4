"""The thread that decodes a file into the frame store, as far ahead as its credit allows."""

from __future__ import annotations

import contextlib
import logging
from contextlib import nullcontext

from framegate.pipeline.contracts.errors import FramegateError, SourceFault
from framegate.pipeline.contracts.redaction import redacted
from framegate.pipeline.contracts.source import SOUND_MOST_S, Form, Frame, Source
from framegate.pipeline.ingest.credit import changes_fault
from framegate.pipeline.ingest.decoder import DecoderContext, DecoderThread
from framegate.pipeline.ingest.decoder_events import InFlight, ResumePoint, SourceEnded

log = logging.getLogger(__name__)


class FileDecoder(DecoderThread):
    """Decodes a file from its start and loses no frame.

    It skips committed frames, except that it writes the pixels of those again that some reader
    still wants and that the frame store no longer has (`_refills`, by index in the file).

    A source that decodes lazily may leave other frames undecoded than before, if its settings or
    this program changed. So committed frames are found by their index among all frames. A reader of
    a committed frame that is now undecoded does not get its pixels.
    """

    patience_s = 30.0
    max_sound_s = SOUND_MOST_S

    def __init__(self, name: str, context: DecoderContext, start: ResumePoint) -> None:
        super().__init__(name, context, start)
        self._refills = {frame.index: frame for frame in start.in_flight}

    def will_fill(self, number: int) -> bool:
        """Return whether the thread will write the pixels of this committed frame again."""
        with self._changed:
            return any(frame.number == number for frame in self._refills.values())

    def abandon(self) -> None:
        """End after the frame in hand, even if pixels are missing: another thread takes over."""
        self._all_refills()
        self.stop()

    def finish(self) -> None:
        """Stop, then report the end; readers get no more of the missing pixels."""
        self._give_up_refills()
        super().finish()

    def _decode_to_the_end(self) -> SourceEnded | None:
        source: Source | None = None
        fault: str | None = None
        try:
            source = self._open()
            self.lasts_s = getattr(source, "claimed_s", None)  # not every Source has it
            if not self._decode(source):
                return None
        except SourceFault as error:
            fault = f"{error.reason}: {error}"
        except FramegateError as error:
            fault = str(error)
        except Exception as error:
            log.exception("source %s: the decoder failed", self.source_name)
            fault = redacted(f"damaged: the decoder failed: {error!r}")
        finally:
            if source is not None:
                self._close(source)
        if fault is not None:
            self._give_up_refills()
        counts = {} if source is None else dict(source.counts)
        return SourceEnded(counts, fault)

    def _open(self) -> Source:
        start = self._start_point
        if not start.done:
            epoch = start.position.epoch if start.open else 0
            self._recorded_in = self._worker.new_take(epoch)
        if not self._is_careful():
            return self._open_with(nullcontext, self._recorded_in)
        with self._worker.announce(self._next_position()):
            return self._open_with(nullcontext, self._recorded_in)

    def _decode(self, source: Source) -> bool:
        """Decode; return whether the source ended and the end must be reported."""
        # Invariant: each of the first `number` frames was committed before or is put, and those in
        # flight among them were refilled or given up. The next decoded frame has number
        # `n_decoded`, once it is beyond the committed ones.
        form: Form | None = None
        n_decoded = self._start_point.n_decoded
        frames = iter(source)
        number = 0
        while True:
            if self._stopping and not self._refills:
                return False
            if self._start_point.done and number >= self._start_point.number:
                return False
            try:
                if number < self._start_point.number or not self._is_careful():
                    frame = next(frames)
                else:
                    with self._worker.announce(self._next_position()):
                        frame = next(frames)
            except StopIteration:
                self._give_up_refills()
                return True
            self.done += 1
            if frame is None:  # skipped by the request's choice of frames
                continue
            first, number = number, number + len(frame.undecoded)
            self._give_up_undecoded(first, number)
            if not self._take(number, n_decoded, frame, form):
                return False
            form = frame.form
            n_decoded += number >= self._start_point.number
            number += 1

    def _take(self, number: int, n_decoded: int, frame: Frame, form: Form | None) -> bool:
        """Refill or put the frame; return False if stopped before. form: the previous frame's."""
        if self._changes.too_many(frame.form, frame.pts):
            raise SourceFault(changes_fault(), "sizes")
        if number < self._start_point.number:
            self._refill(number, frame)
            return True
        if self._epoch is None or (form is not None and frame.form != form):
            self._ask_for_epoch()
        n_committed = max(0, self._start_point.number - (number - len(frame.undecoded)))
        undecoded = frame.undecoded[n_committed:]
        position = self._take_credit(frame.form, len(undecoded), frame.sound)
        if position is None:
            return False
        self._put(n_decoded, frame, position, sound=frame.sound, undecoded=undecoded)
        return True

    def _refill(self, index: int, frame: Frame) -> None:
        wanted = self._refills.get(index)
        if frame.sound:  # a window of sound may reach back before the frames in flight
            self._put_sound(frame.sound, (wanted or self._start_point).position.epoch)
        if wanted is not None and wanted.form == frame.form:
            store = self._frame_store(frame.form)
            self._put_packets(frame.undecoded, wanted.number, wanted.position.epoch)
            if not store.holds(wanted.number, wanted.position):
                self._fill(store, wanted.number, frame, wanted.position)
        with self._changed:
            self._refills.pop(index, None)

    def _may_stop(self) -> bool:
        return self._stopping and not self._refills

    def _give_up_refills(self) -> None:
        """Mark the missing pixels as lost, so that readers do not wait for them."""
        for frame in self._all_refills().values():
            self._give_up(frame)

    def _give_up_undecoded(self, first: int, end: int) -> None:
        """Mark the pixels of frames in flight as lost that are not decoded this time."""
        for index in range(first, min(end, self._start_point.number)):
            with self._changed:
                wanted = self._refills.pop(index, None)
            if wanted is not None:
                self._give_up(wanted)

    def _give_up(self, frame: InFlight) -> None:
        with contextlib.suppress(FramegateError):
            store = self._worker.frame_store(frame.form)
            if not store.holds(frame.number, frame.position):
                store.give_up(frame.number, frame.position)

    def _all_refills(self) -> dict[int, InFlight]:
        """Take all refills; the loop's thread and this one may both do so."""
        with self._changed:
            taken, self._refills = self._refills, {}
        return taken
