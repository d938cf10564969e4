"""A decoder without credit sleeps here: in a blocking read that the slowest reader ends."""

from __future__ import annotations

from typing import Any

from pipeline import keys
from pipeline.hop import await_command
from pipeline.records import START, Position
from pipeline.wire import Link

SAFETY_MS = 5000


class Room:
    """One source's wait for room, on a connection of its own. One thread."""

    def __init__(self, link: Link, source: str, readers: tuple[str, ...]) -> None:
        self.link = link
        self._source = source
        self._readers = readers
        self._slowest = readers[0]
        self._last_id = "0"
        self._owed = 0

    @property
    def armed(self) -> bool:
        """Whether a wait is under way."""
        return self._owed > 0

    def arm(self, position: Position) -> None:
        """Wait until the slowest reader is at `position`; `woken` tells."""
        read = ("XREAD", "COUNT", "1", "BLOCK", str(SAFETY_MS), "STREAMS")
        self.link.send(
            await_command(self._source, self._slowest, position),
            (*read, keys.room(self._source), self._last_id),
        )
        self._owed = 2

    def woken(self) -> Position | None:
        """Call when the link is readable: where all reliable readers are, None: still waiting."""
        reply: Any = None
        self.link.fill()
        while self._owed and self.link.here():
            reply = self.link.receive()
            self._owed -= 1
        if self._owed:
            return None
        if reply:
            entry_id, (_, woken_by) = reply[0][1][-1]
            self._last_id = entry_id.decode()
            if len(self._readers) == 1:
                return Position.parse(woken_by)
        self._slowest, read = slowest(self.link, self._source, self._readers)
        return read

    def close(self) -> None:
        """Close the connection; a wait that is under way is forgotten."""
        self.link.close()


def slowest(link: Link, source: str, readers: tuple[str, ...]) -> tuple[str, Position]:
    """The slowest reader that was not given up, and where it stands; far ahead if none is left."""
    link.send(*(("HMGET", keys.at(source, reader), "p", "gone") for reader in readers))
    found = {reader: link.receive() for reader in readers}
    at = {r: Position.parse(p) if p else START for r, (p, gone) in found.items() if not gone}
    last = min(at, key=at.__getitem__, default=None)
    return (last, at[last]) if last is not None else (readers[0], Position(2**62, 0))
