"""A decoder and a detector that do nothing: what is left of a run is the engine.

The pixels' way stays real: each frame takes its slot in the shared frame store, the decoder stamps
the slot with the frame's number, and the detector reads the stamp back through the store's checks.
"""

from __future__ import annotations

import itertools
import math
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from framegate.pipeline.contracts.records import Record
from framegate.pipeline.contracts.results import Object
from framegate.pipeline.contracts.source import DecoderGuard, Form, Request
from framegate.pipeline.contracts.stage import Item, NoState, Stage
from framegate.stages.detections import Detections

_STAMP = struct.Struct("<Q")
_LEAD_S = 0.25
_READ = 32  # bytes
SCHEME = "null://"


@dataclass(frozen=True)
class NullOptions:
    """What is made: pictures of width x height pixels at fps, `frames` of them."""

    width: int = field(default=640, metadata={"least": 2})
    height: int = field(default=360, metadata={"least": 2})
    fps: int = field(default=30, metadata={"least": 1})
    frames: int = field(default=1_000_000_000, metadata={"least": 1})


class NullFrame:
    """A `framegate.Frame` without a picture: only its number is written.

    The first one's time stamp is its lateness at the moment it is first asked for. Its taker aligns
    all others to it, so how long the taker needed to get ready does not move the source's phase.
    """

    __slots__ = ("_number", "_pts", "_start", "form", "nbytes")
    arrived_mono = captured = None
    key_frame, sound, undecoded = False, (), ()

    def __init__(self, number: int, start: float, fps: int, form: Form) -> None:
        self._number, self._start = number, start
        self._pts = number / fps if number else None
        self.form, self.nbytes = form, form.nbytes

    @property
    def pts(self) -> float:
        """Seconds after the source's start."""
        if self._pts is None:
            self._pts = time.monotonic() - self._start
        return self._pts

    def write(self, slot: memoryview) -> None:
        """Stamp the slot."""
        _STAMP.pack_into(slot, 0, self._number)


class NullSource:
    """Frames at the rate of `options`, as quickly as they are taken (`framegate.Source`).

    The first one comes `phase_s` after a whole second of the monotonic clock, so that sources in
    any process keep their phases to each other once frames are paced by their pts.
    """

    def __init__(self, options: NullOptions, phase_s: float) -> None:
        self._options, self._phase_s = options, phase_s
        self.duration_frames: int | None = options.frames
        self.counts: Mapping[str, int] = {}

    def __iter__(self) -> Iterator[NullFrame]:
        """Wait for the phase, then give all frames."""
        options = self._options
        form = Form(options.width, options.height)
        start = math.ceil(time.monotonic() + _LEAD_S) + self._phase_s
        time.sleep(max(0.0, start - time.monotonic()))
        for number in itertools.islice(itertools.count(), options.frames):
            yield NullFrame(number, start, options.fps, form)

    def close(self) -> None:
        """Nothing to let go of."""


class NullDecode:
    """Stands in for decode. A source's URL is `null://` and its phase in milliseconds."""

    Options = NullOptions

    def __init__(self, options: NullOptions) -> None:
        self.options = options

    def open(self, request: Request, guard: DecoderGuard) -> NullSource:  # noqa: ARG002
        """Open a made source."""
        return NullSource(self.options, float(request.url.removeprefix(SCHEME)) / 1e3)


FOUND = Detections(
    outcome="detected",
    looked="whole",
    reason="every_frame",
    objects=(Object(1, "person", 0, 0.9, (100.0, 80.0, 180.0, 240.0), "detected"),),
    models=("null",),
)


class ReadPixels(Stage[NoState]):
    """Stands in for detect: the same object in every frame, once some of its pixels were read."""

    pixels = 1
    batch = 64

    def process(
        self, batch: Sequence[Item], states: Mapping[str, NoState]
    ) -> tuple[list[Detections], Mapping[str, NoState]]:
        """Read them, and answer. FrameLost if they are not there."""
        for item in batch:
            with self.context.pixels(item) as pixels:
                self.read(pixels, item.record)
        return [FOUND] * len(batch), states

    def read(self, pixels: memoryview, record: Record) -> None:  # noqa: ARG002
        """Read a few of a frame's pixels."""
        sum(pixels[:_READ])


class NullDetect(ReadPixels):
    """Reads the stamp that NullSource wrote, instead."""

    def read(self, pixels: memoryview, record: Record) -> None:
        """Raise ValueError if the slot holds another frame."""
        check_stamp(pixels, record)


def check_stamp(pixels: memoryview, record: Record) -> None:
    """ValueError if these are not the pixels of the record's frame."""
    (stamp,) = _STAMP.unpack_from(pixels, 0)
    if stamp != record.number:
        raise ValueError(f"the slot of frame {record.number} holds frame {stamp}")
