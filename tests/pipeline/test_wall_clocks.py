"""Wrong clocks, of cameras and of this host, remove nothing and lose nothing.

Each world is lived through with the same data, written once a day. What may go is then known
without a clock: what was written more days ago than the limit says.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from framegate.models.picture import Picture
from framegate.pipeline.config.sinks import SinkConfig
from framegate.pipeline.contracts import keys
from framegate.pipeline.contracts.episodes import Changes, EventEntry, Step
from framegate.pipeline.contracts.moments import Moment
from framegate.pipeline.contracts.records import START, Position
from framegate.pipeline.contracts.spec import RecordSpec
from framegate.pipeline.contracts.stage import NoState
from framegate.pipeline.recording.index import Index
from framegate.pipeline.recording.retention import trim
from framegate.pipeline.review.projection import Projection
from framegate.pipeline.sinks.delivery import Message, MessageOutcome, ReceiverUnavailable
from framegate.pipeline.store.embedded import EmbeddedStore
from framegate.pipeline.store.retention import Retention, RetentionLimits, drop_certificates
from framegate.pipeline.system.clocks import camera_time
from framegate.stages.events.rulebook import is_due
from framegate.stages.footage.kept_pictures import Keeper, KeptFrame, Limits, jpeg_of, kept_frames
from tests.support.footage import scene
from tests.support.host_clocks import SimulatedHost
from tests.support.published import Publisher
from tests.support.recorded import add_segment
from tests.support.runs import wait_until
from tests.support.said import change
from tests.support.servers import server
from tests.support.told_episodes import Teller, following

pytestmark = pytest.mark.whole_run

DAY_S = 86_400.0
YEAR_S = 365.25 * DAY_S
NOW_S = 1_790_000_000.0  # in 2026
OVERFLOW_S = 2**32 - 2_208_988_800.0  # in 2036: NTP's seconds begin at 0 again
DAYS, LIMIT = 13, 4


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
def test_episodes(world: World, tmp_path: Path) -> None:
    both: list[Projection] = []
    for day, host in world.days():
        if day % 5 == 0:  # as after a restart
            for projection in both:
                projection.close()
            both = [Projection(tmp_path / name, host) for name in ("aged.db", "counted.db")]
        for projection in both:
            projection.take([said_on(day, host.wall_s + world.ahead_s)])
        both[0].keep(0, (LIMIT + 0.5) * DAY_S)
        both[1].keep(3, 0.0)
        assert days_there(both[0]) == last_days(day, LIMIT)
        assert days_there(both[1]) == last_days(day, 2)
    for projection in both:
        projection.close()


# -- Messages of sinks.


GIVE_UP_S = 3600.0
CONFIG = SinkConfig("webhook", "http://127.0.0.1:1/", give_up_s=GIVE_UP_S)


class Door:
    """A receiver that takes nothing while it is shut."""

    initial_state = NoState()
    steps: Collection[Step] = get_args(Step)

    def __init__(self) -> None:
        self.is_open = False
        self.came: list[str] = []

    def begin(self, states: Mapping[str, NoState]) -> None:
        """Nothing is to be done."""

    def deliver(self, message: Message, state: NoState) -> tuple[MessageOutcome, NoState]:
        if not self.is_open:
            raise ReceiverUnavailable("the door is shut")
        self.came.append(message.id)
        return "delivered", state

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStore]:
    with server(tmp_path_factory.mktemp("store")) as made:
        yield made


@pytest.fixture
def teller(store: EmbeddedStore) -> Iterator[Teller]:
    made = Teller(store.url)
    made.client.flushall()
    yield made
    made.close()


@worlds
@pytest.mark.parametrize("waits_s", [GIVE_UP_S / 2, GIVE_UP_S + 1.0])
def test_messages_of_a_sink(
    world: World, waits_s: float, store: EmbeddedStore, teller: Teller
) -> None:
    """They wait while the clocks step and the process of the sinks begins again."""
    host, door = SimulatedHost(world.began_s), Door()
    told = teller.starts("gate", 1, captured=host.wall_s + world.ahead_s)
    with following(store, "phone", CONFIG, door, "gate", clock=host):
        wait_until("it waits", lambda: teller.noted("gate", "phone") == "1-1")
    for step_s in world.steps.values():
        host.steps(step_s)
    for step_s in world.boots.values():
        host.boots(step_s)
        with following(store, "phone", CONFIG, door, "gate", clock=host):
            pass
    host.passes(waits_s)
    door.is_open = True
    with following(store, "phone", CONFIG, door, "gate", clock=host):
        wait_until("something comes", lambda: door.came)
    is_given_up = waits_s > GIVE_UP_S
    assert door.came == (["gate/lost/0-4611686018427387904/1-1"] if is_given_up else told)


# -- Results.


@worlds
def test_results(world: World, store: EmbeddedStore) -> None:
    publisher, limits = Publisher(store), RetentionLimits(age_s=(LIMIT + 0.5) * DAY_S)
    publisher.client.flushall()
    publisher.client.hset(keys.own("gate"), "run", "r1")
    last = -1
    for day, host in world.days():
        if day > last:
            publisher.results("gate", 1, [day])
            last = day
        with closing(Retention(store.url, "r1", (), limits, host)) as retention:
            retention.cut_all()
        ids = [id.decode() for id, _ in publisher.client.xrange(keys.results("gate"))]
        assert ids == [f"1-{left}" for left in last_days(day, LIMIT)]
    publisher.client.close()


# -- Certificates.


@worlds
def test_certificates(world: World, tmp_path: Path) -> None:
    for day, host in world.days():
        for kind in ("json", "declared.json"):
            file = tmp_path / f"gate-{day}.{kind}"
            file.touch()
            os.utime(file, (host.wall_s, host.wall_s))
        drop_certificates(tmp_path, (LIMIT + 0.5) * DAY_S, host())
        there = {path.name for path in tmp_path.glob("gate-*")}
        assert there == {
            f"gate-{left}.{kind}"
            for left in last_days(day, LIMIT)
            for kind in ("json", "declared.json")
        }


# -- Recordings.


SPEC = RecordSpec(bytes=1 << 40, days=LIMIT + 0.5, pinned_days=30.0, free_bytes=0)


@worlds
def test_recordings(world: World, tmp_path: Path) -> None:
    """Of a camera with the world's clock, and of its neighbour with that of the host."""
    written: list[int] = []  # on which day, by number
    for day, host in world.days():
        written.append(day)
        number = len(written) - 1
        with closing(Index(tmp_path, read_clock=host)) as index:  # as after a restart
            add_segment(index, "wrong", number, host.wall_s + world.ahead_s)
            add_segment(index, "right", number, host.wall_s)
            trim(index, SPEC, "right", 0)
            young = [n for n, at in enumerate(written) if at in last_days(day, LIMIT)]
            for source in ("wrong", "right"):
                assert sorted(int(Path(path).stem) for path in index.written(source)) == young
                files = list((index.folder / source).rglob("*.mp4"))
                assert sorted(int(file.stem) for file in files) == young


# -- Footage to learn from.


@worlds
def test_footage(world: World, tmp_path: Path) -> None:
    y, u, v = scene(0, (64, 48))
    jpeg, _ = jpeg_of(Picture(y, u, v, "bt709", full_range=False))
    last = -1
    for day, host in world.days():
        keeper = Keeper(tmp_path, Limits(1 << 30, LIMIT + 0.5), host)  # as after a restart
        keeper.open()
        if day > last:
            moment_s, last = host.wall_s + world.ahead_s, day
            record = KeptFrame(
                "gate", 1, day, moment_s, keeper.now(), "even", 64, 48, "bt709", False
            )
            keeper.keep(jpeg, record)
        keeper.tidy(keeper.now())
        left = sorted(one.record.seq for one in kept_frames(tmp_path)["gate"].files)
        assert left == last_days(day, LIMIT)


# -- Schedules.


@worlds
def test_schedules(world: World) -> None:
    """A rule is due by the camera's clock while that is right to a day, else by this host's."""
    for _, host in world.days():
        told = camera_time(host.wall_s + world.ahead_s, host.wall_s)
        captured = host.wall_s if told is None else told
        believed_s = world.ahead_s if abs(world.ahead_s) < DAY_S else 0.0
        right = datetime.fromtimestamp(host.wall_s + believed_s, UTC)
        this, following_hour = f"{right:%H}:00", f"{right + timedelta(hours=1):%H}:00"
        assert is_due([f"{right:%a} {this}-{following_hour}".lower()], captured, UTC)
        assert not is_due([f"{following_hour}-{this}"], captured, UTC)
