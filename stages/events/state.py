"""The state of the stage `events` for one source. It is written with each hop.

Times are whole milliseconds of the source's clock: media time within an epoch, and `captured`
across the breaks between epochs. Boxes are in whole sixteenths of a pixel. Both take three to five
bytes instead of nine for a float, so the state stays below 2 KB.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import msgspec

from framegate.pipeline.contracts.episodes import Clip, Severity, When
from framegate.pipeline.contracts.moments import StoredMoment
from framegate.pipeline.contracts.results import Result

PixelBox: TypeAlias = tuple[int, int, int, int]
SIXTEENTHS = 16


class Track(msgspec.Struct, frozen=True, array_like=True):
    """A tracked object that is present, or was present recently.

    number     number of the track
    label      class
    raw        last box; a box that the lower edge of the picture cuts keeps its last height
    smooth     the same, smoothed
    first_ms   time of the first result with it
    last_ms    time of the last result with it
    known_ms   the same on the clock that stops while nothing is known
    breaks     number of breaks of the source at the last result with it
    sightings  frames in which a network detected it
    speed      speed of its foot (middle of the lower edge), x and y, sixteenths of a pixel/s
    still_at   position at which the foot stands still
    still_ms   time since when it stands still
    sides      side of each line: 1 right, -1 left, 0 unknown
    earlier    numbers of the tracks that it continues, oldest first
    score      mean score of these detections, ten-thousandths
    fresh_ms   time from the break before it, or the source's begin, to `first_ms`; -1: unknown
    """

    number: int
    label: str
    raw: PixelBox
    smooth: PixelBox
    first_ms: int
    last_ms: int
    known_ms: int
    breaks: int
    sightings: int
    speed: tuple[int, int]
    still_at: tuple[int, int]
    still_ms: int
    sides: tuple[int, ...]
    earlier: tuple[int, ...] = ()
    score: int = 0
    fresh_ms: int = -1


class Passing(msgspec.Struct, frozen=True, array_like=True):
    """A track that may be crossing a line.

    key        key of the rule
    track      number of the track
    rank       position among the tracks that reached the line in the frame of `met`
    met        moment of the last intersection of its path with the line, set by the first frame
               beyond it
    meets      number of intersections since the track was clearly on its side
    bridged    the last intersection was in a gap between two detections
    since_ms   time since when the smoothed foot is on the other side; -1: it is not
    sightings  consecutive detections with the foot on the other side
    box        box at the intersection, in ten-thousandths of the picture
    models     models that detected it then
    goes_on    at its speed it would soon be far enough beyond; only for rare frames
    smooth_meets  number of intersections of the path of the smoothed foot
    """

    key: str
    track: int
    rank: int
    met: StoredMoment
    meets: int
    bridged: bool
    since_ms: int
    sightings: int
    box: PixelBox
    models: tuple[str, ...]
    goes_on: bool = False
    smooth_meets: int = 0


class Stretch(msgspec.Struct, frozen=True, array_like=True):
    """A period in which a rule is true. It becomes an episode when its start is published.

    subject    numbers of the tracks concerned; empty for a rule about a count or the source
    rank       position among the periods that began in the same frame
    began, began_ms  time of the beginning
    last, last_ms  time of the last evidence
    label      class of the object
    box        box of the object at the beginning, in ten-thousandths of the picture
    models     models that produced the first evidence
    sightings  frames with evidence in which a network detected the object
    held       frames with evidence in which no network did
    number     published updates; -1: the start is not published
    told_ms    time of the last published change
    false_ms   time since when the rule is false; -1: it is true
    unsure     before its last evidence the state was unknown for longer than the rule bridges
    bridged    it continued after a gap
    value      value that the rule measures
    earlier    numbers of the tracks that those in `subject` continue, oldest first; of very many,
               the first and the newest
    in_doubt   since its last evidence the state is unknown for longer than the rule bridges
    muted      filter that mutes its episode; see Change
    """

    subject: tuple[int, ...]
    rank: int
    began: StoredMoment
    began_ms: int
    last: StoredMoment
    last_ms: int
    label: str | None
    box: PixelBox | None
    models: tuple[str, ...]
    sightings: int = 0
    held: int = 0
    number: int = -1
    told_ms: int = 0
    false_ms: int = -1
    unsure: bool = False
    bridged: bool = False
    value: float | None = None
    earlier: tuple[int, ...] = ()
    in_doubt: bool = False
    muted: str | None = None

    @property
    def is_told(self) -> bool:
        """True if its start is published."""
        return self.number >= 0


class LastHeard(msgspec.Struct, frozen=True, array_like=True):
    """The last known sounds.

    ms       time on the source's clock
    scores   score of each sound that rules use
    is_new   the network listened; False: the sound was the same as when it last listened
    model    model with these labels
    """

    ms: int
    scores: dict[str, float]
    is_new: bool
    model: str


class KnownView(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """The view for which areas and lines were drawn, and whether the camera still has it.

    key       key from `EventsConfig.view_of`
    backdrop  thumbnail of the view
    others    consecutive thumbnails that show another view
    is_moved  the camera was moved
    """

    key: str
    backdrop: bytes
    others: int = 0
    is_moved: bool = False


class RuleNote(msgspec.Struct, frozen=True, array_like=True):
    """Properties of a rule that the end of its episode needs after the rule was removed."""

    when: When
    severity: Severity
    clip: Clip | None


class EventsState(msgspec.Struct, frozen=True, omit_defaults=True):
    """The state of one source.

    at        last frame; None: none yet
    pts       time stamp of the last frame
    now_ms    clock of the source
    known_ms  the same clock, but stopped while nothing is known
    breaks    number of epochs and scenes that began
    broke_ms  time of the last of them
    scene     scene of the last frame
    lines     keys of the rules about lines, in the order of Track.sides
    tracks    tracks in the order of their numbers
    passings  tracks that may be crossing a line
    stretches  periods by key of the rule
    notes     properties of the rules with open episodes
    ended     next free rank of the rules, by name, whose episodes ended at the position in which
              they began, with that epoch and sequence number
    begun_ms  last beginning of an episode of each rule that an `after` refers to, by its key
    earlier_ms  the same before it, newest first, of rules about lines: a crossing is published
              after its time, when another object may have crossed
    unknown   names of the rules that cannot be judged
    heard     last known sounds; None: none, or they were lost
    away_ms   time since the last frame of a camera that is away
    turned    the camera was turned, or had another view, in the last frame
    view      view for which areas and lines were drawn; None: unknown
    size      width and height of the last frame in pixels
    """

    at: StoredMoment | None = None
    pts: float | None = None
    now_ms: int = 0
    known_ms: int = 0
    breaks: int = 0
    broke_ms: int = 0
    scene: int = 0
    lines: tuple[str, ...] = ()
    tracks: tuple[Track, ...] = ()
    passings: tuple[Passing, ...] = ()
    stretches: dict[str, tuple[Stretch, ...]] = {}
    notes: dict[str, RuleNote] = {}
    ended: dict[str, tuple[int, int, int]] = {}
    begun_ms: dict[str, int] = {}
    earlier_ms: dict[str, tuple[int, ...]] = {}
    unknown: tuple[str, ...] = ()
    heard: LastHeard | None = None
    away_ms: int = 0
    turned: bool = False
    view: KnownView | None = None
    size: tuple[int, int] = (1, 1)


class Now(NamedTuple):
    """The frame that is being judged.

    result    result of the frame; at an end, one without objects that has the last frame's size
    at        moment of the frame
    ms        clock of the source
    known_ms  the same clock, but stopped while nothing is known
    frame_ms  time since the frame before
    is_away   there is no frame, because the camera is away
    """

    result: Result
    at: StoredMoment
    ms: int
    known_ms: int
    frame_ms: int
    is_away: bool = False


def share_of(box: PixelBox, width: int, height: int) -> PixelBox:
    """Convert a box from sixteenths of a pixel to ten-thousandths of the picture, clipped to it."""
    full_width = SIXTEENTHS * width
    full_height = SIXTEENTHS * height
    x1, y1, x2, y2 = box
    return (
        _share(x1, full_width),
        _share(y1, full_height),
        _share(x2, full_width),
        _share(y2, full_height),
    )


def _share(edge: int, full: int) -> int:
    return min(max(edge * 10_000 // full, 0), 10_000)
