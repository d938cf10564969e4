"""Visits: a track from its first to its last frame, in at most 1 KB.

The stage `windows` makes the visit of a track when the track ends, and the result of the next frame
carries it. The stage `visits` writes it into a stream of its own, from which the database of the
review gets it. Its id contains the first frame of the track, so frames that are computed again give
the same visit, byte for byte.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

import msgspec

from framegate.pipeline.contracts import keys, records
from framegate.pipeline.contracts.moments import Moment
from framegate.pipeline.contracts.records import End, Position, Record, SideOutput

VERSION: Final = 1
STILL_HEIGHTS: Final = 0.25  # an object whose foot moves less, by its height, stays in its place
STILL_MS: Final = 2000  # after this time in a place, it stands still
MAX_POINTS: Final = 12  # of a path
MAX_VALUES: Final = 96  # of a feature
MAX_COLOURS: Final = 3
MAX_BYTES: Final = 1024  # of a visit as msgpack, without the ids of its episodes

Colour = Literal[
    "black", "grey", "white", "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown"
]


class PathPoint(NamedTuple):
    """The foot of an object, the middle of the lower edge of its box, at one time.

    seconds  since the start of the visit, media time
    x, y     parts of the picture's width and height, 0 to 1
    """

    seconds: float
    x: float
    y: float


class Visit(msgspec.Struct, frozen=True, omit_defaults=True):
    """A tracked object, from the first to the last frame in which it was published.

    v         version of the record
    id        `<source>/<epoch>-<seq of the first frame>/<track>`
    source    name of the source
    track     number of the object through the frames
    label     name of its class in the last frame
    began     first frame with it
    last      last frame with it
    path      at most 12 points [seconds, x, y] of its foot: seconds of media time since it began,
              and parts of the picture's width and height. The first and the last point are those
              of its first and last box. If its window was lost with the machine's memory, the
              path begins after the loss; it is empty if there was no box after it
    size      median width and height of its boxes, parts of the picture's width and height
    speed     median speed of its foot, parts of the picture per second
    dwell_s   seconds for which it stood still
    stops     how often it stood still, for 2 s or longer
    scores    mean and greatest score of the looks at it, 0 to 1
    looks     number of frames in which a network saw it
    colours   shares of up to three colours of its pixels, 0 to 1, the largest first
    feature   values that the network computed of it, int8, at most 96; empty: unknown
    feature_model  model that computed the feature; only features of one model can be compared
    sounds    labels of the sounds that were heard meanwhile
    episodes  ids of the episodes that it belongs to; only in the answers of searches. An
              ended episode that began more than 10 minutes before the visit is not found
    """

    v: int
    id: str
    source: str
    track: int
    label: str
    began: Moment
    last: Moment
    path: tuple[PathPoint, ...]
    size: tuple[float, float]
    speed: float = 0.0
    dwell_s: float = 0.0
    stops: int = 0
    scores: tuple[float, float] = (0.0, 0.0)
    looks: int = 0
    colours: dict[Colour, float] = {}
    feature: bytes = b""
    feature_model: str = ""
    sounds: tuple[str, ...] = ()
    episodes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.path) > MAX_POINTS:
            raise ValueError(f"a path must have at most {MAX_POINTS} points, got {len(self.path)}")
        if len(self.feature) > MAX_VALUES:
            raise ValueError(
                f"a feature must have at most {MAX_VALUES} values, got {len(self.feature)}"
            )
        if len(self.colours) > MAX_COLOURS:
            raise ValueError(
                f"a visit must have at most {MAX_COLOURS} colours, got {len(self.colours)}"
            )

    @property
    def seconds(self) -> float:
        """Return the duration from the first to the last frame, media time."""
        return self.last.media_s - self.began.media_s


class LastVisits(msgspec.Struct, frozen=True):
    """The visits that end with a frame or with an epoch, as a part of the outputs of stages."""

    visits: tuple[Visit, ...] = ()


def visits_with(record: Record, stage: str) -> tuple[Visit, ...]:
    """Return the visits in the output of a stage for a frame."""
    return _visits_in(record.said.get(stage))


def visits_at(end: End, stage: str) -> tuple[Visit, ...]:
    """Return the visits in the last output of a stage in an epoch."""
    return _visits_in(end.said.get(stage))


def _visits_in(output: msgspec.Raw | None) -> tuple[Visit, ...]:
    if output is None:
        return ()
    return records.decode(output, LastVisits).visits


class VisitEntry(msgspec.Struct, frozen=True):
    """An entry of the stream of visits: those that ended with a frame, or with an epoch.

    source    name of the source
    position  position of the frame or of the end
    before    position of the entry before; None at an end
    visits    the visits
    """

    source: str
    position: Position
    before: Position | None
    visits: tuple[Visit, ...] = ()


def read_visits(source: str, position: Position, data: bytes) -> VisitEntry:
    """Read a frame's entry. msgspec.DecodeError if it is none; RecordTooNew."""
    side = records.decode_versioned(data, SideOutput)
    visits = _visits_in(side.said)
    return VisitEntry(source, position, Position.parse(side.before), visits)


def read_last_visits(source: str, position: Position, end: End) -> VisitEntry | None:
    """Read the last visits of an epoch; None if there are none."""
    visits = visits_at(end, keys.VISITS)
    if not visits:
        return None
    return VisitEntry(source, position, None, visits)
