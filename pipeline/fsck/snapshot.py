"""What a data folder and its store hold at one moment, as plain values: the input of all checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import msgspec

from framegate.pipeline.contracts.episodes import EventEntry
from framegate.pipeline.contracts.records import DecodeState, End, Position
from framegate.pipeline.recording.index import Pin, Segment
from framegate.pipeline.recording.recorders import RecordingGap
from framegate.pipeline.run.folder import RunFile

FolderPart = Literal["index", "pins", "episodes", "leftovers"]
PARTS: Final[tuple[FolderPart, ...]] = ("leftovers", "index", "episodes", "pins")
"""The parts of a data folder that can be rebuilt, in the order in which they are."""


class Discrepancy(msgspec.Struct, frozen=True):
    """An inconsistency, or work that an interrupted run left.

    kind      fault: two parts of the folder contradict each other. unfinished: an interrupted run
              left it so, and the next run of the folder completes it
    subject   where it is
    found     the value that is there
    expected  the value that should be there
    advice    what to do
    part      the part that has to be rebuilt; None: nothing else in the folder has the same data
    """

    kind: Literal["fault", "unfinished"]
    subject: str
    found: str
    expected: str
    advice: str
    part: FolderPart | None = None


@dataclass(frozen=True)
class StreamFacts:
    """A stream whose entries have the positions of frames as ids.

    frames  positions of its frames, ascending
    ends    the ends in it, by position
    last    the last id that the stream ever had
    added   entries that the stream ever had
    """

    frames: tuple[Position, ...]
    ends: Mapping[Position, End]
    last: Position
    added: int

    @property
    def removed(self) -> int:
        """Return how many entries were trimmed."""
        return self.added - len(self.frames) - len(self.ends)


@dataclass(frozen=True)
class StageFacts:
    """The checkpoint of a stage, and the last id that its own stream ever had.

    emitted  position of the last frame for which a side stage gave an output
    """

    position: Position
    emitted: Position
    last: Position


@dataclass(frozen=True)
class SinkFacts:
    """The position of a sink in the events of a source. index: entries up to that position."""

    position: Position
    index: int


@dataclass(frozen=True)
class StateFacts:
    """Large state that a committed state of a stage refers to. is_whole: its digest is right."""

    source: str
    stage: str
    file: str
    position: Position
    is_whole: bool


@dataclass(frozen=True)
class SourceFacts:
    """What the store holds of one source.

    run, epoch  the owner, and the last epoch that was allocated
    decoding    state of decode; None: it has none
    waiting     frames that stages gave and that are not published
    counters    of the source
    recounted   the same counters, as far as the published results determine them
    unreadable  results that cannot be read, or that name another position than their id: why
    events      what the stage `events` stored, in order
    """

    name: str
    run: str
    epoch: int
    decoding: DecodeState | None
    stages: Mapping[str, StageFacts]
    results: StreamFacts
    waiting: frozenset[Position]
    counters: Mapping[str, int]
    recounted: Mapping[str, int]
    unreadable: Mapping[Position, str]
    events: tuple[EventEntry, ...]
    events_stream: StreamFacts
    sinks: Mapping[str, SinkFacts]


ChangeRow = tuple[Any, ...]


@dataclass(frozen=True)
class EpisodeTables:
    """Rows of a database of episodes.

    episodes  by id, each with its columns
    changes   by episode, step and number
    read      up to where the stream of each source was read
    """

    episodes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    changes: Mapping[tuple[str, str, int], ChangeRow] = field(default_factory=dict)
    read: Mapping[str, Position] = field(default_factory=dict)


@dataclass(frozen=True)
class RecordedFile:
    """A file of a recording.

    path     from the folder of recordings
    nbytes   its size
    is_open  no recorder has finished it
    segment  the row that follows from its content; None: no fragment of it can be read
    fault    why not
    decoded  from when to when its pictures are decoded, seconds on the source's clock
    """

    path: str
    source: str
    nbytes: int
    is_open: bool
    segment: Segment | None
    fault: str = ""
    decoded: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class RecordingFacts:
    """The recordings of a data folder, and their index.

    counted  segments and bytes of each source, as the index has added them up
    """

    files: tuple[RecordedFile, ...] = ()
    rows: tuple[Segment, ...] = ()
    pins: tuple[Pin, ...] = ()
    gaps: tuple[RecordingGap, ...] = ()
    counted: Mapping[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class FolderSnapshot:
    """A data folder at one moment.

    now         UNIX seconds
    run         run.json; None: it cannot be read
    unreadable  files that cannot be read, from the data folder: why
    identity    of the store
    leftovers   files of interrupted writes
    streamed    the tables of episodes that follow from the streams, as far as the database has
                read these
    episodes    the tables of the database; None: there is none, or it cannot be read
    recordings  None: there are none, or their index cannot be read
    """

    now: float
    run: RunFile | None
    unreadable: Mapping[str, str]
    identity: str
    leftovers: tuple[str, ...]
    sources: tuple[SourceFacts, ...]
    states: tuple[StateFacts, ...]
    streamed: EpisodeTables
    episodes: EpisodeTables | None
    recordings: RecordingFacts | None
