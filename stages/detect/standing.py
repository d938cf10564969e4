"""Where detect stands with a source between two frames, and how that outlives a worker."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import msgspec

from framegate.models.gate.cells import grid_of
from framegate.models.tracking.bytetrack import TrackState, no_tracks
from framegate.models.window.head import WindowHead
from framegate.models.window.rows import ROWS, FrameRow, WindowRows, row_bytes
from framegate.pipeline.records import BeginReason, Position
from framegate.pipeline.stage import Context, Item, PlanePort, PlaneRef, RingPort, RingRef
from framegate.stages.detect.belief import Belief
from framegate.stages.detect.memory import Memory, memory_bytes
from framegate.stages.detect.serving import Serving


class DetectState(msgspec.Struct, frozen=True):
    """State of detect.

    tracks  of this epoch, as bytes of framegate.models.tracking.bytetrack
    model   identity of what looked; labels  digest of its labels
    memory  names what else is remembered of the epoch, in the stage's state plane
    window  names the rows that are kept of its window, in the stage's state ring
    """

    epoch: int = 0
    tracks: bytes = b""
    # The keys have the number of the layout of the bytes that they name: what lies there in another
    # one is not named, so what an older Framegate remembers is lost, not misread.
    memory: PlaneRef | None = msgspec.field(default=None, name="memory2")
    window: RingRef | None = msgspec.field(default=None, name="window2")
    model: str = ""
    labels: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Standing:
    """What the next frame starts from.

    anew    why its memory is empty, where it is
    begins  its window begins anew
    unkept  rows of the window that are not in the ring yet
    """

    memory: Memory
    tracks: TrackState
    window: WindowRows = field(default_factory=WindowRows)
    anew: BeginReason = "first"
    begins: bool = True
    unkept: tuple[FrameRow, ...] = ()

    def after(self, belief: Belief) -> Standing:
        """Where it stands after a frame."""
        now = replace(self, memory=belief.memory, tracks=belief.tracks)
        step = belief.window
        if step is None:
            return now
        new = () if step.row is None else (step.row,)
        return replace(now, window=step.window, unkept=(*self.unkept, *new))


class Standings:
    """Standings of a worker's sources: in its memory, in shared memory, in the hop. One thread."""

    def __init__(self, context: Context, head: WindowHead | None) -> None:
        self._context, self._head = context, head
        self._known: dict[str, tuple[DetectState, Standing]] = {}

    def of(
        self, item: Item, state: DetectState, now: Standing | None, serving: Serving
    ) -> Standing:
        """Before a frame: `now` if it was reached in this batch, else what the state names.

        Nothing but the count of tracks goes on into another epoch. To another model tracks go on,
        unless its labels are others: what one saw is no reference for the other.
        """
        if now is not None or state.epoch != item.position.epoch:
            tracks = now.tracks if now is not None else _tracks(state)
            return Standing(Memory(), replace(no_tracks(), next_id=tracks.next_id))
        if state.model != serving.identity:
            tracks = _tracks(state)
            if state.labels not in ("", serving.labels):
                tracks = replace(no_tracks(), next_id=tracks.next_id)
            return Standing(Memory(), tracks, anew="swapped")
        known = self._known.get(item.source)
        if known is not None and known[0] == state:
            return known[1]
        data = None if state.memory is None else self._plane(item).read(state.memory)
        rows = self._rows(item, state)
        if data is None or rows is None:
            return Standing(Memory(), _tracks(state), anew="reanchored")
        window = WindowRows.from_bytes(rows)
        return Standing(Memory.from_bytes(data), _tracks(state), window, begins=not rows)

    def kept(
        self, item: Item, standing: Standing, state: DetectState, serving: Serving
    ) -> DetectState:
        """The source's new state; what it names counts once the hop took it."""
        memory = self._plane(item).write(item.position, standing.memory.to_bytes(), state.memory)
        window, begins = state.window if serving.head else None, standing.begins
        for row in standing.unkept:
            position = Position(item.position.epoch, row.seq)
            window = self._ring(item).write(position, row.to_bytes(), window, anew=begins)
            begins = False
        if window is not None and standing.unkept:
            # A window that let old rows go is that short after a restart, too.
            window = msgspec.structs.replace(window, held=len(standing.window.rows))
        tracks = standing.tracks.to_bytes()
        by = serving.identity, serving.labels
        new = DetectState(item.position.epoch, tracks, memory, window, *by)
        self._known[item.source] = new, replace(standing, unkept=(), begins=begins)
        return new

    def forget(self, source: str) -> None:
        """Keep nothing of it in this worker's memory; what its state names stays."""
        self._known.pop(source, None)

    def _rows(self, item: Item, state: DetectState) -> tuple[bytes, ...] | None:
        if self._head is None or state.window is None:
            return ()
        return self._ring(item).read(state.window)

    def _plane(self, item: Item) -> PlanePort:
        form = item.record.form
        return self._context.plane(item.source, memory_bytes(grid_of(form.width, form.height)))

    def _ring(self, item: Item) -> RingPort:
        assert self._head is not None
        form = item.record.form
        most = row_bytes(form.width, form.height, self._head.long_side)
        return self._context.ring(item.source, ROWS, most)


def _tracks(state: DetectState) -> TrackState:
    return TrackState.from_bytes(state.tracks) if state.tracks else no_tracks()
