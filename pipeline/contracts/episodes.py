"""What the stage `events` says: how episodes of a source begin, go on and end.

An episode is a time in which a rule held: somebody was in an area, more than nine waited, a line
was crossed. Its id is made of where it became true, so that frames that are computed again tell the
same episode again, byte for byte. What reads this (search, sinks, clips) may get a change twice,
after it was killed say, and knows it by `Change.id`.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from framegate.pipeline.contracts import keys, records
from framegate.pipeline.contracts.records import End, Position, SideOutput

VERSION: Final = 1

Step = Literal["start", "update", "end"]
When = Literal["inside", "crosses", "count", "near", "left", "state"]
Severity = Literal["detection", "alert"]
EndedBy = Literal["over", "unseen", "source_ended", "rule_changed"]
Direction = Literal["in", "out"]


class Moment(msgspec.Struct, frozen=True):
    """A time of a source: where it stands there, and what clocks say.

    epoch     with `seq`, the position of the frame that showed it
    media_s   seconds of the media within the epoch; durations are differences of these
    captured  UNIX seconds, for people and for joining with the world: clocks may step
    """

    epoch: int
    seq: int
    media_s: float
    captured: float


class Clip(msgspec.Struct, frozen=True):
    """What of a recording belongs to an episode: seconds before its start and after its end."""

    before_s: float
    after_s: float


class Change(msgspec.Struct, frozen=True, omit_defaults=True):
    """A step of an episode: exactly one start, any number of updates, exactly one end.

    v          version of the record
    episode    `<source>/<rule>/<epoch>-<seq>/<n>`: where it became true, and its rank among those
               that became true there, from 0
    step       start, update or end; a crossing starts and ends in the same frame
    number     counts the updates of an episode from 1; 0 for its start and end
    source     name of the source
    rule       name of the rule
    version    eight hex digits of the digest of the rule with its areas and lines
    when       predicate of the rule
    severity   of the rule
    told       frame at which it is said: what began may have had to hold for a while
    began      first frame in which the rule held, or where a line was met
    last       last evidence for it so far; of an end, when it ended
    seconds    of the media, from `began` to `last`, breaks of epochs bridged by `captured`
    label      class of its object, or label of a sound; null where it has none or several
    tracks     numbers of its objects, a handed-over one after the one before
    value      what its rule measures: of count how many, of inside with faster_m_s metres a second,
               of near how far the two are apart (heights or metres) or, with ttc_s, in how many
               seconds they would meet, of a sound its score; or null
    direction  of a crossing, as the line is drawn
    box        of its object as it began, x1, y1, x2, y2 as shares of the picture, 0 to 1
    sightings  frames with evidence in which a network saw it
    held       frames in which it was taken to be there still, without a look
    models     that made the first evidence
    unsure     for longer than the rule bridges nobody knew whether it held; what was not seen after
               an end as unseen is not meant
    bridged    what it tells happened in a gap, between two sightings
    ended_by   over: the rule does not hold any more. unseen: nothing was seen of it for too long,
               or its source did not come back. source_ended: the source ended. rule_changed: it has
               another rule now, or none
    clip       what of a recording belongs to it; null for none
    """

    v: int
    episode: str
    step: Step
    source: str
    rule: str
    version: str
    when: When
    severity: Severity
    told: Moment
    began: Moment
    last: Moment
    number: int = 0
    seconds: float = 0.0
    label: str | None = None
    tracks: tuple[int, ...] = ()
    value: float | None = None
    direction: Direction | None = None
    box: tuple[float, float, float, float] | None = None
    sightings: int = 0
    held: int = 0
    models: tuple[str, ...] = ()
    unsure: bool = False
    bridged: bool = False
    ended_by: EndedBy | None = None
    clip: Clip | None = None

    @property
    def id(self) -> str:
        """What names this change, the same each time that it is told."""
        return f"{self.episode}/{self.step}" + (f"-{self.number}" if self.number else "")


class Changes(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the stage says of a frame in which something changed, in the order in which it holds.

    changes  of episodes
    unknown  rules that cannot be judged from this frame on, by name; those that can be again are
             in `known`
    captured UNIX seconds at which that was, at the end of an epoch; of a frame its record says it
    """

    changes: tuple[Change, ...] = ()
    unknown: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    captured: float = 0.0


class EventEntry(msgspec.Struct, frozen=True):
    """What the stage said of one frame, or at the end of an epoch, as an entry of its stream tells.

    source    name of the source
    position  of the frame, or of the end
    before    of the last frame before it of which the stage said something: who has not read that
              one has missed what was removed; None at an end, which does not tell
    captured  UNIX seconds of the frame, or at which the end was said; None where that is not told
    changes   what it said
    """

    source: str
    position: Position
    before: Position | None
    captured: float | None
    changes: Changes


def read_events(source: str, position: Position, data: bytes) -> EventEntry:
    """Read a frame's entry. msgspec.DecodeError; RecordTooNew."""
    side = records.decode_versioned(data, SideOutput)
    before, changes = Position.parse(side.before), records.decode(side.said, Changes)
    return EventEntry(source, position, before, side.record.captured, changes)


def read_last_events(source: str, position: Position, end: End) -> EventEntry | None:
    """Read what the stage had left to say at the end of an epoch; None: nothing."""
    said = end.said.get(keys.EVENTS)
    if said is None:
        return None
    changes = records.decode(said, Changes)
    return EventEntry(source, position, None, changes.captured or None, changes)
