"""What a stage is, for ours and a user's alike: one class with one method.

A stage gets records and gives outputs. It never touches the store, the environment or a clock
of its own, never sleeps and never retries: the runner does. It keeps nothing between calls that
matters to its answers: that is its state, which the runner stores in the same write as the
outputs, so that a worker killed between any two lines goes on exactly where the store stands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar, Final, Generic, NamedTuple, Protocol, TypeVar

import msgspec

from framegate.pipeline import records
from framegate.pipeline.counts import AskCounts, CacheCounts
from framegate.pipeline.records import End, Position, Record
from framegate.pipeline.source import Form

T = TypeVar("T")
S = TypeVar("S")


class Item(NamedTuple):
    """One frame of one source, as the stage before left it."""

    source: str
    position: Position
    record: Record

    def said(self, stage: str, kind: type[T]) -> T:
        """What `stage` said about this frame, as `kind`. KeyError if it said nothing."""
        return records.decode(self.record.said[stage], kind)


class PlaneRef(msgspec.Struct, frozen=True):
    """Names one content of a plane: written for the frame at `position`, with this digest."""

    position: Position
    nbytes: int
    digest: bytes


class RingRef(msgspec.Struct, frozen=True, array_like=True):
    """Names a row, written for the frame at `position`, and with it the rows before.

    row     counts the rows of a source, over all its beginnings
    held    rows that the digest certifies, this one included: 1 where a window began anew
    digest  of this row and, through it, of those before
    """

    position: Position
    row: int
    held: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class MemoLimits:
    """What a group keeps in the store: so many bytes, and each value for so long."""

    ttl_s: float = 3600.0
    most_bytes: int = 16 << 20


class PlanePort(Protocol):
    """A stage's large state of one source: written whole, found again by a worker's successor."""

    @property
    def nbytes(self) -> int:
        """Most bytes of a content."""

    def write(self, position: Position, data: bytes, committed: PlaneRef | None) -> PlaneRef:
        """Write a new content beside the committed one; it counts once the hop took the reference.

        ValueError if `data` is larger than the plane.
        """

    def read(self, reference: PlaneRef) -> bytes | None:
        """What the reference names; None if it is not there, whole."""


class RingPort(Protocol):
    """The last rows of a stage about one source, found again by a worker's successor."""

    def write(
        self, position: Position, data: bytes, after: RingRef | None, anew: bool = False
    ) -> RingRef:
        """Append a row after the one that `after` names; it counts once the hop took the reference.

        anew  nothing before it belongs to it any more. ValueError if `data` is larger than a row.
        """

    def read(self, reference: RingRef) -> tuple[bytes, ...] | None:
        """The rows that `reference` certifies, oldest first; None if one is not there whole."""


class MemoPort(Protocol):
    """What a group of sources remembers: it may be lost at any time, and nothing raises."""

    def find(self, key: bytes) -> bytes | None:
        """The value that was kept under a key, a digest; None: compute it."""

    def keep(self, key: bytes, value: bytes) -> None:
        """Remember a value; whoever finds it gets the same bytes, or none."""


class AskPort(Protocol):
    """A stage's questions to a heavier model, as far as the engine has to do with them."""

    counts: AskCounts

    def fileno(self) -> int:
        """Readable once answers came."""

    def hear(self) -> None:
        """Take what came; `fileno` is not readable until more comes."""

    def due_in(self) -> float | None:
        """Seconds until the first question gets no answer any more; None: there is none."""

    def forget_source(self, source: str) -> None:
        """Nobody waits for a source's answers any more."""

    def absent(self) -> str | None:
        """Why nobody would answer; None if somebody would."""


@dataclass(frozen=True)
class Context:
    """What a stage may use.

    pixels  the frame's bytes (see source.Frame), read-only, valid inside the `with`;
            FrameLost on entry or exit if they are not there or were replaced meanwhile
    now     UNIX seconds
    folder  the run's data folder, for what must not change while the run lasts
    before  the stage whose output this one reads
    plane   (source, bytes) -> the stage's state plane, for state too large for a hop
    live    whether a source is a camera, whose frames nobody waits for
    past    a source's last epoch before this run had it; unlike the first one of the run, which a
            kill may skip, it stays what it is
    ring    (source, rows, bytes of a row) -> the stage's state ring, for the last rows of it
    memo    (group of sources, limits) -> what they remember, for what may be lost at any time
    model   the model that was chosen for a source while the run went on; empty: none was
    store   URL of the run's store, for what others reach by way of it; empty where there is none
    """

    pixels: Callable[[Item], AbstractContextManager[memoryview]]
    now: Callable[[], float]
    folder: Path
    before: str
    plane: Callable[[str, int], PlanePort]
    ring: Callable[[str, int, int], RingPort]
    memo: Callable[[str, MemoLimits], MemoPort]
    live: Callable[[str], bool] = lambda source: False  # noqa: ARG005
    past: Callable[[str], int] = lambda source: 0  # noqa: ARG005
    model: Callable[[str], str] = lambda source: ""  # noqa: ARG005
    store: str = field(default="", repr=False)


class Waits(Enum):
    """Says of a frame: not yet, its answer has not come."""

    WAITS = "waits"


WAITS: Final = Waits.WAITS


@dataclass(frozen=True)
class NoOptions:
    """A stage without options."""


class NoState(msgspec.Struct, frozen=True):
    """A stage without state."""


class Asking(NamedTuple):
    """How often a stage may ask a heavier model.

    per_s   looks a second of each source, for doubt; all_per_s: of all cameras together
    share   0..1, of all frames, besides
    """

    per_s: float = 0.0
    all_per_s: float = 0.0
    share: float = 0.0


class Stage(Generic[S]):
    """Base of all stages: subclass it, set what differs, write `process`.

    Options     frozen dataclass of the keys that its table in pipeline.toml may have
    State       msgspec.Struct, small (2 KB a frame on average); State() is its beginning
    pixels      frames whose pixels it reads at once: 0, or 1 for the current one
    batch       most records it wants in one call; fewer means answers come sooner
    takes_failed  whether it wants records on which a stage before failed
    publishes   its outputs are Results, written to the published stream
    keeps       outputs of a source that stay where no stage reads them; None: as many as results
    asks        what it asks of a heavier model, and waits for; set where it opens it
    cache       what came of its look-ups in memos; set where it looks answers up
    """

    Options: ClassVar[type] = NoOptions
    State: ClassVar[type] = NoState
    pixels: ClassVar[int] = 0
    batch: ClassVar[int] = 64
    takes_failed: ClassVar[bool] = False
    publishes: ClassVar[bool] = False
    keeps: ClassVar[int | None] = None
    asks: AskPort | None = None
    cache: CacheCounts | None = None

    def __init__(self, options: Any, context: Context) -> None:
        """Get ready (load models, warm up); raising here refuses the start."""
        self.options = options
        self.context = context

    def process(
        self,
        batch: Sequence[Item],  # noqa: ARG002
        states: Mapping[str, S],  # noqa: ARG002
    ) -> tuple[Sequence[Any], Mapping[str, S]]:
        """Answer a batch: an output for each item, and the new state of each source in it.

        Items of one source are in order. An output is anything msgpack can hold, or None: nothing
        to say, and on the main path nothing to add to what stages before said. WAITS: an answer to
        what it asks has not come; those after it in its source wait, too, and all of them are given
        again when there are answers. The state is that after the last one that does not wait. An
        exception means that the batch is tried again item by item, each with a hop of its own; an
        item that fails alone is set aside, and on the main path published as failed.
        """
        raise TypeError(f"{type(self).__name__} has no process method")

    def prepare(self, model: str, sources: Sequence[str], is_new: bool) -> None:
        """Get ready for a model that is to be chosen for sources; raising refuses it.

        is_new: none of them had it before, so it may be refused for what it is; else it served

        On a thread beside `process`, which goes on meanwhile. Once all stages are ready, the
        context's `model` says so of these sources.
        """

    def end(self, source: str, end: End, state: S) -> tuple[Any, S]:  # noqa: ARG002
        """An epoch of a source ended: what is left to say (None: nothing), and the new state.

        WAITS instead of words: it is called again when there are answers.
        """
        return None, state

    def asking(self) -> Asking:
        """How often it may ask, for `check`."""
        return Asking()

    def leaves_out(self, form: Form) -> str:  # noqa: ARG002
        """What it may leave out of pictures of this form, in a line for `check`; "": nothing."""
        return ""

    def close(self) -> None:
        """Let go of what it holds; the worker ends."""
