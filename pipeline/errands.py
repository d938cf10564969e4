"""What an ingest worker waits for from the store: room to decode into, and new epochs.

Each has a connection of its own, so that one source's wait holds up no other.
"""

from __future__ import annotations

from pipeline.epoch import EpochRequest
from pipeline.feed import Feed
from pipeline.hop import Verdict
from pipeline.links import Links
from pipeline.records import Position
from pipeline.room import Room
from pipeline.spec import WorkerSpec

Answer = Position | int | Verdict | None


class Errands:
    """Waits under way, by source. One thread."""

    def __init__(self, spec: WorkerSpec, links: Links) -> None:
        self._spec, self._links = spec, links
        self._rooms: dict[str, Room] = {}
        self._epochs: dict[str, EpochRequest] = {}

    def run_for(self, feed: Feed) -> None:
        """Start waiting for what this source cannot go on without, unless that is under way."""
        source = feed.spec.name
        if feed.needs_epoch():
            if source not in self._epochs:
                link = self._links.open(source)
                self._epochs[source] = EpochRequest(
                    link, source, feed.token, self._spec.run, self._spec.replicas
                )
        elif feed.thread is not None and (until := feed.thread.waits_for) is not None:
            if source not in self._rooms:
                link = self._links.open(source)
                self._rooms[source] = Room(link, source, self._spec.last_readers())
            if not self._rooms[source].armed:
                self._rooms[source].arm(until)

    def under_way(self) -> dict[int, str]:
        """Descriptors to poll, and whose they are."""
        rooms = {room.link.fileno(): s for s, room in self._rooms.items() if room.armed}
        return rooms | {request.link.fileno(): s for s, request in self._epochs.items()}

    def answer(self, descriptor: int, source: str) -> Answer:
        """Call when the descriptor is readable.

        Where all readers are (there is room again), the new epoch's number, why there is none,
        or None: still waiting.
        """
        room, request = self._rooms.get(source), self._epochs.get(source)
        if room is not None and room.link.fileno() == descriptor:
            return room.woken()
        if request is None:
            return None
        answer = request.answer()
        if answer is not None:
            self._epochs.pop(source).close()
        return answer

    def drop(self, source: str) -> None:
        """Wait for nothing of this source any more."""
        for errand in (self._rooms.pop(source, None), self._epochs.pop(source, None)):
            if errand is not None:
                errand.close()

    def drop_all(self) -> None:
        """Wait for nothing: the connection to the store is made anew."""
        for source in {*self._rooms, *self._epochs}:
            self.drop(source)
