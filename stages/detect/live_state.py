"""The state of a source between two frames, in a worker's memory and in the store."""

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
    """The stored state of detect.

    tracks  tracks of this epoch, as bytes of framegate.models.tracking.bytetrack
    memory  reference to the SourceMemory of this epoch in the stage's plane
    model   identity of the model; see ServedModel
    labels  digest of the model's labels
    """

    epoch: int = 0
    tracks: bytes = b""
    # The key carries the number of the memory's layout. A version with another layout reads
    # another key, so it loses the memory instead of misreading it.
    memory: PlaneRef | None = msgspec.field(default=None, name="memory3")
    model: str = ""
    labels: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class LiveState:
    """The state from which the next frame starts.

    by            identity of the model and digest of its labels
    begin_reason  the reason for an empty memory; unused otherwise
    """

    memory: SourceMemory
    tracks: TrackState
    by: tuple[str, str]
    begin_reason: BeginReason = "first"

    def after(self, estimate: Estimate) -> LiveState:
        """Return the state after a frame."""
        return LiveState(estimate.memory, estimate.tracks, self.by, self.begin_reason)


class StateKeeper:
    """The states of a worker's sources: live in this process, and stored.

    The memory of a source is stored in shared memory, the rest in its DetectState, which the
    engine stores with the output. Thread rule: one thread.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._live: dict[str, tuple[DetectState, LiveState]] = {}

    def of(
        self, item: Item, state: DetectState, now: LiveState | None, served: ServedModel
    ) -> LiveState:
        """Return the state before the first frame of an epoch in a batch.

        state  the stored state
        now    the state after the source's frame before, if that frame is in the same batch and of
               another epoch; else None

        Into another epoch, only the count of track ids continues. With another model, tracks
        continue if it has the same labels; the memory does not, because the boxes of one model are
        no reference for another.
        """
        by = served.identity, served.labels
        if now is not None:
            return LiveState(SourceMemory(), _restarted(now.tracks), by)
        is_same_epoch = state.epoch == item.position.epoch
        is_same_model = state.model == served.identity
        if is_same_epoch and is_same_model:
            stored, live = self._live.get(item.source, (None, None))
            if live is not None and (stored is state or stored == state):
                return live
        tracks = no_tracks()
        if state.tracks:
            tracks = TrackState.from_bytes(state.tracks)
        if not is_same_epoch:
            return LiveState(SourceMemory(), _restarted(tracks), by)
        if not is_same_model:
            if state.labels not in ("", served.labels):
                tracks = _restarted(tracks)
            return LiveState(SourceMemory(), tracks, by, begin_reason="swapped")
        data: bytes | None = None
        if state.memory is not None:
            data = self._plane(item).read(state.memory)
        if data is None:
            return LiveState(SourceMemory(), tracks, by, begin_reason="reanchored")
        return LiveState(SourceMemory.from_bytes(data), tracks, by)

    def kept(self, item: Item, live: LiveState, state: DetectState) -> DetectState:
        """Write the memory to shared memory; return the new state for the engine to store.

        state  the state stored before
        """
        memory = self._plane(item).write(item.position, live.memory.to_bytes(), state.memory)
        tracks = live.tracks.to_bytes()
        new = DetectState(item.position.epoch, tracks, memory, *live.by)
        self._live[item.source] = new, live
        return new

    def forget(self, source: str) -> None:
        """Drop the live state of a source. Its stored state stays."""
        self._live.pop(source, None)

    def _plane(self, item: Item) -> PlanePort:
        form = item.record.form
        return self._context.plane(item.source, memory_bytes(grid_of(form.width, form.height)))


def _restarted(tracks: TrackState) -> TrackState:
    """Return no tracks, with the next id of `tracks`."""
    return replace(no_tracks(), next_id=tracks.next_id)
