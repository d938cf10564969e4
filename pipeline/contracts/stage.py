"""What a stage is, for the stages that ship and for those of users alike: one class, one method.

A stage gets frames with what the stages before it gave, and gives outputs. A stage never touches
the store, the environment or a clock of its own, never sleeps and never retries: the engine does.
A stage keeps nothing between calls that changes its outputs, but for its state. The engine stores
the state and the outputs in one write, so that a worker that is killed at any moment goes on
exactly where the store stands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar, Final, Generic, NamedTuple, Protocol, TypeVar

import msgspec

from framegate.pipeline.contracts import records
from framegate.pipeline.contracts.errors import FrameLost
from framegate.pipeline.contracts.queries import (
    AskCounts,
    CacheCounts,
    FootageCounts,
    PlaceSpec,
    Query,
    QueryId,
    Reply,
)
from framegate.pipeline.contracts.records import End, Position, Record
from framegate.pipeline.contracts.source import Form, SoundBlock

T = TypeVar("T")
S = TypeVar("S")


class Item(NamedTuple):
    """One frame of one source, with what the stages before gave for it.

    source    name of the source
    position  epoch and number of the frame; grows from frame to frame
    record    time stamps, size (`record.form`) and the outputs of earlier stages
    """

    source: str
    position: Position
    record: Record

    def output_of(self, stage: str, kind: type[T]) -> T:
        """Return what the stage named `stage` gave for this frame, read as `kind`.

        KeyError if that stage gave nothing; msgspec.ValidationError if its output is no `kind`.
        """
        return records.decode(self.record.said[stage], kind)


class PlaneRef(msgspec.Struct, frozen=True):
    """Names one content of a plane: written for the frame at `position`, with this digest.

    A stage keeps the reference in its state; see PlanePort.
    """

    position: Position
    nbytes: int
    digest: bytes


class RingRef(msgspec.Struct, frozen=True, array_like=True):
    """Names one row of a ring, written for the frame at `position`, and with it the rows before.

    row     counts the rows of a source, from its first one on, also over a new beginning
    held    rows that the digest covers, this one included: 1 where a window began anew
    digest  covers this row and, through the digest of the row before, all `held` rows

    A stage keeps the reference in its state; see RingPort.
    """

    position: Position
    row: int
    held: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class MemoLimits:
    """What a memo keeps: at most so many bytes, and each value for at most so many seconds."""

    ttl_s: float = 3600.0
    most_bytes: int = 16 << 20


class PlanePort(Protocol):
    """A stage's large state of one source: one content, in shared memory.

    For a state that is too large to be stored with every frame (more than 2 KB). A content counts
    once the stage's state, with the reference to that content, is stored: the content before stays
    readable until then, so that a worker's successor finds what the stored state names.
    Thread: that of `process`.
    """

    @property
    def nbytes(self) -> int:
        """Return how many bytes a content may have."""

    def write(self, position: Position, data: bytes, committed: PlaneRef | None) -> PlaneRef:
        """Write a content for the frame at `position`; return its reference, for the state.

        committed  the reference in the state that `process` was given; that content is kept
        ValueError if `data` is larger than the plane.
        """

    def read(self, reference: PlaneRef) -> bytes | None:
        """Return the content that `reference` names; None if it is not there whole: begin anew."""


class RingPort(Protocol):
    """The last rows that a stage wrote for one source, one a frame, in shared memory.

    For a window of features over the last frames. As with a plane, rows count once the state with
    their reference is stored. Thread: that of `process`.
    """

    def write(
        self, position: Position, data: bytes, after: RingRef | None, anew: bool = False
    ) -> RingRef:
        """Append a row for the frame at `position`; return its reference, for the state.

        after  the reference of the row before; None for the first row
        anew   the window begins with this row: rows before do not belong to it
        ValueError if `data` is larger than a row.
        """

    def read(self, reference: RingRef) -> tuple[bytes, ...] | None:
        """Return the rows that `reference` covers, oldest first; None if one is not there whole."""


class SoundPort(Protocol):
    """The last seconds of a source's sound, in shared memory (`source.SOUND_KEPT_S`)."""

    def read(self, position: Position) -> SoundBlock:
        """Return the block at <epoch>-<number>; FrameLost if it is not there, or was replaced."""


class MemoPort(Protocol):
    """A cache that a group of sources shares. A value may be lost at any time; nothing raises."""

    def find(self, key: bytes) -> bytes | None:
        """Return the value that was kept under `key`, a digest; None: compute it."""

    def keep(self, key: bytes, value: bytes) -> None:
        """Keep a value under `key`; `find` gives exactly these bytes, or None."""


class AskPort(Protocol):
    """A stage's queries to a heavier model.

    The engine sleeps until `fileno` is readable or `due_in` has passed, calls `hear`, and gives
    the stage again the frames that waited. Thread: that of `process`.

    counts  what became of the queries; the stage itself writes `left`
    """

    counts: AskCounts

    # What the stage does.

    def ask(self, question: Query) -> None:
        """Send a query; sending it again is harmless.

        Where there is no room, a query without a due time is not taken.
        """

    def knows(self, question: QueryId) -> bool:
        """Return whether this query was sent and not forgotten since."""

    def answer(self, question: QueryId) -> Reply | None:
        """Return the answer; None while one may come; Unanswered (late) after the due time."""

    def has_room(self, n_bytes: int, urgent: bool = True) -> bool:
        """Return whether a query with so many bytes of pixels would be taken now.

        Urgent queries and others have half of the room each.
        """

    def forget(self, question: QueryId) -> None:
        """Drop a query: the stage waits no longer for its answer."""

    def close(self) -> None:
        """End all queries that are under way."""

    # What the engine does.

    def fileno(self) -> int:
        """Return a descriptor that becomes readable when answers come."""

    def hear(self) -> None:
        """Take the answers that came; `fileno` is not readable then until more come."""

    def due_in(self) -> float | None:
        """Return seconds until the oldest question counts as unanswered; None: none is open."""

    def forget_source(self, source: str) -> None:
        """Drop the questions of a source: this worker does not serve that source any more."""

    def absent(self) -> str | None:
        """Return why no question would be answered now; None if questions would be."""


def _deaf(source: str, block: int) -> SoundPort:
    raise FrameLost(f"source {source}: no sound in blocks of {block} is kept of it", final=True)


@dataclass(frozen=True)
class Context:
    """What a stage may use of the world around it.

    pixels  of an item: a `with` block that gives the frame's bytes, read-only and valid inside the
            block: planar YUV 4:2:0, that is Y (height x width), U, V (each half the height and
            width, rounded up), uint8, of the size in `item.record.form`. FrameLost on entry or exit
            if the pixels are not there, or were replaced meanwhile. Needs `pixels = 1` in the stage
    now     gives UNIX seconds
    folder  the run's data folder, for files that must not change while the run lasts
    before  name of the stage whose outputs this one reads
    plane   (source, bytes) gives the stage's plane, for a state too large to be stored with a frame
    ring    (source, rows, bytes of a row) gives the stage's ring, for the last rows of a state
    memo    (name of a group of sources, limits) gives the cache of that group
    asks    (place, seconds) opens the stage's queries to the heavier model at that place; a query
            without a due time is tried again for so long while nobody answers there
    user_cache  folder of the user, for what is measured once on this machine
    live    (source) tells whether it is a camera, whose frames wait for nobody
    past    (source) gives the last epoch that the source had before this run; stays the same when
            a worker is killed, which the first epoch of the run may not
    model   (source) gives the model that was chosen while the run went on; "" if none was
    sound   (source, samples of a block) gives its sound, whose blocks `record.sound` numbers.
            FrameLost if none is kept of it
    """

    pixels: Callable[[Item], AbstractContextManager[memoryview]]
    now: Callable[[], float]
    folder: Path
    before: str
    plane: Callable[[str, int], PlanePort]
    ring: Callable[[str, int, int], RingPort]
    memo: Callable[[str, MemoLimits], MemoPort]
    asks: Callable[[PlaceSpec, float], AskPort]
    user_cache: Path
    live: Callable[[str], bool] = lambda source: False  # noqa: ARG005
    past: Callable[[str], int] = lambda source: 0  # noqa: ARG005
    model: Callable[[str], str] = lambda source: ""  # noqa: ARG005
    sound: Callable[[str, int], SoundPort] = _deaf


class Waits(Enum):
    """In place of an output: the answer to a question of this frame has not come yet."""

    WAITS = "waits"


WAITS: Final = Waits.WAITS
"""In place of an output: the answer to a question of this frame has not come yet."""


@dataclass(frozen=True)
class NoOptions:
    """A stage without options."""


class NoState(msgspec.Struct, frozen=True):
    """A stage without state."""


class Asking(NamedTuple):
    """How often a stage may ask a heavier model.

    per_s      questions a second for each source, because of doubt
    all_per_s  questions a second for all cameras together, because of doubt
    share      0 to 1, of all frames, for other reasons
    """

    per_s: float = 0.0
    all_per_s: float = 0.0
    share: float = 0.0


class Stage(Generic[S]):
    """Base of all stages: subclass it, set what differs below, and write `each` or `process`.

    Options       frozen dataclass of the keys that the stage's table in pipeline.toml may have
    State         msgspec.Struct, at most 2 KB a frame on average; State() is its beginning
    pixels        1 if the stage reads pixels of the frames that it is given, else 0
    batch         most frames that it wants in one call of `process`; fewer make outputs come sooner
    takes_failed  whether it wants frames on which an earlier stage failed
    publishes     whether its outputs are Results, for the published stream
    uses_models   whether it serves with models that `models use` chooses; `run --detector`,
                  `--classes` and `--min-score` are its options of these names
    takes_classes  whether `run --classes` is its option `classes`, though it uses no such models
    promises      whether its table `promise`, where it has one, makes certificates
    followed      of the main path: whether its stream is written even where no other process has a
                  stage that reads it: programs may follow what it gives
    keeps         outputs of a source that stay in the store where no stage reads them; None: as
                  many as results
    asks          its queries to a heavier model; a stage that waits for answers sets it, from the
                  context, as it starts
    cache         counts of its look-ups in memos; a stage that has any sets it as it starts
    footage       counts of the frames that it keeps to learn from; the same

    Thread: `each`, `process` and `end` are called in one thread, never at the same time.
    """

    Options: ClassVar[type] = NoOptions
    State: ClassVar[type] = NoState
    pixels: ClassVar[int] = 0
    batch: int = 64
    takes_failed: ClassVar[bool] = False
    publishes: ClassVar[bool] = False
    uses_models: ClassVar[bool] = False
    takes_classes: ClassVar[bool] = False
    promises: ClassVar[bool] = False
    followed: ClassVar[bool] = True
    keeps: ClassVar[int | None] = None
    asks: AskPort | None = None
    cache: CacheCounts | None = None
    footage: FootageCounts | None = None

    def __init__(self, options: Any, context: Context) -> None:
        """Get ready (load models, warm up); an exception refuses the start of the run."""
        self.options = options
        self.context = context

    def each(self, item: Item, state: S) -> tuple[Any, S]:  # noqa: ARG002
        """Return the output for one frame, and the state of its source after that frame.

        A stage without state returns the one that it was given. An output is anything that msgpack
        can hold, or None: no output; on the main path the frame goes on without one. WAITS: the
        answer to a question has not come yet; the frame, and those after it in its source, are
        given again when answers came, with the state before. An exception sets this frame aside,
        and no other; on the main path the frame is published as failed.
        """
        raise TypeError(f"{type(self).__name__} has neither a method each nor process")

    def process(
        self, batch: Sequence[Item], states: Mapping[str, S]
    ) -> tuple[Sequence[Any], Mapping[str, S]]:
        """Return an output for each item of a batch, and the state of each source after it.

        The base calls `each` for one item after the other. Override this method instead of `each`
        where frames are cheaper together. Items of one source are in order; outputs are as in
        `each`. The state of a source is the one after its last item that does not wait. After an
        exception the items are tried again one by one, each with a write of its own; one that
        fails alone is set aside, as in `each`.
        """
        after, outputs = dict(states), list[Any]()
        waiting: set[str] = set()
        for item in batch:
            output: Any = WAITS
            if item.source not in waiting:
                output, state = self.each(item, after[item.source])
                if output is WAITS:
                    waiting.add(item.source)
                else:
                    after[item.source] = state
            outputs.append(output)
        return outputs, after

    def prepare(self, model: str, sources: Sequence[str], is_new: bool) -> None:
        """Get ready for a model that is to be chosen for these sources; an exception refuses it.

        is_new  no source had this model before, so it may be refused for what it is; else it served

        Thread: another one than that of `process`, which goes on meanwhile. Once all stages are
        ready, the context's `model` gives this model for these sources.
        """

    def end(self, source: str, end: End, state: S) -> tuple[Any, S]:  # noqa: ARG002
        """Return a last output for an epoch of a source that ended (None: none), and the state.

        WAITS instead of an output: this method is called again when answers came.
        """
        return None, state

    def away(self, source: str, end: End, state: S) -> tuple[Any, S]:  # noqa: ARG002
        """Return what is to be said while a camera is away (None: nothing), and the state.

        It is called again and again after `end`, ever more rarely, with end.away_s seconds since
        the camera's last frame: by these a stage may tell what time alone changes. WAITS as there.
        """
        return None, state

    def asking(self) -> Asking:
        """Return how often it may ask, for `framegate check`."""
        return Asking()

    def leaves_out(self, form: Form) -> str:  # noqa: ARG002
        """Return a line for `framegate check`: what it may leave out of pictures of this form.

        "" means nothing.
        """
        return ""

    def close(self) -> None:
        """Let go of what it holds; its worker ends."""
