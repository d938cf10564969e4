"""The outputs of the stage `events`: starts, updates and ends of episodes.

An episode is a period in which a rule is true: a person is in an area, ten people wait, a line is
crossed. Its id contains the frame at which the rule became true, so frames that are computed again
give the same episode, byte for byte. A reader (search, sinks, clips) may get a change twice, for
example after a restart; `Change.id` identifies it.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from framegate.pipeline.contracts import keys, records
from framegate.pipeline.contracts.moments import Moment
from framegate.pipeline.contracts.records import End, Position, SideOutput
from framegate.pipeline.contracts.traits import Traits

VERSION: Final = 1

Step = Literal["start", "update", "end"]
When = Literal["inside", "crosses", "count", "near", "left", "state", "like"]
Severity = Literal["detection", "alert"]
EndedBy = Literal["over", "unseen", "source_ended", "rule_changed"]
Direction = Literal["in", "out"]


class Clip(msgspec.Struct, frozen=True):
    """The part of a recording that belongs to an episode: seconds before its start and after it."""

    before_s: float
    after_s: float


class Change(msgspec.Struct, frozen=True, omit_defaults=True):
    """A step of an episode, which has one start, any number of updates and one end.

    v          version of the record
    episode    `<source>/<rule>/<epoch>-<seq>/<n>`: the frame at which the rule became true, and the
               rank among the episodes of that frame, from 0
    step       start, update or end; a crossing, and a visit of `like`, start and end in one frame
    number     counts the updates of an episode from 1; 0 for its start and end
    source     name of the source
    rule       name of the rule
    version    eight hex digits of the digest of the rule with its areas and lines
    when       predicate of the rule
    severity   severity of the rule
    told       frame at which the change is published; with `for_s`, a start is published later than
               it began
    began      first frame in which the rule was true, or the time at which the line was met
    last       last evidence for it so far; in an end, the time at which it ended
    seconds    duration from `began` to `last` in media time; `captured` bridges breaks of epochs
    label      class of its object, or label of a sound, or event of the camera;
               null if it has none or several
    tracks     numbers of its objects; a track that continues another follows it
    value      measurement of the rule. count: number of objects. inside with faster_m_s: metres per
               second. near: distance of the two objects (heights or metres) or, with ttc_s, seconds
               until they would meet. sound: score. like: likeness, 0 to 1. Otherwise null
    direction  of a crossing, as the line is drawn
    box        box of its object at the start, x1, y1, x2, y2 as shares of the picture, 0 to 1
    sightings  frames with evidence in which a network saw it
    held       frames with evidence from carried objects, without a look of the network
    models     models that gave the first evidence
    unsure     whether it was unknown for longer than the rule bridges if the rule was true; the
               time after an end as `unseen` does not count
    bridged    whether the change happened in a gap between two detections
    ended_by   over: the rule is not true any more. unseen: there was no evidence for too long, or
               its source did not come back. source_ended: the source ended. rule_changed: the rule
               was changed or removed
    clip       part of a recording that belongs to it; null if none does
    muted      filter that mutes the episode, NAME/DIGEST; null: none. Sinks do not get it
    traits     in a start: what is known about its object; null if the rule is about none
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
    muted: str | None = None
    traits: Traits | None = None

    @property
    def id(self) -> str:
        """Return the id of this change, which is the same each time that it is published."""
        if not self.number:
            return f"{self.episode}/{self.step}"
        return f"{self.episode}/{self.step}-{self.number}"


class Changes(msgspec.Struct, frozen=True, omit_defaults=True):
    """The output of the stage for a frame in which an episode or the state of a rule changed.

    changes  changes of episodes, in order
    unknown  names of the rules that cannot be evaluated from this frame on
    known    names of the rules that can be evaluated again
    captured UNIX seconds, at the end of an epoch only; the record of a frame has its own
    """

    changes: tuple[Change, ...] = ()
    unknown: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    captured: float = 0.0


class EventEntry(msgspec.Struct, frozen=True):
    """An entry of the stage's stream: its output for a frame, or at the end of an epoch.

    source    name of the source
    position  position of the frame or of the end
    before    position of the entry before; a reader that has not read that entry has missed removed
              entries. None at an end
    captured  UNIX seconds of the frame or the end; None if unknown
    changes   the output
    """

    source: str
    position: Position
    before: Position | None
    captured: float | None
    changes: Changes


def read_events(source: str, position: Position, data: bytes) -> EventEntry:
    """Read a frame's entry. msgspec.DecodeError if it is none; RecordTooNew."""
    side = records.decode_versioned(data, SideOutput)
    before = Position.parse(side.before)
    changes = records.decode(side.said, Changes)
    return EventEntry(source, position, before, side.record.captured, changes)


def read_last_events(source: str, position: Position, end: End) -> EventEntry | None:
    """Read the last output of the stage in an epoch; None if there is none."""
    output = end.said.get(keys.EVENTS)
    if output is None:
        return None
    changes = records.decode(output, Changes)
    return EventEntry(source, position, None, changes.captured or None, changes)
