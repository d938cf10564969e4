"""Wrong clocks, of cameras and of this host, remove nothing and lose nothing.

Each world is lived through with the same data, written once a day. What may go is then known
without a clock: what was written more days ago than the limit says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from framegate.pipeline.episodes import Changes, EventEntry, Moment
from framegate.pipeline.records import START, Position
from framegate.pipeline.review.projection import Projection
from tests.support.host_clocks import SimulatedHost
from tests.support.said import change

DAY_S = 86_400.0
YEAR_S = 365.25 * DAY_S
NOW_S = 1_790_000_000.0  # in 2026
OVERFLOW_S = 2**32 - 2_208_988_800.0  # in 2036: NTP's seconds begin at 0 again
DAYS, LIMIT = 16, 7


@dataclass(frozen=True)
class World:
    """What the clocks do.

    began_s  UNIX seconds that the host shows at first
    ahead_s  the camera's clock, against the host's
    steps    by how many seconds the host's wall clock is set, by the day that this follows
    boots    the same, where the host was switched off in between, for no time to speak of
    """

    began_s: float = NOW_S
    ahead_s: float = 0.0
    steps: Mapping[int, float] = field(default_factory=dict)
    boots: Mapping[int, float] = field(default_factory=dict)

    def days(self) -> Iterator[tuple[int, SimulatedHost]]:
        """Yield each day, and the host on it; a day on which it boots comes a second time."""
        host = SimulatedHost(self.began_s)
        for day in range(DAYS):
            yield day, host
            if day in self.steps:
                host.steps(self.steps[day])
            if day in self.boots:
                host.boots(self.boots[day])
                yield day, host
            host.passes(DAY_S)


WORLDS = {
    "right": World(),
    "camera in 1970": World(ahead_s=100.0 - NOW_S),
    "camera ten years ahead": World(ahead_s=10 * YEAR_S),
    "camera an hour behind": World(ahead_s=-3600.0),
    "host in 1970, then set": World(100.0, steps={5: NOW_S}),
    "host boots into 1970, then set": World(boots={5: -NOW_S}, steps={9: NOW_S}),
    "host over 2036": World(OVERFLOW_S - 5 * DAY_S - 1.0),
    "an hour back": World(steps={5: -3600.0}),
    "an hour ahead": World(steps={5: 3600.0}),
    "a week ahead": World(steps={5: 7 * DAY_S}),
    "ten years ahead": World(steps={5: 10 * YEAR_S}),
    "ten years ahead over a boot": World(boots={5: 10 * YEAR_S}),
    "ten years ahead and back": World(steps={5: 10 * YEAR_S, 7: -10 * YEAR_S}),
}
worlds = pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS.keys())


def last_days(day: int, most: int) -> list[int]:
    """What must be there on a day: that of so many days before it, and its own."""
    return list(range(max(0, day - most), day + 1))


# -- Episodes.


def said_on(day: int, captured: float) -> EventEntry:
    """An episode that began and ended at that time of its camera."""
    at = Moment(1, day, 0.1 * day, captured)
    steps = [
        msgspec.structs.replace(change(step, day, day), began=at, last=at, told=at)
        for step in ("start", "end")
    ]
    before = Position(1, day - 1) if day else START
    return EventEntry("door", Position(1, day), before, captured, Changes(tuple(steps)))


def days_there(projection: Projection) -> list[int]:
    rows = projection.database.execute("SELECT began_seq FROM episode ORDER BY 1").fetchall()
    return [day for (day,) in rows]


@worlds
@pytest.mark.parametrize("most", [0, 4])
def test_episodes(world: World, most: int, tmp_path: Path) -> None:
    for day, host in world.days():
        projection = Projection(tmp_path / "events.db", host)  # as after a restart
        projection.take([said_on(day, host.wall_s + world.ahead_s)])
        projection.keep(most, (LIMIT + 0.5) * DAY_S)
        assert days_there(projection) == last_days(day, most - 1 if most else LIMIT)
        projection.close()
