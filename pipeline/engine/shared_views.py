"""A worker's view of its sources: shared memory, and what the supervisor decides about them."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, NamedTuple, TypeVar

from framegate.pipeline.contracts.errors import FrameLost, FrameStoreFull
from framegate.pipeline.contracts.object_filters import ObjectFilter
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.source import DecodePackets, Form
from framegate.pipeline.contracts.spec import SourceSpec
from framegate.pipeline.contracts.stage import Item
from framegate.pipeline.engine.control_line import ControlLine
from framegate.pipeline.engine.control_messages import FramesKept
from framegate.pipeline.shared_memory.frame_store import (
    FrameStore,
    SoundStore,
    frame_store_bytes,
    sound_store_bytes,
)
from framegate.pipeline.shared_memory.packet_store import PacketStore, packet_store_bytes
from framegate.pipeline.shared_memory.state import (
    StatePlane,
    StateRing,
    state_plane_bytes,
    state_ring_bytes,
    unshared_plane,
    unshared_ring,
)
from framegate.pipeline.telemetry.run_status import SourceStatus

V = TypeVar("V")

log = logging.getLogger(__name__)

WAKE_S: Final = 2.0  # a decoder that was woken decodes all for some seconds more


class _Served(NamedTuple):
    """The attributes of a source that its shared memory depends on.

    If one of them changes, the source has other memory.
    """

    past: int
    slots: int
    live: bool


def _served(sources: Iterable[SourceSpec | SourceStatus]) -> dict[str, _Served]:
    return {source.name: _Served(source.past, source.slots, source.live) for source in sources}


class SharedViews:
    """The sources of a worker, and their mapped memory: frame stores, sound stores, planes, rings.

    Any thread: a race only maps the same memory twice.

    Only a decoder creates a frame store. For a reader, a missing store means lost frames.
    """

    def __init__(
        self,
        sources: Sequence[SourceSpec],
        line: ControlLine,
        models: Mapping[str, str] | None = None,
        filters: Mapping[str, ObjectFilter] | None = None,
    ) -> None:
        """Keep what was known before this process began.

        models   chosen models, by source
        filters  object filters, by name
        """
        self._models = models or {}
        self._filters = filters or {}
        self._filters_of: dict[str, Mapping[str, ObjectFilter]] = {}
        self._served = _served(sources)
        self._line = line
        self._stores: dict[tuple[str, Form], FrameStore] = {}
        self._planes: dict[tuple[str, str], StatePlane] = {}
        self._rings: dict[tuple[str, str], StateRing] = {}
        self._sounds: dict[str, SoundStore] = {}
        self._packets: dict[str, PacketStore] = {}

    def take_sources(self, sources: Sequence[SourceSpec | SourceStatus]) -> None:
        """Serve exactly these sources from now on.

        The mappings of other sources are dropped, and those of a source that was removed and added
        again: its memory is new. Call it while no decoder of the dropped sources runs.
        """
        served = _served(sources)
        kept = {name for name in served if self._served.get(name) == served[name]}
        self._stores = {at: store for at, store in self._stores.items() if at[0] in kept}
        self._planes = {at: plane for at, plane in self._planes.items() if at[1] in kept}
        self._rings = {at: ring for at, ring in self._rings.items() if at[1] in kept}
        self._sounds = {source: store for source, store in self._sounds.items() if source in kept}
        self._packets = {name: store for name, store in self._packets.items() if name in kept}
        self._served = served

    def is_live(self, source: str) -> bool:
        """Return whether a source is a camera."""
        return self._served[source].live

    def past_of(self, source: str) -> int:
        """Return a source's last epoch before this run."""
        return self._served[source].past

    def model_of(self, source: str) -> str:
        """Return the model that was chosen for a source during the run; "" if none was."""
        chosen = self._line.models
        if chosen is None:  # none has been chosen since this process began
            return self._models.get(source, "")
        return chosen.get(source, "")

    def filters_of(self, source: str) -> Mapping[str, ObjectFilter]:
        """Return the object filters of a source; the same mapping until the filters change."""
        newest = self._line.filters
        if newest is not None and newest is not self._filters:
            self._filters = newest
            self._filters_of = {}
        if source not in self._filters_of:
            own = {name: each for name, each in self._filters.items() if each.is_for(source)}
            self._filters_of[source] = own
        return self._filters_of[source]

    def options_of(self, stage: str) -> Mapping[str, Any] | None:
        """Return the options that were set for a stage since this process began; None: none."""
        return self._line.options.get(stage)

    def frame_store(self, source: str, form: Form, make: bool = True) -> FrameStore:
        """Return the frame store of a source for pictures of a form.

        Raises FrameStoreFull if there is no room for it, or if it does not exist and `make` is not
        set.
        """
        store = self._stores.get((source, form))
        if store is None or store.retired:
            # A retired store has no memory any more, but still takes address space.
            for at, retired in list(self._stores.items()):
                if retired.retired:
                    self._stores.pop(at, None)
            slots = self._served[source].slots
            nbytes = frame_store_bytes(slots, form.nbytes)
            descriptor = self._line.shared_memory(source, _name(form), nbytes, make)
            store = _mapped(descriptor, lambda: FrameStore(descriptor, slots, form.nbytes))
            self._stores[source, form] = store
        return store

    def keep_frames(self, source: str, forms: Iterable[Form]) -> None:
        """Drop the frame stores of a source that have another form. For its decoder only."""
        kept = list(forms)
        for at in list(self._stores):
            if at[0] == source and at[1] not in kept:
                self._stores.pop(at, None)
        self._line.tell(FramesKept(source, [_name(form) for form in kept]))

    def holds(self, source: str, form: Form, number: int, position: Position) -> bool:
        """Return whether a frame's pixels are complete in its slot."""
        try:
            store = self.frame_store(source, form, make=False)
        except FrameStoreFull:
            return False
        return store.holds(number, position)

    def pixels(self, item: Item) -> AbstractContextManager[memoryview]:
        """Return the frame's bytes; see stage.Context."""
        if item.record.undecoded:
            what = f"source {item.source} frame {item.position} was not decoded"
            raise FrameLost(what, final=True)
        try:
            store = self.frame_store(item.source, item.record.form, make=False)
        except FrameStoreFull as error:
            raise FrameLost(f"source {item.source} frame {item.position}: {error}") from error
        return store.reading(item.record.number, item.position)

    def undecoded_pixels(self, item: Item, decode: DecodePackets) -> bytes:
        """Return the pixels of a frame that was not decoded; see stage.Context.

        decode  is the decoder's. Stages never get packets, because these have no masks

        After a kill of the whole run, the decoder of a file reads the packets again. It stores a
        group before the frame behind it. So a group that is missing although its frame is there
        never comes. The frame must be looked up first: both may come in between.
        """
        record = item.record
        is_passed = self._is_settled(item)
        try:
            group = self.packet_store(item.source).read(item.position.epoch, record.number)
        except FrameLost as lost:
            raise FrameLost(str(lost), final=lost.final or is_passed) from lost
        return group.pixels_at(record.pts, record.form, decode)

    def _is_settled(self, item: Item) -> bool:
        """Return whether the frame of an item's number is in the frame store, or lost for good."""
        try:
            store = self.frame_store(item.source, item.record.form, make=False)
        except FrameStoreFull:
            return False
        return store.is_settled(item.record.number)

    def wake(self, source: str) -> None:
        """Make a camera that is decoded lazily decode all frames for some seconds.

        It is not woken before this process has read pixels of it.
        """
        until_s = time.monotonic() + WAKE_S
        for (name, _), store in list(self._stores.items()):
            if name == source and not store.retired:
                store.want(until_s)

    def packet_store(self, source: str, make: bool = False) -> PacketStore:
        """Return the store for packets of undecoded frames of a source.

        Raises FrameLost if it does not exist; with `make`, FrameStoreFull if there is no room.
        """
        store = self._packets.get(source)
        if store is None or store.retired:
            slots = self._served[source].slots
            nbytes = packet_store_bytes(slots)
            try:
                descriptor = self._line.shared_memory(source, "packets", nbytes, make)
            except FrameStoreFull as error:
                if make:
                    raise
                raise FrameLost(f"source {source}: {error}") from error
            store = _mapped(descriptor, lambda: PacketStore(descriptor, slots))
            self._packets[source] = store
        return store

    def sound_store(self, source: str, block: int, make: bool = False) -> SoundStore:
        """Return the sound store of a source, with blocks of `block` samples.

        Raises FrameLost if it does not exist; with `make`, FrameStoreFull if there is no room.
        """
        store = self._sounds.get(source)
        if store is None or store.retired:
            nbytes = sound_store_bytes(block)
            try:
                descriptor = self._line.shared_memory(source, f"sound {block}", nbytes, make)
            except FrameStoreFull as error:
                if make:
                    raise
                raise FrameLost(f"source {source}: {error}") from error
            store = _mapped(descriptor, lambda: SoundStore(descriptor, block))
            self._sounds[source] = store
        return store

    def state_plane(self, stage: str, source: str, nbytes: int) -> StatePlane:
        """Return a stage's state plane of a source. If there is no room, it is not shared."""
        plane = self._planes.get((stage, source))
        if plane is None or plane.nbytes != nbytes:
            name = f"state {stage} {nbytes}"
            try:
                descriptor = self._line.shared_memory(source, name, state_plane_bytes(nbytes))
                plane = _mapped(descriptor, lambda: StatePlane(descriptor, nbytes))
            except FrameStoreFull as error:
                log.warning("source %s: %s; %s", source, error, _UNSHARED)
                plane = unshared_plane(source, nbytes)
            self._planes[stage, source] = plane
        return plane

    def state_ring(self, stage: str, source: str, rows: int, row_bytes: int) -> StateRing:
        """Return a stage's state ring of a source. If there is no room, it is not shared."""
        ring = self._rings.get((stage, source))
        if ring is None or (ring.rows, ring.row_bytes) != (rows, row_bytes):
            name = f"rows {stage} {rows} {row_bytes}"
            nbytes = state_ring_bytes(rows, row_bytes)
            try:
                descriptor = self._line.shared_memory(source, name, nbytes)
                ring = _mapped(descriptor, lambda: StateRing(descriptor, rows, row_bytes))
            except FrameStoreFull as error:
                log.warning("source %s: %s; %s", source, error, _UNSHARED)
                ring = unshared_ring(source, rows, row_bytes)
            self._rings[stage, source] = ring
        return ring

    def forget_states(self, source: str, stage: str) -> None:
        """Drop a stage's plane and ring of a source that it has finished.

        If the stage uses them again, they are mapped again.
        """
        self._planes.pop((stage, source), None)
        self._rings.pop((stage, source), None)


_UNSHARED = "this worker alone has its state and loses it when it ends"


def _name(form: Form) -> str:
    return f"frames {form.width}x{form.height} {form.matrix} {form.full_range:d}"


def _mapped(descriptor: int, view: Callable[[], V]) -> V:
    """Return the view of a descriptor and close the descriptor, which a mapping does not need."""
    try:
        return view()
    except OSError as error:
        raise FrameStoreFull(f"no shared memory: {error}") from error
    finally:
        os.close(descriptor)
