"""The contents of a data folder and its store at one moment: the input of all checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import msgspec

from framegate.pipeline.contracts.episodes import EventEntry
from framegate.pipeline.contracts.keys import EVENTS, VISITS
from framegate.pipeline.contracts.records import End, Position
from framegate.pipeline.contracts.visits import VisitEntry
from framegate.pipeline.recording.index import Pin, Segment
from framegate.pipeline.recording.recorder_states import RecordingGap
from framegate.pipeline.run.folder import RunFile

FolderPart = Literal["index", "pins", "episodes", "leftovers"]
PARTS: Final[tuple[FolderPart, ...]] = ("leftovers", "index", "episodes", "pins")
"""The parts of a data folder that can be rebuilt, in the order of the repair."""


class Discrepancy(msgspec.Struct, frozen=True):
    """An inconsistency, or work that an interrupted run left.

    kind      fault: two parts of the folder contradict each other. unfinished: an interrupted run
              left it, and the next run in the folder completes it
    subject   the file, source or row
    found     the value in the folder
    expected  the value that should be there
    advice    the action to take
    part      the part to rebuild; None: no other part of the folder has the same data
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
        """The number of entries that were trimmed."""
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
    """The position of a sink in the events of a source. index: number of entries up to it."""

    position: Position
    index: int


@dataclass(frozen=True)
class StateFacts:
    """Large state of a stage that its committed state refers to. is_whole: the digest is right."""

    source: str
    stage: str
    file: str
    position: Position
    is_whole: bool


@dataclass(frozen=True)
class SourceFacts:
    """The contents of the store about one source.

    run, epoch  the owner, and the last allocated epoch
    waiting     frames in the outputs of stages that are not published
    counters    counters of the source
    recounted   the same counters, as far as they follow from the published results
    unreadable  faults of results that cannot be read, or that name a position other than their id
    events      entries of the stage `events`, in order; an unreadable one has no changes
    visits      entries of the stage `visits`, in order
    """

    name: str
    run: str
    epoch: int
    stages: Mapping[str, StageFacts]
    results: StreamFacts
    waiting: frozenset[Position]
    counters: Mapping[str, int]
    recounted: Mapping[str, int]
    unreadable: Mapping[Position, str]
    events: tuple[EventEntry, ...]
    events_stream: StreamFacts
    visits: tuple[VisitEntry, ...]
    visits_stream: StreamFacts
    sinks: Mapping[str, SinkFacts]
    events_are_whole: bool = True  # whether each stored entry of `events` can be read

    @property
    def told(self) -> Mapping[str, ToldStream]:
        """The streams that the database of episodes is made of, by stage."""
        return {
            EVENTS: ToldStream(self.events_stream, self.events),
            VISITS: ToldStream(self.visits_stream, self.visits),
        }


@dataclass(frozen=True)
class ToldStream:
    """A stream that the database of episodes is made of, with its entries."""

    stream: StreamFacts
    entries: Sequence[EventEntry | VisitEntry]


ChangeRow = tuple[Any, ...]


@dataclass(frozen=True)
class EpisodeTables:
    """The rows of a database of episodes.

    episodes  columns of each episode, by id
    changes   columns of each change, by episode, step and number
    read      position up to which a stream was read, by source and stage
    visits    columns of each visit, by id
    """

    episodes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    changes: Mapping[tuple[str, str, int], ChangeRow] = field(default_factory=dict)
    read: Mapping[tuple[str, str], Position] = field(default_factory=dict)
    visits: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class RecordedFile:
    """A file of a recording.

    path     path below the folder of recordings
    nbytes   size of the file
    is_open  whether no recorder has finished it
    segment  the row that follows from its content; None: no fragment can be read
    fault    the reason why no fragment can be read
    decoded  first and last time at which its pictures are decoded, seconds on the source's clock
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

    counted  number of segments and bytes of each source, as the index has them
    """

    files: tuple[RecordedFile, ...] = ()
    rows: tuple[Segment, ...] = ()
    pins: tuple[Pin, ...] = ()
    gaps: tuple[RecordingGap, ...] = ()
    counted: Mapping[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class FolderSnapshot:
    """A data folder at one moment.

    now         time of the snapshot, UNIX seconds
    run         run.json; None: it cannot be read
    unreadable  faults of files that cannot be read, by path below the data folder
    identity    identity of the store
    leftovers   files of interrupted writes
    streamed    tables of episodes that follow from the streams, up to where the database read them
    episodes    tables of the database; None: there is no database, or it cannot be read
    recordings  recordings and their index; None: there are none, or the index cannot be read
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
