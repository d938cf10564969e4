"""What an ingest worker waits for from the store: room to decode into, and new epochs.

Each kind has a connection of its own to each server, so that no source's wait holds up another.
"""

from __future__ import annotations

from collections.abc import Collection

from framegate.pipeline.ingest.epoch import EpochRequests
from framegate.pipeline.ingest.feed import Feed
from framegate.pipeline.ingest.room import Rooms
from framegate.pipeline.records import Position
from framegate.pipeline.spec import WorkerSpec
from framegate.pipeline.store.hop import Verdict
from framegate.pipeline.store.links import Links

Answer = Position | int | Verdict


class Errands:
    """Waits under way, by source. One thread."""

    def __init__(self, spec: WorkerSpec, links: Links) -> None:
        self._spec, self._links = spec, links
        self._rooms: dict[str, Rooms] = {}  # by server
        self._epochs: dict[str, EpochRequests] = {}

    def run_for(self, feed: Feed) -> None:
        """Start waiting for what this source cannot go on without, unless that is under way."""
        source = feed.spec.name
        if feed.needs_epoch():
            self._epochs_of(source).ask(source, feed.token)
        elif feed.thread is not None and (until := feed.thread.waits_for) is not None:
            self._rooms_of(source).arm(source, until)

    def _epochs_of(self, source: str) -> EpochRequests:
        server = self._links.server_of(source)
        if server not in self._epochs:
            link = self._links.open(source)
            self._epochs[server] = EpochRequests(link, self._spec.run, self._spec.replicas)
        return self._epochs[server]

    def _rooms_of(self, source: str) -> Rooms:
        server = self._links.server_of(source)
        if server not in self._rooms:
            link = self._links.open(source)
            self._rooms[server] = Rooms(link, self._spec.last_readers())
        return self._rooms[server]

    def descriptors(self) -> list[int]:
        """To be polled."""
        return [each.link.fileno() for each in self._all()]

    def _all(self) -> list[Rooms | EpochRequests]:
        return [*self._rooms.values(), *self._epochs.values()]

    def due_in(self) -> float | None:
        """Seconds after which `answers` is to be called in any case; None: never."""
        dues = (rooms.due_in() for rooms in self._rooms.values())
        return min((due for due in dues if due is not None), default=None)

    def answers(self, ready: Collection[int]) -> list[tuple[str, Answer]]:
        """What is known now, of these descriptors: where all readers of a source are (there is
        room again), the number of its new epoch, or why there is none.
        """
        found: list[tuple[str, Answer]] = []
        for rooms in self._rooms.values():
            woken = rooms.hear() if rooms.link.fileno() in ready else []
            for source in (*woken, *rooms.overdue()):
                found.append((source, rooms.look(self._links.of(source), source)))
        for epochs in self._epochs.values():
            if epochs.link.fileno() in ready:
                found += epochs.hear().items()
        return found

    def drop(self, source: str) -> None:
        """Wait for nothing of this source any more."""
        for each in self._all():
            each.forget(source)

    def drop_all(self) -> None:
        """Wait for nothing: the connection to the store is made anew."""
        for each in self._all():
            each.link.close()
        self._rooms.clear()
        self._epochs.clear()
