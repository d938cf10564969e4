"""Decide how a run ends, and find the record that is to blame when workers die.

After a worker's first death its sources go one record at a time for a while and it says which
record is in hand. A record in whose hand workers die three times, with the position standing
still, is set aside. A camera cannot be read again, and no two of its connections have a position
in common: it is set aside if three of them die soon after they began.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping

from framegate.pipeline.contracts.errors import Exit
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.spec import CAREFUL_FRAMES
from framegate.pipeline.system.retry import Backoff

LIMIT = 3
_REST = Backoff(first_s=0.1, most_s=30.0)  # between two starts of a worker that gets nothing done

SourceStage = tuple[str, str]  # names of both


class Deaths:
    """The deaths of one worker's incarnations."""

    def __init__(self) -> None:
        self._blamed: dict[SourceStage, tuple[Position, int]] = {}
        self.set_aside: set[tuple[SourceStage, Position]] = set()
        self.careful_until: dict[str, Position] = {}
        self.fruitless = 0  # deaths in a row between which no position moved
        self._stood: dict[SourceStage, Position] = {}

    def died(
        self,
        in_hand: Mapping[SourceStage, Position],
        positions: Mapping[SourceStage, Position],
        epochs: Mapping[str, int],
        live: Collection[str] = (),
    ) -> list[tuple[SourceStage, Position]]:
        """Take a death into account. Returns what is to be set aside because of it.

        in_hand    last record announced, by (source, stage)
        positions  where the stages stand in the store, by (source, stage)
        epochs     the last one of each source: what waits may be in it already
        live       sources that are cameras
        """
        self.fruitless = self.fruitless + 1 if self._stood == dict(positions) else 1
        self._stood = dict(positions)
        self.set_aside = {  # a source that another run has taken over stands nowhere
            (place, at) for place, at in self.set_aside if positions.get(place, at) < at
        }
        guilty = self._blame(in_hand, positions, live)
        self.set_aside.update(guilty)
        for (source, _), at in positions.items():
            until = Position(at.epoch, at.seq + CAREFUL_FRAMES)
            if epochs[source] > at.epoch:
                until = Position(epochs[source], CAREFUL_FRAMES)
            self.careful_until[source] = max(until, self.careful_until.get(source, until))
        return guilty

    def died_unseen(self) -> None:
        """Take a death into account of which the store does not tell whether anything got on."""
        self.fruitless += 1

    def rest_s(self, chance: float) -> float:
        """Return the seconds before the worker may be started again; chance: 0..1.

        0 if it got on since its last death, however soon it ended. One that gets nothing done
        rests ever longer; it is not given up, as there may be nothing to do (cameras that are off).
        """
        return _REST.delay_s(self.fruitless - 1, chance) if self.fruitless > 1 else 0.0

    def _blame(
        self,
        in_hand: Mapping[SourceStage, Position],
        positions: Mapping[SourceStage, Position],
        live: Collection[str],
    ) -> list[tuple[SourceStage, Position]]:
        """Count the death against what was in hand. Returns what has reached the limit."""
        self._blamed = {
            place: (at, deaths)
            for place, (at, deaths) in self._blamed.items()
            if not _went_well(positions.get(place, at), at)
        }
        guilty = []
        for place, at in in_hand.items():
            if positions.get(place, at) >= at:
                continue
            blamed, deaths = self._blamed.get(place, (at, 0))
            source, stage = place
            again = blamed == at or (source in live and stage == "decode")
            deaths = deaths + 1 if again else 1
            self._blamed[place] = (at, deaths)
            if deaths == LIMIT:
                guilty.append((place, at))
        return guilty

    def forget(self, source: str) -> None:
        """Forget a source that was removed: one of that name that comes later is another."""
        self.set_aside = {(place, at) for place, at in self.set_aside if place[0] != source}
        self._blamed = {place: n for place, n in self._blamed.items() if place[0] != source}
        self.careful_until.pop(source, None)


def _went_well(position: Position, blamed: Position) -> bool:
    """Return whether a connection after the blamed one got through its careful frames."""
    return position.epoch > blamed.epoch and position.seq >= CAREFUL_FRAMES


log = logging.getLogger(__name__)


class RunEnding:
    """The exit code of a run, once it has one. Lives in the event loop."""

    def __init__(self) -> None:
        self.code: Exit | None = None
        self._came, self._failed = asyncio.Event(), asyncio.Event()

    def end(self, code: Exit) -> None:
        """End the run with this code."""
        if self.code is None or code is Exit.STOPPED_TWICE:
            self.code = code
        self._came.set()
        if self.code is not Exit.DONE:
            self._failed.set()

    def fail(self, message: str) -> None:
        """End: something that the run needs has broken."""
        log.error("%s", message)
        self.end(Exit.SOURCE_FAILED)

    def fell(self, task: asyncio.Task[None]) -> None:
        """Callback of a task that must not end with an error: then the run ends."""
        if not task.cancelled() and task.exception() is not None:
            self.end(Exit.SOURCE_FAILED)

    async def wait(self) -> None:
        """Wait until the run has an exit code."""
        await self._came.wait()

    async def failed(self) -> None:
        """Wait until the run has an exit code that says that it is not done."""
        await self._failed.wait()
