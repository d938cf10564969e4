"""What detect knows of a source between two frames, and how that outlives a worker."""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec

from framegate.models.gate.cells import grid_of
from framegate.models.tracking.bytetrack import TrackState, no_tracks
from framegate.pipeline.contracts.results import BeginReason
from framegate.pipeline.contracts.stage import Context, Item, PlanePort, PlaneRef
from framegate.stages.detect.estimate import Estimate
from framegate.stages.detect.memory import SourceMemory, memory_bytes
from framegate.stages.detect.model_pool import ServedModel


class DetectState(msgspec.Struct, frozen=True):
    """State of detect.

    tracks  of this epoch, as bytes of framegate.models.tracking.bytetrack
    model   identity of what looked; labels  digest of its labels
    memory  names what else is remembered of the epoch, in the stage's state plane
    """

    epoch: int = 0
    tracks: bytes = b""
    # The keys have the number of the layout of the bytes that they name: what lies there in another
    # one is not named, so what another version remembers is lost, not misread.
    memory: PlaneRef | None = msgspec.field(default=None, name="memory3")
    model: str = ""
    labels: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class LiveState:
    """What the next frame starts from.

    by      identity and digest of labels of what looked
    anew    why its memory is empty, where it is
    """

    memory: SourceMemory
    tracks: TrackState
    by: tuple[str, str]
    anew: BeginReason = "first"

    def after(self, estimate: Estimate) -> LiveState:
        """Return the state after a frame."""
        return LiveState(estimate.memory, estimate.tracks, self.by, self.anew)


class StateKeeper:
    """Keeps the states of a worker's sources: in its memory, in shared memory, in the hop.

    One thread.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._known: dict[str, tuple[DetectState, LiveState]] = {}

    def of(
        self, item: Item, state: DetectState, now: LiveState | None, served: ServedModel
    ) -> LiveState:
        """Return the state before a frame: `now` if reached in this batch, else the stored one.

        Only the count of tracks continues into another epoch. Tracks continue with another model
        that has the same labels; the memory does not: what one model saw is no reference for
        another.
        """
        by = served.identity, served.labels
        if now is None and state.epoch == item.position.epoch and state.model == served.identity:
            known = self._known.get(item.source)
            if known is not None and (known[0] is state or known[0] == state):
                return known[1]
        tracks = _tracks(state) if now is None else now.tracks
        if now is not None or state.epoch != item.position.epoch:
            begun = replace(no_tracks(), next_id=tracks.next_id)
            return LiveState(SourceMemory(), begun, by)
        if state.model != served.identity:
            return _swapped(tracks, state.labels, by)
        data = None if state.memory is None else self._plane(item).read(state.memory)
        if data is None:
            return LiveState(SourceMemory(), tracks, by, anew="reanchored")
        return LiveState(SourceMemory.from_bytes(data), tracks, by)

    def kept(self, item: Item, live: LiveState, state: DetectState) -> DetectState:
        """Store the state; return the hop's part, which counts once the hop took it."""
        memory = self._plane(item).write(item.position, live.memory.to_bytes(), state.memory)
        tracks = live.tracks.to_bytes()
        new = DetectState(item.position.epoch, tracks, memory, *live.by)
        self._known[item.source] = new, live
        return new

    def forget(self, source: str) -> None:
        """Keep nothing of it in this worker's memory; what its state names stays."""
        self._known.pop(source, None)

    def _plane(self, item: Item) -> PlanePort:
        form = item.record.form
        return self._context.plane(item.source, memory_bytes(grid_of(form.width, form.height)))


def _swapped(tracks: TrackState, labels: str, by: tuple[str, str]) -> LiveState:
    """Return the state that another model starts from.

    labels  digest of the labels of the model before; "" for none
    """
    if labels not in ("", by[1]):
        tracks = replace(no_tracks(), next_id=tracks.next_id)
    return LiveState(SourceMemory(), tracks, by, anew="swapped")


def _tracks(state: DetectState) -> TrackState:
    return TrackState.from_bytes(state.tracks) if state.tracks else no_tracks()
