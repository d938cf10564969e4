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
    """Decodes a file from its start and loses no frame.

    It skips committed frames, except that it writes the pixels of those again that some reader
    still wants and that the frame store no longer has (`_refills`).
    """

    patience_s = 30.0
    max_sound_s = SOUND_MOST_S

    def __init__(self, name: str, context: DecoderContext, start: ResumePoint) -> None:
        super().__init__(name, context, start)
        self._refills = {frame.number: frame for frame in start.in_flight}

    def will_fill(self, number: int) -> bool:
        """Return whether the thread will write the pixels of this committed frame again."""
        return number in self._refills

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
        # Invariant: of the first `number` frames, `n_decoded` were decoded, and each of these was
        # refilled or put. A commit never ends between undecoded frames and the frame after them.
        form: Form | None = None
        frames = iter(source)
        number = n_decoded = 0
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
            number += len(frame.undecoded)
            if not self._take(number, n_decoded, frame, form):
                return False
            form = frame.form
            number += 1
            n_decoded += 1

    def _take(self, number: int, n_decoded: int, frame: Frame, form: Form | None) -> bool:
        """Refill or put the frame; return False if stopped before. form: the previous frame's."""
        if self._changes.too_many(frame.form, frame.pts):
            raise SourceFault(changes_fault(), "sizes")
        if number < self._start_point.number:
            self._refill(n_decoded, frame)
            return True
        if self._epoch is None or (form is not None and frame.form != form):
            self._ask_for_epoch()
        position = self._take_credit(frame.form, len(frame.undecoded), frame.sound)
        if position is None:
            return False
        self._put(n_decoded, frame, position, sound=frame.sound)
        return True

    def _refill(self, number: int, frame: Frame) -> None:
        wanted = self._refills.get(number)
        if frame.sound:  # a window of sound may reach back before the frames in flight
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
        """Mark the missing pixels as lost, so that readers do not wait for them."""
        for number, frame in self._all_refills().items():
            with contextlib.suppress(FramegateError):
                store = self._worker.frame_store(frame.form)
                store.give_up(number, frame.position)

    def _all_refills(self) -> dict[int, InFlight]:
        """Take all refills; the loop's thread and this one may both do so."""
        with self._changed:
            taken, self._refills = self._refills, {}
        return taken
