"""A decoder without credit sleeps here until the slowest reader has made room.

The waits of all sources that one server holds share a connection: the server tells it, unasked,
when a key changes that was read over it (client tracking), here the source's `room`. A blocking
read would be one connection for each source.
"""

from __future__ import annotations

import time

import hiredis

from framegate.pipeline import keys
from framegate.pipeline.records import START, Position
from framegate.pipeline.store.connection import Link
from framegate.pipeline.store.hop import await_command

SAFETY_S = 5.0


class Rooms:
    """Waits for room, by source, on a connection of their own. One thread."""

    def __init__(self, link: Link, readers: tuple[str, ...]) -> None:
        """readers: the last of the reliable ones."""
        self.link = link
        self._readers = readers
        self._slowest: dict[str, str] = {}
        self._until: dict[str, float] = {}  # when a wait is looked after anyway, the oldest first
        self._whose: dict[bytes, str] = {}
        link.call("HELLO", "3")
        link.call("CLIENT", "TRACKING", "ON", "OPTIN")

    def arm(self, source: str, position: Position) -> None:
        """Wait until the slowest reader is at `position`, unless a wait is under way; `woken`
        tells.
        """
        if source in self._until:
            return
        room = keys.room(source)
        self._whose[room.encode()] = source
        self._until[source] = time.monotonic() + SAFETY_S
        self.link.send(
            ("CLIENT", "CACHING", "YES"),
            ("XREVRANGE", room, "+", "-", "COUNT", "1"),  # from here on its change is told
            await_command(source, self._slowest.get(source, self._readers[0]), position),
        )

    def hear(self) -> list[str]:
        """Call when the link is readable: sources whose wait is over."""
        self.link.fill()
        woken: list[str] = []
        while self.link.here():
            said = self.link.receive()
            if isinstance(said, hiredis.PushNotification):
                changed = self._whose if said[1] is None else said[1]  # None: any may have
                names = [self._whose[key] for key in changed if key in self._whose]
                woken += [name for name in names if self._until.pop(name, None)]
        return woken

    def overdue(self) -> list[str]:
        """Sources that waited for long: a look does no harm. Their wait is over, too."""
        late: list[str] = []
        while self.due_in() == 0.0:
            late.append(next(iter(self._until)))
            del self._until[late[-1]]
        return late

    def due_in(self) -> float | None:
        """Seconds until a wait is overdue; None if there is none."""
        first = next(iter(self._until.values()), None)
        return None if first is None else max(0.0, first - time.monotonic())

    def look(self, link: Link, source: str) -> Position:
        """Where all reliable readers of a source are. link: another one."""
        self._slowest[source], read = slowest(link, source, self._readers)
        return read

    def forget(self, source: str) -> None:
        """Wait for nothing of this source any more."""
        self._until.pop(source, None)
        self._slowest.pop(source, None)
        self._whose.pop(keys.room(source).encode(), None)


def slowest(link: Link, source: str, readers: tuple[str, ...]) -> tuple[str, Position]:
    """The slowest reader that was not given up, and where it stands; far ahead if none is left."""
    link.send(*(("HMGET", keys.at(source, reader), "p", "gone") for reader in readers))
    found = {reader: link.receive() for reader in readers}
    at = {r: Position.parse(p) if p else START for r, (p, gone) in found.items() if not gone}
    last = min(at, key=at.__getitem__, default=None)
    return (last, at[last]) if last is not None else (readers[0], Position(2**62, 0))
