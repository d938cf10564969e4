"""What the stage `events` remembers of a source from frame to frame; it is written with each hop.

Times are whole milliseconds of the source's clock: seconds of the media within an epoch, and by
`captured` over the breaks between epochs. Boxes are whole sixteenths of a pixel. Both take three
to five bytes where a float takes nine, and the state stays below 2 KB.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import msgspec

from framegate.pipeline.contracts.episodes import Clip, Moment, Severity, When
from framegate.pipeline.contracts.results import Result

PixelBox: TypeAlias = tuple[int, int, int, int]
SIXTEENTHS = 16


class Mark(NamedTuple):
    """A moment as it is stored: see contracts.episodes.Moment."""

    epoch: int
    seq: int
    media_s: float
    captured: float

    @property
    def moment(self) -> Moment:
        """The same for others to read."""
        return Moment(*self)


class Track(msgspec.Struct, frozen=True, array_like=True):
    """An object that is, or was a moment ago.

    number     of its track
    label      its class
    raw        its box as it was last; one that the picture's lower edge cuts has its last height
    smooth     the same, smoothed
    first_ms   when it was seen first
    last_ms    when it was in a result last
    known_ms   the same by the clock that stands still while nothing is known
    breaks     of its source, when it was seen last
    sightings  frames in which a network saw it
    speed      of the middle of its lower edge, x and y in sixteenths of a pixel a second
    still_at   where that point stands still
    still_ms   since when
    sides      of each line: 1 right, -1 left, 0 not known
    earlier    numbers of the tracks that it goes on, oldest first
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


class Passing(msgspec.Struct, frozen=True, array_like=True):
    """A track that may be about to cross a line.

    key        of the rule
    track      its number
    rank       among those that met the line in the same frame
    met        where its path met the line last, once it has; the frame is the first beyond
    meets      how often since it was on its side for sure
    smooth_meets  how often the path of its smoothed foot did
    bridged    that was in a gap between two sightings
    since_ms   when its smoothed foot began to be on the other side; -1: it is not
    sightings  one after the other on the other side, its foot as it was
    box        when it met the line, as shares of the picture in ten-thousandths
    models     that saw it then
    goes_on    at its speed it would soon be far enough beyond; only where frames are rare
    """

    key: str
    track: int
    rank: int
    met: Mark
    meets: int
    bridged: bool
    since_ms: int
    sightings: int
    box: PixelBox
    models: tuple[str, ...]
    goes_on: bool = False
    smooth_meets: int = 0


class Stretch(msgspec.Struct, frozen=True, array_like=True):
    """A time in which a rule holds; an episode, once it is told.

    subject    numbers of the tracks that it is about; none of a rule about many, or the source
    rank       among those that began in the same frame
    began, began_ms  when it became true
    last, last_ms  last evidence
    label      class of its object
    box        of its object as it began, as shares of the picture in ten-thousandths
    models     that made the first evidence
    sightings  frames with evidence in which a network saw it
    held       frames with evidence in which none did
    number     updates that were told; -1: its start was not
    told_ms    when it was told of last
    false_ms   since when it does not hold; -1: it does
    unsure     before its last evidence nobody knew for longer than the rule bridges
    bridged    it went on after a gap
    value      what the rule measures
    earlier    numbers of tracks that those in `subject` go on, oldest first
    in_doubt   since its last evidence nobody knew for longer than the rule bridges
    """

    subject: tuple[int, ...]
    rank: int
    began: Mark
    began_ms: int
    last: Mark
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

    @property
    def is_told(self) -> bool:
        """Whether it is an episode."""
        return self.number >= 0


class LastHeard(msgspec.Struct, frozen=True, array_like=True):
    """What was heard last.

    ms       when, by the source's clock
    scores   of the sounds that rules ask for
    is_new   the network listened; else it sounded as when it last did
    model    whose labels they are
    """

    ms: int
    scores: dict[str, float]
    is_new: bool
    model: str


class KnownView(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """What a camera looked at, and whether it does still.

    key       of EventsConfig.view_of: of what it was seen for
    backdrop  what it looked at
    others    pictures in a row that show something else
    is_moved  it looks elsewhere
    """

    key: str
    backdrop: bytes
    others: int = 0
    is_moved: bool = False


class RuleNote(msgspec.Struct, frozen=True, array_like=True):
    """What the end of an episode says of a rule that the configuration does not have any more."""

    when: When
    severity: Severity
    clip: Clip | None


class EventsState(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of a source.

    at        its last frame; none: it had none
    pts       of that
    now_ms    its clock
    known_ms  the same, but standing still while nothing is known
    breaks    epochs and scenes that began
    scene     of the last frame
    lines     keys of the rules about lines, in the order of Track.sides
    tracks    by number
    passings  those that may be about to cross a line
    stretches     by key of the rule
    notes     of the rules with episodes that go on
    begun_ms  when an episode of a rule that others come after began last, by its key
    unknown   rules that cannot be judged
    heard     what was heard last, where rules ask for sounds; none: nothing, or it was lost
    away_ms   since its last frame, of a camera that is away, as far as that was told
    turned    its camera was turned, or looked elsewhere, in its last frame
    view      what its camera looked at as its areas and lines were new; none: that is not known
    """

    at: Mark | None = None
    pts: float | None = None
    now_ms: int = 0
    known_ms: int = 0
    breaks: int = 0
    scene: int = 0
    lines: tuple[str, ...] = ()
    tracks: tuple[Track, ...] = ()
    passings: tuple[Passing, ...] = ()
    stretches: dict[str, tuple[Stretch, ...]] = {}
    notes: dict[str, RuleNote] = {}
    begun_ms: dict[str, int] = {}
    unknown: tuple[str, ...] = ()
    heard: LastHeard | None = None
    away_ms: int = 0
    turned: bool = False
    view: KnownView | None = None


class Now(NamedTuple):
    """A frame that is judged.

    at       where it stands
    ms, known_ms  the clocks
    frame_ms  since the frame before
    is_away  there is no frame: its camera is away
    """

    result: Result
    at: Mark
    ms: int
    known_ms: int
    frame_ms: int
    is_away: bool = False


def share_of(box: PixelBox, width: int, height: int) -> PixelBox:
    """A box in sixteenths of a pixel as ten-thousandths of the picture, within it."""
    across, down = SIXTEENTHS * width, SIXTEENTHS * height
    x1, y1, x2, y2 = box
    return (
        _share(x1, across),
        _share(y1, down),
        _share(x2, across),
        _share(y2, down),
    )


def _share(edge: int, most: int) -> int:
    return min(max(edge * 10_000 // most, 0), 10_000)
