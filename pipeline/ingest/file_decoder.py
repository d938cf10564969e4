"""The thread that decodes a file into the frame store, as far ahead as its credit allows."""

from __future__ import annotations

import contextlib
import logging
from contextlib import nullcontext

from framegate.pipeline.contracts.errors import FramegateError, SourceFault
from framegate.pipeline.contracts.redaction import redacted
from framegate.pipeline.contracts.source import SOUND_MOST_S, Form, Frame, Source
from framegate.pipeline.ingest.credit import changes_fault
from framegate.pipeline.ingest.decoder import (
    DecoderContext,
    DecoderThread,
    InFlight,
    ResumePoint,
    SourceEnded,
)

log = logging.getLogger(__name__)


class FileDecoder(DecoderThread):
    """Decodes from the start, passes over what is committed, then fills slots; loses nothing.

    Of the committed frames it puts those again that some reader still wants and that are gone.
    """

    patience_s = 30.0
    most_sound_s = SOUND_MOST_S

    def __init__(self, name: str, context: DecoderContext, start: ResumePoint) -> None:
        super().__init__(name, context, start)
        self._refills = {frame.number: frame for frame in start.in_flight}

    def will_fill(self, number: int) -> bool:
        """Return whether the thread has yet to put the pixels of a committed frame again."""
        return number in self._refills

    def abandon(self) -> None:
        """End after the frame in hand, whatever is missing: another thread takes over."""
        self._all_refills()
        self.stop()

    def finish(self) -> None:
        """Stop, and report that nothing follows; pixels that readers wait for come no more."""
        self._give_up_refills()
        super().finish()

    def _decode_to_the_end(self) -> SourceEnded | None:
        source: Source | None = None
        fault: str | None = None
        try:
            source = self._open()
            self.lasts_s = getattr(source, "claimed_s", None)  # not each decoder says it
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
        return SourceEnded(dict(source.counts) if source else {}, fault)

    def _open(self) -> Source:
        start = self._start_point
        if not start.done:
            self._recorded_in = self._worker.new_take(start.position.epoch if start.open else 0)
        if not self._is_careful():
            return self._open_with(nullcontext, self._recorded_in)
        with self._worker.announce(self._next_position()):
            return self._open_with(nullcontext, self._recorded_in)

    def _decode(self, source: Source) -> bool:
        """Decode; return whether the source came to its end, and that is to be reported."""
        form: Form | None = None
        frames, number = iter(source), 0
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
            if frame is None:  # one that is not wanted
                continue
            if not self._take(number, frame, form):
                return False
            form, number = frame.form, number + 1

    def _take(self, number: int, frame: Frame, form: Form | None) -> bool:
        """Refill or put the frame; False if stopped meanwhile. form: that of the frame before."""
        if self._changes.too_many(frame.form, frame.pts):
            raise SourceFault(changes_fault(), "sizes")
        if number < self._start_point.number:
            self._refill(number, frame)
            return True
        if self._epoch is None or (form is not None and frame.form != form):
            self._ask_for_epoch()
        position = self._take_credit(frame.form, sound=frame.sound)
        if position is None:
            return False
        self._put(number, frame, position, sound=frame.sound)
        return True

    def _refill(self, number: int, frame: Frame) -> None:
        wanted = self._refills.get(number)
        if frame.sound:  # a window of it may reach back before what is in flight
            self._put_sound(frame.sound, (wanted or self._start_point).position.epoch)
        if wanted is not None and wanted.form == frame.form:
            store = self._frame_store(frame.form)
            if not store.holds(number, wanted.position):
                self._fill(store, number, frame, wanted.position)
        with self._changed:
            self._refills.pop(number, None)

    def _may_stop(self) -> bool:
        return self._stopping and not self._refills

    def _give_up_refills(self) -> None:
        """The source cannot be read again: readers need not wait for these pixels."""
        for number, frame in self._all_refills().items():
            with contextlib.suppress(FramegateError):
                store = self._worker.frame_store(frame.form)
                store.give_up(number, frame.position)

    def _all_refills(self) -> dict[int, InFlight]:
        """Take what is still to be filled: the loop's thread and this one may both give it up."""
        with self._changed:
            taken, self._refills = self._refills, {}
        return taken
