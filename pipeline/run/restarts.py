"""Decide about the restart of a dead worker: its delay, and the records to leave out.

`keep_workers` calls these functions and restarts the worker. After a worker's first death, its
sources run one record at a time for a while, and the worker reports each record before it starts
it. A record is set aside after LIMIT deaths at it without progress in between. A camera's frames
cannot be read again, and each connection begins a new epoch, so a camera's decoder is set aside if
it dies LIMIT times soon after it connected. A worker is given up after FRUITLESS_DEATHS deaths in a
row without progress.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.spec import CAREFUL_FRAMES
from framegate.pipeline.system.retry import Backoff

LIMIT = 3
FRUITLESS_DEATHS = 10
_REST = Backoff(first_s=0.1, most_s=30.0)  # before a restart of a worker without progress

SourceStage = tuple[str, str]  # name of a source, name of a stage


class Deaths:
    """The deaths of the processes of one worker.

    set_aside      records that no further process may try
    careful_until  by source, the position up to which its records run one at a time
    fruitless      deaths in a row without progress between them
    """

    def __init__(self) -> None:
        self.set_aside: set[tuple[SourceStage, Position]] = set()
        self.careful_until: dict[str, Position] = {}
        self.fruitless = 0
        self._blamed: dict[SourceStage, tuple[Position, int]] = {}  # position, deaths at it
        self._positions: dict[SourceStage, Position] = {}  # at the last death

    def died(
        self,
        in_hand: Mapping[SourceStage, Position],
        positions: Mapping[SourceStage, Position],
        epochs: Mapping[str, int],
        live: Collection[str] = (),
    ) -> list[tuple[SourceStage, Position]]:
        """Record a death. Return the records to set aside because of it.

        in_hand    records that the worker announced and did not finish, by (source, stage), in the
                   order in which they were announced
        positions  positions of the stages in the store, by (source, stage)
        epochs     last epoch of each source, which waiting records may already belong to
        live       names of the sources that are cameras
        """
        if self._positions == dict(positions):
            self.fruitless += 1
        else:
            self.fruitless = 1
        self._positions = dict(positions)
        # Forget records that were passed, and those of a source that another run took over, which
        # has no position.
        self.set_aside = {
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
        """Record a death while the store is away, so that any progress is unknown."""
        self.fruitless += 1

    def rest_s(self, chance: float) -> float:
        """Return the seconds to wait before the worker is restarted. chance: 0 to 1, random

        0 if there was progress since its last death. The wait grows with each death without
        progress. Such a worker is kept, because it may have nothing to do (cameras that are off).
        """
        if self.fruitless <= 1:
            return 0.0
        return _REST.delay_s(self.fruitless - 1, chance)

    def _blame(
        self,
        in_hand: Mapping[SourceStage, Position],
        positions: Mapping[SourceStage, Position],
        live: Collection[str],
    ) -> list[tuple[SourceStage, Position]]:
        """Count the death against the last announced record. Return it if it reached the limit.

        The records before it wait for an answer, so they did not run.
        """
        self._blamed = {
            place: (at, deaths)
            for place, (at, deaths) in self._blamed.items()
            if not _is_past(positions.get(place, at), at)
        }
        if not in_hand:
            return []
        place, at = list(in_hand.items())[-1]
        if positions.get(place, at) >= at:
            return []
        blamed, deaths = self._blamed.get(place, (at, 0))
        source, stage = place
        is_camera = source in live and stage == "decode"
        if blamed != at and not is_camera:
            deaths = 0
        deaths += 1
        self._blamed[place] = (at, deaths)
        if deaths != LIMIT:
            return []
        return [(place, at)]

    def forget(self, source: str) -> None:
        """Forget a removed source: a later source of that name is another one."""
        self.set_aside = {(place, at) for place, at in self.set_aside if place[0] != source}
        self._blamed = {place: n for place, n in self._blamed.items() if place[0] != source}
        self.careful_until.pop(source, None)


def _is_past(position: Position, blamed: Position) -> bool:
    """Return whether a later connection than the blamed one got through its careful frames."""
    return position.epoch > blamed.epoch and position.seq >= CAREFUL_FRAMES
