"""Contract of a stage, for shipped stages and those of users: one class, one method.

A stage gets frames with the outputs of the stages before it, and returns outputs. It does not use
the store, the environment or a clock of its own, and does not sleep or retry: the engine does.
Between calls it keeps nothing that changes its outputs, except its state. The engine stores state
and outputs in one write, so a worker that is killed at any moment continues exactly there.
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
from framegate.pipeline.contracts.object_filters import ObjectFilter
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
    """One frame of one source, with the outputs of earlier stages.

    source    name of the source
    position  epoch and number of the frame; grows from frame to frame
    record    time stamps, size (`record.form`) and the outputs of earlier stages
    """

    source: str
    position: Position
    record: Record

    def output_of(self, stage: str, kind: type[T]) -> T:
        """Return the output of the stage named `stage` for this frame, read as `kind`.

        KeyError if that stage had no output; msgspec.ValidationError if the output is no `kind`.
        """
        return records.decode(self.record.said[stage], kind)


class PlaneRef(msgspec.Struct, frozen=True):
    """Reference to the large state that a stage wrote for the frame at `position`.

    Large state of one source is one block of bytes in shared memory, a plane (`Context.plane`). The
    stage keeps this reference in its small state, which is stored with each frame.
    """

    position: Position
    nbytes: int
    digest: bytes


class RingRef(msgspec.Struct, frozen=True, array_like=True):
    """Reference to the rows that a stage wrote for the frame at `position` and the frames before.

    A ring keeps the last rows of one source in shared memory, one per frame (`Context.ring`). The
    stage keeps this reference in its small state, which is stored with each frame.

    row     number of the row, counted from the first row of the source, across restarts
    held    number of rows that the digest covers, including this one; 1 at the start of a window
    digest  digest of this row and, through the previous digest, of all `held` rows
    """

    position: Position
    row: int
    held: int
    digest: bytes


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
        """Return the content that `reference` names; None if it is missing or incomplete."""


class RingPort(Protocol):
    """The last rows that a stage wrote for one source, one per frame, in shared memory.

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
        """Return the rows that `reference` covers, oldest first; None if one is incomplete."""


class SoundPort(Protocol):
    """The last seconds of a source's sound, in shared memory (`source.SOUND_KEPT_S`)."""

    def read(self, position: Position) -> SoundBlock:
        """Return the block at <epoch>-<number>; FrameLost if it is missing or was replaced."""


class AskPort(Protocol):
    """A stage's queries to a heavier model.

    The engine sleeps until `fileno` is readable or `due_in` has passed, calls `hear`, and gives
    the stage again the frames that waited. Thread: that of `process`.

    counts  outcomes of the queries; the stage itself writes `left`
    """

    counts: AskCounts

    # The stage calls these.

    def ask(self, question: Query) -> None:
        """Send a query; sending it again is harmless.

        A query without a due time is ignored if there is no room.
        """

    def knows(self, question: QueryId) -> bool:
        """Return whether this query was sent and has not been forgotten since."""

    def answer(self, question: QueryId) -> Reply | None:
        """Return the answer; None while one may come; Unanswered (late) after the due time."""

    def has_room(self, n_bytes: int, urgent: bool = True) -> bool:
        """Return whether a query with `n_bytes` bytes of pixels would be accepted now.

        Urgent queries and others each have half of the room.
        """

    def forget(self, question: QueryId) -> None:
        """Drop a query whose answer the stage no longer needs."""

    def close(self) -> None:
        """End all pending queries."""

    # The engine calls these.

    def fileno(self) -> int:
        """Return a descriptor that becomes readable when answers arrive."""

    def hear(self) -> None:
        """Read the answers that arrived; `fileno` is then unreadable until more arrive."""

    def due_in(self) -> float | None:
        """Return seconds until the oldest query counts as unanswered; None if none is pending."""

    def forget_source(self, source: str) -> None:
        """Drop the queries of a source that this worker no longer serves."""

    def absent(self) -> str | None:
        """Return why no query would be answered now; None if queries would be answered."""


def _no_sound(source: str, block: int) -> SoundPort:
    raise FrameLost(f"source {source}: no sound in blocks of {block} is kept", final=True)


def _no_packets(item: Item) -> bytes:
    raise FrameLost(f"source {item.source}: no packets are kept", final=True)


NO_FILTERS: Final[Mapping[str, ObjectFilter]] = {}


@dataclass(frozen=True)
class Context:
    """The services that a stage may use.

    pixels  (item) returns a `with` block for the frame's bytes, read-only and valid inside the
            block: planar YUV 4:2:0, that is Y (height x width), U, V (each half the height and
            width, rounded up), uint8, of the size in `item.record.form`. FrameLost on entry or exit
            if the pixels are missing or were replaced meanwhile. Needs `pixels = 1` in the stage
    now     returns UNIX seconds
    folder  the run's data folder, for files that must not change during the run
    before  name of the stage whose outputs this one reads
    plane   (source, bytes) returns a block of bytes in shared memory, for state above 2 KB
    ring    (source, rows, bytes of a row) returns the last rows that the stage wrote, one for each
            frame, in shared memory
    asks    (place, seconds) opens queries to the larger model at that place; a query without a due
            time is repeated for that many seconds while the place does not answer
    user_cache  folder of the user, for measurements that are made once per machine
    live    (source) returns whether the source is a camera, whose frames do not wait
    past    (source) returns the last epoch of the source before this run; a restart of the worker
            does not change it
    model   (source) returns the model that was chosen during the run; "" if there is none
    filters (source) returns the object filters of the source, by name; the same mapping until they
            change
    options  returns the options that replace those of the start, as plain data; None: none do. The
            same mapping until they change
    sound   (source, samples of a block) returns the sound of the source; `record.sound` numbers its
            blocks. FrameLost if none is kept
    undecoded_pixels  (item) returns the bytes that `pixels` would give, with masks, of a frame that
            was not decoded. FrameLost if its packets are missing
    wake    (source) makes a camera that is decoded lazily decode all frames for some seconds
    """

    pixels: Callable[[Item], AbstractContextManager[memoryview]]
    now: Callable[[], float]
    folder: Path
    before: str
    plane: Callable[[str, int], PlanePort]
    ring: Callable[[str, int, int], RingPort]
    asks: Callable[[PlaceSpec, float], AskPort]
    user_cache: Path
    live: Callable[[str], bool] = lambda source: False  # noqa: ARG005
    past: Callable[[str], int] = lambda source: 0  # noqa: ARG005
    model: Callable[[str], str] = lambda source: ""  # noqa: ARG005
    filters: Callable[[str], Mapping[str, ObjectFilter]] = lambda source: NO_FILTERS  # noqa: ARG005
    options: Callable[[], Mapping[str, Any] | None] = lambda: None
    sound: Callable[[str, int], SoundPort] = _no_sound
    undecoded_pixels: Callable[[Item], bytes] = _no_packets
    wake: Callable[[str], None] = lambda source: None  # noqa: ARG005


class Waits(Enum):
    """The value that a stage returns while the answer to its query about a frame is missing."""

    WAITS = "waits"


WAITS: Final = Waits.WAITS
"""Returned instead of an output while the answer to a query about this frame is missing."""


@dataclass(frozen=True)
class NoOptions:
    """A stage without options."""


class NoState(msgspec.Struct, frozen=True):
    """A stage without state."""


class Asking(NamedTuple):
    """The highest rates at which a stage queries a heavier model.

    per_s      queries per second for each source, for doubtful objects
    all_per_s  queries per second for all cameras together, for doubtful objects
    share      share of all frames, 0 to 1, that are sent for other reasons
    """

    per_s: float = 0.0
    all_per_s: float = 0.0
    share: float = 0.0


class Stage(Generic[S]):
    """Base class of all stages. Subclass it, set attributes, and write `each` or `process`.

        class People(Stage[Seen]):
            State = Seen

            def each(self, item, state):
                result = item.output_of(self.context.before, Result)
                return {"people": len(result.objects)}, state

    Options       frozen dataclass with the keys of the stage's table in pipeline.toml
    State         msgspec.Struct, at most 2 KB per frame on average; State() is the initial state
    pixels        1 if the stage reads pixels of its frames, else 0
    batch         maximum number of frames per call of `process`; fewer frames give outputs sooner
    takes_failed  whether it also gets frames on which an earlier stage failed
    takes_undecoded  whether a stage with `pixels = 1` also gets frames that were not decoded, which
                  have no pixels; otherwise it has no output for them. Stages that read no pixels
                  get all frames
    publishes     whether its outputs are Results, for the published stream
    uses_models   whether `models use` changes its model; `run --detector`, `--classes` and
                  `--min-score` then set its options of these names
    takes_classes  whether `run --classes` sets its option `classes`, although it uses no such
                   models
    promises      whether its table `promise`, if it has one, makes certificates
    followed      on the main path: whether its stream is written even if no stage of another
                  process reads it, because programs may follow it
    keeps         outputs per source that stay in the store if no stage reads them; None: the same
                  number as of results
    asks          its queries to a heavier model; a stage with queries sets it at the start, from
                  the context
    cache         counters of its look-ups in caches; a stage with caches sets it at the start
    footage       counters of the frames that it keeps for training; a stage that keeps frames sets
                  it at the start

    Thread: `each`, `process` and `end` are called in one thread, never at the same time.
    """

    Options: ClassVar[type] = NoOptions
    State: ClassVar[type] = NoState
    pixels: ClassVar[int] = 0
    batch: int = 64
    takes_failed: ClassVar[bool] = False
    takes_undecoded: ClassVar[bool] = False
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
        """Prepare the stage (load models, warm up). An exception refuses the start of the run."""
        self.options = options
        self.context = context

    def each(self, item: Item, state: S) -> tuple[Any, S]:  # noqa: ARG002
        """Return the output for one frame, and the state of its source after that frame.

        A stage without state returns the state that it got. An output is any value that msgpack can
        encode, or None for no output; on the main path, the frame continues without one. Return
        WAITS if the answer to a query is missing: the frame, and those after it in its source,
        are given again when answers arrive, with the state before. An exception turns this frame
        into a dead letter; on the main path, the frame is published as failed.
        """
        raise TypeError(f"{type(self).__name__} has neither a method each nor process")

    def process(
        self, batch: Sequence[Item], states: Mapping[str, S]
    ) -> tuple[Sequence[Any], Mapping[str, S]]:
        """Return an output for each item of a batch, and the state of each source after it.

        By default, it calls `each` for one item after the other. Override it instead of `each` if a
        batch is cheaper. Items of one source are in order; outputs are as in `each`. The state of a
        source is the one after its last item that does not wait. After an exception, the items are
        tried again one by one, each with its own write; an item that fails alone is handled as in
        `each`.
        """
        after = dict(states)
        outputs: list[Any] = []
        # After a frame that waits, the later frames of its source wait as well, so that the frames
        # of a source stay in order.
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
        """Prepare for a model that will be chosen for these sources; an exception refuses it.

        is_new  whether the model may be refused because no source has used it before

        Thread: not that of `process`, which continues meanwhile. Once all stages are ready, the
        context's `model` returns this model for these sources.
        """

    def end(self, source: str, end: End, state: S) -> tuple[Any, S]:  # noqa: ARG002
        """Return the last output for an epoch that ended (None: no output), and the state.

        WAITS instead of an output: this method is called again when answers arrive.
        """
        return None, state

    def away(self, source: str, end: End, state: S) -> tuple[Any, S]:  # noqa: ARG002
        """Return an output while a camera is away (None: no output), and the state.

        It is called after `end`, at growing intervals, with end.away_s seconds since the camera's
        last frame, so that a stage can react to time alone. WAITS as in `end`.
        """
        return None, state

    def asking(self) -> Asking:
        """Return how often the stage may query a heavier model, for `framegate check`."""
        return Asking()

    def leaves_out(self, form: Form) -> str:  # noqa: ARG002
        """Return a line for `framegate check` about the parts of pictures that the stage may skip.

        "" if it skips nothing in pictures of this form.
        """
        return ""

    def close(self) -> None:
        """Release all resources before the worker ends."""


def check_mapping(states: object) -> None:
    """Raise TypeError if a stage returned its states in anything but a mapping."""
    if not isinstance(states, Mapping):
        raise TypeError(f"the states are {states!r:.80}: they must be a dict by source")


def check_states(kind: type, states: Mapping[str, Any]) -> None:
    """Raise TypeError if a stage returned a state, by source, that is not of its class `State`.

    Such a state would be another type after a restart, when it is read from the store.
    """
    check_mapping(states)
    for source, state in states.items():
        if not isinstance(state, kind):
            raise TypeError(
                f"the state of source {source} is {state!r:.80}: it must be a {kind.__name__}, "
                "the State of the stage"
            )
