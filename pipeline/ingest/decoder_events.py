"""The events that a decoder thread reports, and the point at which it continues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.source import CameraEvent, Form, UndecodedFrame
from framegate.pipeline.ingest.recorded_stream import RecordedSize, RecordedStreamState


class Decoded(msgspec.Struct, frozen=True, gc=False):
    """A frame whose pixels are in the frame store.

    number        as in records.Record
    arrived_mono  monotonic seconds
    captured      UNIX seconds by the camera's clock, None if the camera does not report it
    dropped       decoded frames right before it that were not put
    burst         those of the dropped frames that exceeded the queue in a burst (frame_queue)
    key_frame     the frame was encoded without reference to others
    sound         as in records.Record
    counts        growth of the source's other counters since the last event
    shown         as in records.Record
    undecoded     the frames right before it that were not decoded, in order
    camera_events  as in contracts.source.Frame
    """

    position: Position
    number: int
    pts: float | None
    form: Form
    arrived_mono: float
    captured: float | None = None
    dropped: int = 0
    burst: int = 0
    key_frame: bool = False
    sound: tuple[int, int] | None = None
    counts: Mapping[str, int] = {}
    shown: RecordedSize | None = None
    undecoded: Sequence[UndecodedFrame] = ()
    camera_events: tuple[CameraEvent, ...] | None = None


@dataclass(frozen=True, slots=True)
class NewEpoch:
    """The next frame needs a new epoch: its picture size or a break in time requires it.

    The thread waits for `begin_epoch`.
    """


@dataclass(frozen=True, slots=True)
class Lost:
    """A live source's connection was lost or could not be made; the thread tries again.

    fault    the cause, in words
    reason   an errors.FaultReason
    dropped  frames that were decoded after the last one that was put; `burst` of them in a burst
    counts   as in Decoded
    """

    fault: str
    reason: str
    dropped: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    burst: int = 0


@dataclass(frozen=True, slots=True)
class SourceEnded:
    """The last event: the source ended, or cannot continue because of `fault`."""

    counts: Mapping[str, int]
    fault: str | None = None


Event = Decoded | NewEpoch | Lost | RecordedStreamState | SourceEnded


@dataclass(frozen=True, slots=True)
class InFlight:
    """A committed frame that some reliable reader has not read.

    number     decoded frames before it
    undecoded  frames before it that were not decoded
    """

    position: Position
    number: int
    form: Form
    undecoded: int = 0

    @property
    def index(self) -> int:
        """Return the number of frames before it."""
        return self.number + self.undecoded


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """The point at which a decoder continues: after `number` frames, the last at `position`.

    undecoded  those of the frames that were not decoded
    open       its epoch continues (if the picture size does)
    done       all frames are committed: decode only those in flight
    in_flight  committed frames whose pixels must be in the frame store again
    shown      of the last frame, as in records.Record
    """

    position: Position
    number: int = 0
    open: bool = False
    done: bool = False
    in_flight: tuple[InFlight, ...] = field(default=())
    shown: RecordedSize | None = None
    undecoded: int = 0

    @property
    def n_decoded(self) -> int:
        """Return the number of the next decoded frame; see records.Record."""
        return self.number - self.undecoded
