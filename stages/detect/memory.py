"""What detect knows of a source before a frame: its memory of the frames before, as bytes too."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final

import numpy as np

from framegate.models.boxes import (
    BoolArray,
    Boxes,
    DoubleArray,
    FloatArray,
    IndexArray,
    IntArray,
    empty,
    read_only,
    suppress,
    unchecked,
)
from framegate.models.gate.cells import Grid
from framegate.models.gate.state import GateState, nbytes
from framegate.models.tracking.bytetrack import TrackState
from framegate.models.tracking.calm import CalmState, not_calmed
from framegate.pipeline.contracts.results import BeginReason, Origin

MOST_KNOWN: Final = 256  # boxes of a source; more are forgotten, those with the least scores
_ROOM: Final = 64 * 1024  # bytes for boxes, cuts and the calm rule's tracks

SAME_PLACE: Final = 0.8  # IoU from which on a box counts as unmoved
_UNKNOWN_PERIOD_S: Final = 1 / 30  # of a frame whose time stamps do not tell

# pts (NaN: none), times, waited, patience, trust, rows and bytes
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
    """What of the known a frame's result has, highest mean first.

    rows  of the known; boxes  with their means as scores; ids  int32 (N,) tracks, 0 without one
    carried  the origin of each where none moved
    """

    rows: IndexArray
    boxes: Boxes
    ids: IntArray
    carried: tuple[Origin, ...]


@dataclass(frozen=True, eq=False)
class KnownBoxes:
    """Boxes that hold until a look says otherwise; read-only arrays, one row a box.

    boxes    in source pixels, where they are now; with candidates that are not shown
    seen_s   float64 (N,)  when the network last saw each, on the source's clock
    since_s  float64 (N,)  since when it has found each where it is
    ids      int32   (N,)  tracks, 0 without one
    means    float32 (N,)  score in the result of the frame that showed it, 0 where none does
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
        """What the result of a frame has in which nobody looked.

        Boxes that moved on may have come to lie on each other; then the surest stands for them.
        """
        rows, boxes = np.flatnonzero(self.means), self.boxes
        rows = rows[suppress(boxes.xyxy[rows], self.means[rows])]
        shown = Boxes(boxes.xyxy[rows], self.means[rows], boxes.class_ids[rows])
        origin: Origin = "carried"
        return ShownBoxes(rows, shown, self.ids[rows], (origin,) * len(rows))

    @cached_property
    def oldest_s(self) -> float:
        """When the network saw that which it has not seen for longest; inf where nothing is."""
        return float(self.seen_s.min(initial=np.inf))

    @cached_property
    def row_bytes(self) -> bytes:
        """All rows as they are stored."""
        rows = np.empty(len(self.ids), _ROW)
        boxes = self.boxes
        rows["xyxy"], rows["score"], rows["class_id"] = boxes.xyxy, boxes.scores, boxes.class_ids
        rows["seen_s"], rows["since_s"] = self.seen_s, self.since_s
        rows["id"], rows["mean"] = self.ids, self.means
        return rows.tobytes()

    def take(self, rows: IndexArray | BoolArray) -> KnownBoxes:
        """Return the rows of an index array or a Boolean mask, in that order."""
        boxes, seen_s, since_s = self.boxes.take(rows), self.seen_s[rows], self.since_s[rows]
        return KnownBoxes(boxes, seen_s, since_s, self.ids[rows], self.means[rows])


NOTHING: Final = KnownBoxes(
    empty(),
    np.empty(0, np.float64),
    np.empty(0, np.float64),
    np.empty(0, np.int32),
    np.empty(0, np.float32),
)


@dataclass(frozen=True, eq=False)
class SourceMemory:
    """Everything but the tracks; the next frame makes another one of it.

    pts       time stamp of the frame before, seconds; None where unknown
    clock_s   media time since the epoch began; it neither stands still nor goes back
    whole_s   when the whole frame was last looked at
    look_s    when anything was
    waited    frames for which changes have waited
    patience  frames for which they may, as well as moved boxes of late were found where they were
    known     boxes
    calm      means of the tracks' scores
    cut       float32 (K, 4)  places where a look's border cut a box: the next one is larger
    gate      what was seen where; None where no gate looks
    watched   bool (tile_rows, tile_columns)  what had changed when it was last looked at
    trust     0..1, how far parts of late showed what the whole frame shows
    doubted   float32 (K, 4)  places where the last part may not have: the whole is looked at next
    """

    pts: float | None = None
    clock_s: float = 0.0
    whole_s: float = 0.0
    look_s: float = 0.0
    waited: int = 0
    patience: float = 3.0
    known: KnownBoxes = NOTHING
    calm: CalmState = field(default_factory=not_calmed)
    cut: FloatArray = field(default_factory=lambda: np.empty((0, 4), np.float32))
    gate: GateState | None = None
    watched: BoolArray = field(default_factory=lambda: np.zeros((0, 0), np.bool_))
    trust: float = 0.75
    doubted: FloatArray = field(default_factory=lambda: np.empty((0, 4), np.float32))

    def __post_init__(self) -> None:
        for name in ("cut", "doubted"):
            places = read_only(name, getattr(self, name), np.float32, (None, 4))
            object.__setattr__(self, name, places)

    def to_bytes(self) -> bytes:
        """Return all of it, the same on every machine."""
        calm = self.calm.to_bytes()
        gate = b"" if self.gate is None else self.gate.to_bytes()
        pts = math.nan if self.pts is None else self.pts
        times = pts, self.clock_s, self.whole_s, self.look_s
        sizes = len(self.known.ids), len(self.cut), len(self.doubted), len(calm), len(gate)
        head = _HEAD.pack(*times, self.waited, self.patience, self.trust, *sizes)
        places, watched = self._look_bytes
        return b"".join([head, self.known.row_bytes, places, calm, gate, watched])

    @cached_property
    def _look_bytes(self) -> tuple[bytes, bytes]:
        """What only a look changes, as bytes: places, and the tiles that are watched."""
        places = np.concatenate([self.cut, self.doubted]).astype("<f4").tobytes()
        return places, np.packbits(self.watched).tobytes()

    def held(
        self,
        pts: float | None,
        now_s: float,
        is_waiting: bool,
        known: KnownBoxes,
        calm: CalmState,
        gate: GateState | None,
    ) -> SourceMemory:
        """Return the memory after a frame in which nobody looked; as the fields have them."""
        waited = self.waited + 1 if is_waiting else 0
        changed = {"pts": pts, "clock_s": now_s, "waited": waited}
        return unchecked(self, **changed, known=known, calm=calm, gate=gate)

    @staticmethod
    def from_bytes(data: bytes) -> SourceMemory:
        """Return what `to_bytes` wrote; a plane's digest has vouched for the bytes."""
        pts, clock_s, whole_s, look_s, *rest = _HEAD.unpack_from(data)
        waited, patience, trust, n, k, m, calm, gate = rest
        at = _HEAD.size
        rows = np.frombuffer(data, _ROW, n, at)
        at += rows.nbytes
        places = np.frombuffer(data, "<f4", 4 * (k + m), at).reshape(k + m, 4)
        at += places.nbytes
        xyxy, scores, class_ids, *more = (np.ascontiguousarray(rows[name]) for name in _COLUMNS)
        known = KnownBoxes(Boxes(xyxy, scores, class_ids), *more)
        calm_state = CalmState.from_bytes(data[at : at + calm])
        at += calm
        before = None if math.isnan(pts) else pts
        times = before, clock_s, whole_s, look_s
        memory = SourceMemory(*times, waited, known=known, calm=calm_state, cut=places[:k])
        memory = replace(memory, trust=trust, doubted=places[k:], patience=patience)
        if not gate:
            return memory
        seen = GateState.from_bytes(data[at : at + gate])
        bits = np.unpackbits(np.frombuffer(data, np.uint8, -1, at + gate))
        tiles = seen.grid.tile_rows * seen.grid.tile_columns
        watched = bits[:tiles].astype(np.bool_).reshape(seen.grid.tiles)
        return replace(memory, gate=seen, watched=watched)


def memory_bytes(grid: Grid) -> int:
    """Return most bytes that the memory of a source with this grid takes."""
    return nbytes(grid) + _ROOM


@dataclass(frozen=True, slots=True, eq=False)
class CurrentFrame:
    """The frame in hand, without its pixels, and what is known of the frames before it.

    memory, tracks  after the frame before
    size            (width, height)
    pts             time stamp, seconds; None where unknown
    key_frame       it was encoded without others: compression may show as a change
    source_key      names its source in at most 64 bytes, for what is to be spread over time
    anew            why nothing is remembered of the frames before it, where that is so
    """

    memory: SourceMemory
    tracks: TrackState
    size: tuple[int, int]
    pts: float | None
    key_frame: bool = False
    source_key: bytes = b""
    anew: BeginReason = "first"

    @property
    def now_s(self) -> float:
        """The source's clock at this frame, seconds.

        Time stamps may be missing or not rise, as where a camera starts its own anew: then a frame
        lasts 1/30 s, so that no age stands still.
        """
        before, pts = self.memory.pts, self.pts
        if before is None or pts is None or pts <= before:
            return self.memory.clock_s + _UNKNOWN_PERIOD_S
        return self.memory.clock_s + pts - before
