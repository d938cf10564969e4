"""The memory of a source between two frames: known boxes, the gate's state and tracks.

It is live in the worker, and stored as bytes: in shared memory and in the state of the stage.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final, NamedTuple

import msgspec
import numpy as np

from framegate.models.boxes import (
    BoolArray,
    Boxes,
    DoubleArray,
    FloatArray,
    IndexArray,
    IntArray,
    check_length,
    empty,
    read_only,
    suppress,
    unchecked,
)
from framegate.models.gate.cells import Grid, grid_of
from framegate.models.gate.state import GateState, nbytes
from framegate.models.tracking.calm import CalmState, not_calmed
from framegate.models.tracking.track_state import TrackState, no_tracks
from framegate.pipeline.contracts.results import BeginReason, Origin
from framegate.pipeline.contracts.stage import Context, Item, PlanePort, PlaneRef
from framegate.stages.object_filters import Elsewhere

MAX_KNOWN: Final = 256  # boxes of a source; beyond that, those with the lowest scores are dropped
_ROOM: Final = 64 * 1024  # bytes for boxes, places and the smoothed scores of tracks

# Seconds for which changes of a new source may wait. None waits if a camera begins with a longer
# frame period: objects move too far from frame to frame, and looks at all frames cost little.
FIRST_PATIENCE_S: Final = 0.15
SAME_PLACE: Final = 0.8  # IoU from which a box counts as unmoved
_UNKNOWN_PERIOD_S: Final = 1 / 30  # the duration of a frame without a rising time stamp

# pts (NaN: none), three times, waited, patience, trust; then numbers of rows and of bytes
_HEAD: Final = struct.Struct("<ddddIddIIIII")
_ROW: Final = np.dtype(
    [
        ("xyxy", "<f4", 4),
        ("score", "<f4"),
        ("class_id", "<i4"),
        ("seen_s", "<f8"),
        ("since_s", "<f8"),
        ("id", "<i4"),
        ("mean", "<f4"),
    ]
)

_COLUMNS: Final = ("xyxy", "score", "class_id", "seen_s", "since_s", "id", "mean")


@dataclass(frozen=True, slots=True, eq=False)
class ShownBoxes:
    """The known boxes in the result of a frame, highest mean first.

    rows     intp (N,)  their rows among the known boxes
    boxes    with their means as scores
    ids      int32 (N,)  tracks, 0 without a track
    carried  the origins if no box moved: N times "carried"

    Raises ArrayMismatch.
    """

    rows: IndexArray
    boxes: Boxes
    ids: IntArray
    carried: tuple[Origin, ...]

    def __post_init__(self) -> None:
        n = len(self.boxes)
        object.__setattr__(self, "rows", read_only("rows", self.rows, np.intp, (n,)))
        object.__setattr__(self, "ids", read_only("ids", self.ids, np.int32, (n,)))
        check_length("carried", self.carried, n)


@dataclass(frozen=True, eq=False)
class KnownBoxes:
    """Boxes that stay valid until a look replaces them. Read-only arrays, one row for each box.

    boxes    current boxes in source pixels, with candidates that are not shown
    seen_s   float64 (N,)  time of the last look at each, on the source's clock
    since_s  float64 (N,)  time from which each has been detected in its place
    ids      int32   (N,)  tracks, 0 without a track
    means    float32 (N,)  smoothed score if the box is shown, else 0
    """

    boxes: Boxes
    seen_s: DoubleArray
    since_s: DoubleArray
    ids: IntArray
    means: FloatArray

    def __post_init__(self) -> None:
        n = len(self.boxes)
        object.__setattr__(self, "seen_s", read_only("seen_s", self.seen_s, np.float64, (n,)))
        object.__setattr__(self, "since_s", read_only("since_s", self.since_s, np.float64, (n,)))
        object.__setattr__(self, "ids", read_only("ids", self.ids, np.int32, (n,)))
        object.__setattr__(self, "means", read_only("means", self.means, np.float32, (n,)))

    @cached_property
    def shown(self) -> ShownBoxes:
        """Return the boxes in the result of a frame without a look.

        Boxes that moved may overlap now, so non-maximum suppression runs again.
        """
        boxes = self.boxes
        rows = np.flatnonzero(self.means)
        rows = rows[suppress(boxes.xyxy[rows], self.means[rows])]
        shown = Boxes(boxes.xyxy[rows], self.means[rows], boxes.class_ids[rows])
        origin: Origin = "carried"
        return ShownBoxes(rows, shown, self.ids[rows], (origin,) * len(rows))

    @cached_property
    def oldest_s(self) -> float:
        """Return the earliest `seen_s`; inf without boxes."""
        return float(self.seen_s.min(initial=np.inf))

    @cached_property
    def row_bytes(self) -> bytes:
        """Return all rows in the stored layout."""
        rows = np.empty(len(self.ids), _ROW)
        rows["xyxy"] = self.boxes.xyxy
        rows["score"] = self.boxes.scores
        rows["class_id"] = self.boxes.class_ids
        rows["seen_s"] = self.seen_s
        rows["since_s"] = self.since_s
        rows["id"] = self.ids
        rows["mean"] = self.means
        return rows.tobytes()

    def take(self, rows: IndexArray | BoolArray) -> KnownBoxes:
        """Return the rows that an index array or a Boolean mask selects, in its order."""
        return KnownBoxes(
            self.boxes.take(rows),
            self.seen_s[rows],
            self.since_s[rows],
            self.ids[rows],
            self.means[rows],
        )


NOTHING: Final = KnownBoxes(
    empty(),
    np.empty(0, np.float64),
    np.empty(0, np.float64),
    np.empty(0, np.int32),
    np.empty(0, np.float32),
)


@dataclass(frozen=True, eq=False)
class SourceMemory:
    """The state of a source after a frame, except its tracks. Immutable.

    pts       time stamp of the frame, seconds; None if unknown
    clock_s   media time since the start of the epoch; it always rises
    whole_s   time of the last look at the whole frame, on the source's clock
    look_s    time of the last look at any part
    waited    number of frames for which changes have waited
    patience_s  seconds for which changes may wait; see estimate.patience_after
    known     the known boxes
    calm      smoothed scores of the tracks
    cut       float32 (K, 4)  places where the border of a look cut a box; the next look is larger
    gate      the gate's state; None without a gate
    watched   bool (tile_rows, tile_columns)  tiles that had changed at the last look
    trust     0..1, how far looks at parts agree with looks at the whole frame
    elsewhere  tracks that may pass a place at which a filter drops objects
    """

    pts: float | None = None
    clock_s: float = 0.0
    whole_s: float = 0.0
    look_s: float = 0.0
    waited: int = 0
    patience_s: float = FIRST_PATIENCE_S
    known: KnownBoxes = NOTHING
    calm: CalmState = field(default_factory=not_calmed)
    cut: FloatArray = field(default_factory=lambda: np.empty((0, 4), np.float32))
    gate: GateState | None = None
    watched: BoolArray = field(default_factory=lambda: np.zeros((0, 0), np.bool_))
    trust: float = 0.75
    elsewhere: Elsewhere = field(default_factory=Elsewhere)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cut", read_only("cut", self.cut, np.float32, (None, 4)))

    def to_bytes(self) -> bytes:
        """Return the memory in a layout that is the same on all machines."""
        calm = self.calm.to_bytes()
        gate = b""
        if self.gate is not None:
            gate = self.gate.to_bytes()
        pts = math.nan
        if self.pts is not None:
            pts = self.pts
        times = pts, self.clock_s, self.whole_s, self.look_s
        elsewhere = self.elsewhere.to_bytes()
        counts = len(self.known.ids), len(self.cut)
        sizes = *counts, len(calm), len(elsewhere), len(gate)
        head = _HEAD.pack(*times, self.waited, self.patience_s, self.trust, *sizes)
        cut, watched = self._look_bytes
        return b"".join([head, self.known.row_bytes, cut, calm, elsewhere, gate, watched])

    @cached_property
    def _look_bytes(self) -> tuple[bytes, bytes]:
        """Return the bytes of `cut` and `watched`, which only a look changes."""
        return self.cut.astype("<f4").tobytes(), np.packbits(self.watched).tobytes()

    def held(
        self,
        pts: float | None,
        now_s: float,
        is_waiting: bool,
        known: KnownBoxes,
        calm: CalmState,
        gate: GateState | None,
    ) -> SourceMemory:
        """Return the memory after a frame without a look; the arguments are its new fields.

        is_waiting  a change waited in this frame
        """
        waited = 0
        if is_waiting:
            waited = self.waited + 1
        changed = {"pts": pts, "clock_s": now_s, "waited": waited}
        return unchecked(self, **changed, known=known, calm=calm, gate=gate)

    @staticmethod
    def from_bytes(data: bytes) -> SourceMemory:
        """Return the memory from the bytes of `to_bytes`. A plane's digest has verified them."""
        pts, clock_s, whole_s, look_s, *rest = _HEAD.unpack_from(data)
        waited, patience_s, trust, known_count, cut_count, *bytes_ = rest
        calm_size, elsewhere_size, gate_size = bytes_
        offset = _HEAD.size
        rows = np.frombuffer(data, _ROW, known_count, offset)
        offset += rows.nbytes
        cut = np.frombuffer(data, "<f4", 4 * cut_count, offset).reshape(cut_count, 4)
        offset += cut.nbytes
        xyxy, scores, class_ids, *more = (np.ascontiguousarray(rows[name]) for name in _COLUMNS)
        calm = CalmState.from_bytes(data[offset : offset + calm_size])
        offset += calm_size
        elsewhere = Elsewhere.from_bytes(data[offset : offset + elsewhere_size])
        offset += elsewhere_size
        if math.isnan(pts):
            pts = None
        memory = SourceMemory(
            pts=pts,
            clock_s=clock_s,
            whole_s=whole_s,
            look_s=look_s,
            waited=waited,
            patience_s=patience_s,
            known=KnownBoxes(Boxes(xyxy, scores, class_ids), *more),
            calm=calm,
            cut=cut,
            trust=trust,
            elsewhere=elsewhere,
        )
        if not gate_size:
            return memory
        gate = GateState.from_bytes(data[offset : offset + gate_size])
        bits = np.unpackbits(np.frombuffer(data, np.uint8, -1, offset + gate_size))
        tiles = gate.grid.tile_rows * gate.grid.tile_columns
        watched = bits[:tiles].astype(np.bool_).reshape(gate.grid.tiles)
        return replace(memory, gate=gate, watched=watched)


def memory_bytes(grid: Grid) -> int:
    """Return the maximum size in bytes of the memory of a source with this grid."""
    return nbytes(grid) + _ROOM


@dataclass(frozen=True, slots=True, eq=False)
class CurrentFrame:
    """A frame without its pixels, and the state of its source before it.

    memory, tracks  after the frame before
    size            (width, height) in pixels
    pts             time stamp, seconds; None if unknown
    key_frame       encoded without other frames, so compression may look like a change
    source_key      identifies the source in at most 64 bytes; spreads due times of sources
    begin_reason    the reason for an empty memory; unused otherwise
    """

    memory: SourceMemory
    tracks: TrackState
    size: tuple[int, int]
    pts: float | None
    key_frame: bool = False
    source_key: bytes = b""
    begin_reason: BeginReason = "first"

    @property
    def now_s(self) -> float:
        """Return the source's clock at this frame, in seconds.

        If the time stamp is missing or does not rise, as after a restart of the camera's clock,
        the frame lasts 1/30 s, so that ages continue to grow.
        """
        before, pts = self.memory.pts, self.pts
        if before is None or pts is None or pts <= before:
            return self.memory.clock_s + _UNKNOWN_PERIOD_S
        return self.memory.clock_s + pts - before


# -- The state of a source between two frames, in a worker's memory and in the store


class DetectState(msgspec.Struct, frozen=True, omit_defaults=True):
    """The stored state of detect.

    tracks  tracks of this epoch, as bytes of framegate.models.tracking.bytetrack
    memory  reference to the SourceMemory of this epoch in the stage's plane
    model   identity of the model; see model_pool.ServedModel
    labels  digest of the model's labels
    filters  digest of the object filters; "" without one
    owes_backdrop  the next decoded frame carries a backdrop
    """

    epoch: int = 0
    tracks: bytes = b""
    # The key carries the number of the memory's layout. A version with another layout reads
    # another key, so it loses the memory instead of misreading it.
    memory: PlaneRef | None = msgspec.field(default=None, name="memory4")
    model: str = ""
    labels: str = ""
    filters: str = ""
    owes_backdrop: bool = False


class Basis(NamedTuple):
    """The model and the filters that decide boxes: the memory of another basis is no reference.

    model    identity of the model that serves the source
    labels   digest of its labels
    filters  digest of the object filters; "" without one
    """

    model: str
    labels: str
    filters: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class LiveState:
    """The state from which the next frame starts.

    by            the model and the filters that decide the boxes
    begin_reason  the reason for an empty memory; unused otherwise
    """

    memory: SourceMemory
    tracks: TrackState
    by: Basis
    begin_reason: BeginReason = "first"

    def after(self, memory: SourceMemory, tracks: TrackState) -> LiveState:
        """Return the state after a frame."""
        return LiveState(memory, tracks, self.by, self.begin_reason)


class StateKeeper:
    """The states of a worker's sources: live in this process, and stored.

    The memory of a source is stored in shared memory, the rest in its DetectState, which the
    engine stores with the output. Thread rule: one thread.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._live: dict[str, tuple[DetectState, LiveState]] = {}

    def of(self, item: Item, state: DetectState, now: LiveState | None, by: Basis) -> LiveState:
        """Return the state before the first frame of an epoch in a batch.

        by     the model and the filters that decide the source's boxes from this frame on
        state  the stored state
        now    the state after the source's frame before, if that frame is in the same batch and of
               another epoch; else None

        Into another epoch, only the count of track ids continues. With another model, tracks
        continue if it has the same labels; the memory does not, because the boxes of one model are
        no reference for another. Other object filters count as another model, so that they apply to
        the whole picture from their first frame on.
        """
        if now is not None:
            return LiveState(SourceMemory(), _restarted(now.tracks), by)
        is_same_epoch = state.epoch == item.position.epoch
        is_same_basis = (state.model, state.filters) == (by.model, by.filters)
        if is_same_epoch and is_same_basis:
            stored, live = self._live.get(item.source, (None, None))
            if live is not None and (stored is state or stored == state):
                return live
        tracks = no_tracks()
        if state.tracks:
            tracks = TrackState.from_bytes(state.tracks)
        if not is_same_epoch:
            return LiveState(SourceMemory(), _restarted(tracks), by)
        if not is_same_basis:
            stored_by = Basis(state.model, state.labels or by.labels, state.filters)
            return self.swapped(LiveState(SourceMemory(), tracks, stored_by), by)
        data: bytes | None = None
        if state.memory is not None:
            data = self._plane(item).read(state.memory)
        if data is None:
            return LiveState(SourceMemory(), tracks, by, begin_reason="reanchored")
        return LiveState(SourceMemory.from_bytes(data), tracks, by)

    def kept(
        self, item: Item, live: LiveState, state: DetectState, owes_backdrop: bool
    ) -> DetectState:
        """Write the memory to shared memory; return the new state for the engine to store.

        state          the state stored before
        owes_backdrop  as in DetectState
        """
        memory = self._plane(item).write(item.position, live.memory.to_bytes(), state.memory)
        tracks = live.tracks.to_bytes()
        new = DetectState(item.position.epoch, tracks, memory, *live.by, owes_backdrop)
        self._live[item.source] = new, live
        return new

    @staticmethod
    def swapped(now: LiveState, by: Basis) -> LiveState:
        """Return the state before the first frame of another basis, in the same epoch."""
        tracks = now.tracks
        if now.by.labels != by.labels:
            tracks = _restarted(tracks)
        return LiveState(SourceMemory(), tracks, by, begin_reason="swapped")

    def forget(self, source: str) -> None:
        """Drop the live state of a source. Its stored state stays."""
        self._live.pop(source, None)

    def _plane(self, item: Item) -> PlanePort:
        form = item.record.form
        return self._context.plane(item.source, memory_bytes(grid_of(form.width, form.height)))


def _restarted(tracks: TrackState) -> TrackState:
    """Return no tracks, with the next id of `tracks`."""
    return replace(no_tracks(), next_id=tracks.next_id)
