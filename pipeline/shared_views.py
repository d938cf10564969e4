"""A worker's side of a run's shared memory: frame stores, state planes and rings, mapped once."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from pipeline.frame_store import FrameStore, frame_store_bytes
from pipeline.source import Form
from pipeline.spec import SourceSpec
from pipeline.stage import Item
from pipeline.state_plane import StatePlane, state_plane_bytes
from pipeline.state_ring import StateRing, state_ring_bytes

AskSharedMemory = Callable[[str, str, int], int]


class SharedViews:
    """Views by source. Any thread: two that come first at once map the same memory twice."""

    def __init__(self, sources: list[SourceSpec], ask: AskSharedMemory) -> None:
        """ask: a descriptor for (source, name, bytes); FrameStoreFull if there is no room."""
        self._served = {source.name: (source.past, source.slots, source.live) for source in sources}
        self._ask = ask
        self._stores: dict[tuple[str, Form], FrameStore] = {}
        self._planes: dict[tuple[str, str], StatePlane] = {}
        self._rings: dict[tuple[str, str], StateRing] = {}

    def take_sources(self, sources: Sequence[SourceSpec]) -> None:
        """Serve these from now on. Nothing is kept of others, nor of one that went and came back:
        its memory is another. Call it while no decoder of those runs.
        """
        served = {source.name: (source.past, source.slots, source.live) for source in sources}
        stay = {name for name in served if self._served.get(name) == served[name]}
        self._stores = {at: store for at, store in self._stores.items() if at[0] in stay}
        self._planes = {at: plane for at, plane in self._planes.items() if at[1] in stay}
        self._rings = {at: ring for at, ring in self._rings.items() if at[1] in stay}
        self._served = served

    def is_live(self, source: str) -> bool:
        """Whether it is a camera."""
        return self._served[source][2]

    def frame_store(self, source: str, form: Form) -> FrameStore:
        """The frame store of (source, picture size)."""
        store = self._stores.get((source, form))
        if store is None:
            _, slots, _ = self._served[source]
            name = f"frames {form.width}x{form.height} {form.matrix} {form.full_range:d}"
            descriptor = self._ask(source, name, frame_store_bytes(slots, form.nbytes))
            try:
                store = FrameStore(descriptor, slots, form.nbytes)
            finally:
                os.close(descriptor)
            self._stores[source, form] = store
        return store

    def pixels(self, item: Item) -> AbstractContextManager[memoryview]:
        """The frame's bytes; see stage.Context."""
        store = self.frame_store(item.source, item.record.form)
        return store.reading(item.record.number % store.slots, item.position)

    def state_plane(self, stage: str, source: str, nbytes: int) -> StatePlane:
        """A stage's state plane of a source."""
        plane = self._planes.get((stage, source))
        if plane is None or plane.nbytes != nbytes:
            descriptor = self._ask(source, f"state {stage} {nbytes}", state_plane_bytes(nbytes))
            try:
                plane = StatePlane(descriptor, nbytes)
            finally:
                os.close(descriptor)
            self._planes[stage, source] = plane
        return plane

    def state_ring(self, stage: str, source: str, rows: int, row_bytes: int) -> StateRing:
        """A stage's state ring of a source, of so many rows."""
        ring = self._rings.get((stage, source))
        if ring is None or (ring.rows, ring.row_bytes) != (rows, row_bytes):
            name = f"rows {stage} {rows} {row_bytes}"
            descriptor = self._ask(source, name, state_ring_bytes(rows, row_bytes))
            try:
                ring = StateRing(descriptor, rows, row_bytes)
            finally:
                os.close(descriptor)
            self._rings[stage, source] = ring
        return ring
