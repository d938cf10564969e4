"""What detect knows of a source between two frames, and how that outlives a worker."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import msgspec

from framegate.models.gate.cells import grid_of
from framegate.models.tracking.bytetrack import TrackState, no_tracks
from framegate.models.window.head import WindowHead
from framegate.models.window.rows import ROWS, FrameRow, WindowRows, row_bytes
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.results import BeginReason
from framegate.pipeline.contracts.stage import Context, Item, PlanePort, PlaneRef, RingPort, RingRef
from framegate.stages.detect.estimate import Estimate
from framegate.stages.detect.guard import GuardState
from framegate.stages.detect.memory import SourceMemory, memory_bytes
from framegate.stages.detect.model_pool import ServedModel


class DetectState(msgspec.Struct, frozen=True):
    """State of detect.

    tracks  of this epoch, as bytes of framegate.models.tracking.bytetrack
    model   identity of what looked; labels  digest of its labels
    guard   of a specialised model
    memory  names what else is remembered of the epoch, in the stage's state plane
    window  names the rows that are kept of its window, in the stage's state ring
    """

    epoch: int = 0
    tracks: bytes = b""
    # The keys have the number of the layout of the bytes that they name: what lies there in another
    # one is not named, so what another version remembers is lost, not misread.
    memory: PlaneRef | None = msgspec.field(default=None, name="memory3")
    window: RingRef | None = msgspec.field(default=None, name="window2")
    model: str = ""
    labels: str = ""
    # Unset where no guard is: then not a byte of it is written.
    guard: GuardState | msgspec.UnsetType = msgspec.UNSET


@dataclass(frozen=True, slots=True, eq=False)
class LiveState:
    """What the next frame starts from.

    by      identity and digest of labels of what looked
    guard   of a specialised model
    anew    why its memory is empty, where it is
    begins  its window begins anew
    unkept  rows of the window that are not in the ring yet
    """

    memory: SourceMemory
    tracks: TrackState
    by: tuple[str, str]
    guard: GuardState | None = None
    window: WindowRows = field(default_factory=WindowRows)
    anew: BeginReason = "first"
    begins: bool = True
    unkept: tuple[FrameRow, ...] = ()

    def after(self, estimate: Estimate, guard: GuardState | None = None) -> LiveState:
        """Return the state after a frame."""
        step, window, unkept = estimate.judged, self.window, self.unkept
        if step is not None:
            window = step.window
            unkept = unkept if step.row is None else (*unkept, step.row)
        now = estimate.memory, estimate.tracks, self.by, guard, window
        return LiveState(*now, self.anew, self.begins, unkept)

    def under(self, served: ServedModel) -> LiveState:
        """Return the state before a frame that follows: the guard may have changed who looks."""
        serving = served.serving(self.guard)
        by = serving.identity, serving.labels
        return self if by == self.by else _swapped(self.tracks, self.by[1], by, self.guard)


class StateKeeper:
    """Keeps the states of a worker's sources: in its memory, in shared memory, in the hop.

    One thread.
    """

    def __init__(self, context: Context, head: WindowHead | None) -> None:
        self._context, self._head = context, head
        self._known: dict[str, tuple[DetectState, LiveState]] = {}

    def of(
        self, item: Item, state: DetectState, now: LiveState | None, served: ServedModel
    ) -> LiveState:
        """Return the state before a frame: `now` if reached in this batch, else the stored one.

        Nothing but the count of tracks goes on into another epoch, and how the guard stands. To
        another model tracks go on, unless its labels are others: what one saw is no reference for
        the other. A guard's alarm is such a change.
        """
        guard = now.guard if now is not None else state.guard or None
        if guard is None or guard.by != served.identity:
            guard = GuardState(served.identity) if served.guard is not None else None
        serving = served.serving(guard)
        by = serving.identity, serving.labels
        if now is None and state.epoch == item.position.epoch and state.model == serving.identity:
            known = self._known.get(item.source)
            if known is not None and (known[0] is state or known[0] == state):
                return known[1]
        tracks = _tracks(state) if now is None else now.tracks
        if now is not None or state.epoch != item.position.epoch:
            begun = replace(no_tracks(), next_id=tracks.next_id)
            return LiveState(SourceMemory(), begun, by, guard)
        if state.model != serving.identity:
            return _swapped(tracks, state.labels, by, guard)
        data = None if state.memory is None else self._plane(item).read(state.memory)
        rows = self._rows(item, state)
        if data is None or rows is None:
            return LiveState(SourceMemory(), tracks, by, guard, anew="reanchored")
        memory, window = SourceMemory.from_bytes(data), WindowRows.from_bytes(rows)
        return LiveState(memory, tracks, by, guard, window, begins=not rows)

    def kept(
        self, item: Item, live: LiveState, state: DetectState, served: ServedModel
    ) -> DetectState:
        """Store the state; return the hop's part, which counts once the hop took it."""
        memory = self._plane(item).write(item.position, live.memory.to_bytes(), state.memory)
        window, begins = state.window if served.head else None, live.begins
        for row in live.unkept:
            position = Position(item.position.epoch, row.seq)
            window = self._ring(item).write(position, row.to_bytes(), window, anew=begins)
            begins = False
        if window is not None and live.unkept:
            # A window that let old rows go is that short after a restart, too.
            window = msgspec.structs.replace(window, held=len(live.window.rows))
        tracks = live.tracks.to_bytes()
        guard = live.guard or msgspec.UNSET
        new = DetectState(item.position.epoch, tracks, memory, window, *live.by, guard)
        if live.unkept:
            live = replace(live, unkept=(), begins=begins)
        self._known[item.source] = new, live
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


def _swapped(
    tracks: TrackState, labels: str, by: tuple[str, str], guard: GuardState | None
) -> LiveState:
    """Return what another model starts from; labels: digest of the last one's, "" for none."""
    if labels not in ("", by[1]):
        tracks = replace(no_tracks(), next_id=tracks.next_id)
    return LiveState(SourceMemory(), tracks, by, guard, anew="swapped")


def _tracks(state: DetectState) -> TrackState:
    return TrackState.from_bytes(state.tracks) if state.tracks else no_tracks()
