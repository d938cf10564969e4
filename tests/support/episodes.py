"""Results of objects whose paths are known, and the changes of episodes that a run stored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import redis

from framegate.pipeline.config.config import read_config
from framegate.pipeline.config.events import EventsConfig
from framegate.pipeline.contracts import keys, records
from framegate.pipeline.contracts.episodes import Change, Changes
from framegate.pipeline.contracts.object_filters import ObjectFilter
from framegate.pipeline.contracts.records import End, Position, SideOutput
from framegate.pipeline.contracts.results import Object, Result
from framegate.pipeline.contracts.stage import NO_FILTERS
from framegate.pipeline.store.embedded import EmbeddedStore
from framegate.stages.events.evaluate import RuleJudge
from framegate.stages.events.state import EventsState

WIDTH, HEIGHT, FPS = 640, 360, 25.0
SIZE = (20.0, 40.0)  # of a person

AS_VERSION_2 = (
    "DROP INDEX by_age",
    "DROP INDEX muted_ones",
    "ALTER TABLE episode DROP COLUMN muted",
    "ALTER TABLE episode DROP COLUMN traits",
    *(f"ALTER TABLE {table} DROP COLUMN kept" for table in ("episode", "unknown", "watched")),
    "DROP TABLE clock",
    "DROP TABLE visits",
    "DROP TABLE searched",
    "DROP TABLE picture",
    "DROP INDEX by_frame",
    "ALTER TABLE lost RENAME TO new_lost",
    "ALTER TABLE stream RENAME TO new_stream",
    "CREATE TABLE lost (source TEXT NOT NULL, after TEXT NOT NULL, before TEXT NOT NULL,"
    " PRIMARY KEY (source, after)) STRICT, WITHOUT ROWID",
    "CREATE TABLE stream (source TEXT PRIMARY KEY, epoch INTEGER NOT NULL, seq INTEGER NOT NULL,"
    " frame_epoch INTEGER NOT NULL, frame_seq INTEGER NOT NULL, captured REAL NOT NULL)"
    " STRICT, WITHOUT ROWID",
    "INSERT INTO lost SELECT source, after, before FROM new_lost WHERE stage = 'events'",
    "INSERT INTO stream SELECT source, epoch, seq, frame_epoch, frame_seq, captured"
    " FROM new_stream WHERE stage = 'events'",
    "DROP TABLE new_lost",
    "DROP TABLE new_stream",
    "DROP TABLE mark",
    "ALTER TABLE watched DROP COLUMN why",
    "PRAGMA user_version = 2",
)
"""Statements that take a database of episodes back to its version 2."""

# A user's stage in place of the detector: somebody walks across once in six seconds, somebody else
# the other way.
WALK = """
from framegate import Stage
from framegate.pipeline.contracts.results import Object
from framegate.stages.detections import Detections


class Walk(Stage):
    def each(self, item, state):
        seq, width, height = item.position.seq, item.record.form.width, item.record.form.height
        objects = []
        for which in (0, 1):
            walk, at = divmod(seq + 40 * which, 150)
            share = at / 100 if not which else 1 - at / 100
            if 0 < share < 1:
                x, y = share * width, height * 0.75
                box = (x - width / 20, y - height / 4, x + width / 20, y)
                track = 1 + 2 * walk + which
                objects.append(Object(track, "person", 0, 0.9, box, "detected"))
        return Detections("detected", "whole", "changed", tuple(objects), ("m@1",)), state
"""

Path_ = Callable[[float], "tuple[float, float] | None"]


def standing(x: float, y: float) -> Path_:
    """Always there."""
    return lambda t: (x, y)  # noqa: ARG005


def walking(
    start: tuple[float, float], speed: tuple[float, float], first: float = 0.0, last: float = 1e9
) -> Path_:
    """Straight on, from a time on, until another: seconds and pixels."""

    def at(t: float) -> tuple[float, float] | None:
        if not first <= t < last:
            return None
        return start[0] + speed[0] * (t - first), start[1] + speed[1] * (t - first)

    return at


def seen(
    track: int | None,
    foot: tuple[float, float],
    label: str = "person",
    origin: Any = "detected",
    size: tuple[float, float] = SIZE,
    **more: Any,
) -> Object:
    """An object whose box stands on its foot."""
    x, y = foot
    box = (x - size[0] / 2, y - size[1], x + size[0] / 2, y)
    return Object(track, label, 0, more.pop("score", 0.9), box, origin, **more)


def result(objects: Iterable[Object], seq: int, **more: Any) -> Result:
    """A frame's result; pts and captured by FPS, unless said."""
    pts = more.pop("pts", seq / FPS)
    usual: dict[str, Any] = {
        "v": 1, "source": "door", "epoch": 1, "captured": 1_000_000.0 + (pts or 0.0),
        "captured_from": "rtcp", "published": 0.0, "width": WIDTH, "height": HEIGHT,
        "outcome": "detected", "looked": "whole", "escalation": "none", "reason": "changed",
        "models": ("m@1",), "age_s": 0.0, "scene": 0,
    }  # fmt: skip
    return Result(**{**usual, **more}, seq=seq, pts=pts, objects=tuple(objects))


def results(
    paths: Mapping[int, Path_], seconds: float, first_seq: int = 0, fps: float = FPS, **more: Any
) -> list[Result]:
    """The results of so many seconds of objects, by track, on their paths."""
    found = []
    for n in range(round(seconds * fps)):
        t = n / fps
        there = [(track, foot) for track, path in paths.items() if (foot := path(t)) is not None]
        objects = [seen(track, foot) for track, foot in there]
        found.append(result(objects, first_seq + n, pts=t, **more))
    return found


def rules(text: str) -> EventsConfig:
    """What is under [events]: areas and lines in pixels of the picture."""
    return read_config("pipeline.toml", text).events


class Told(NamedTuple):
    """All that a judge told, and its state then."""

    changes: list[Change]
    state: EventsState
    each: list[tuple[Position, Changes]]

    def of(self, rule: str, step: str | None = None) -> list[Change]:
        """Changes of a rule."""
        return [one for one in self.changes if one.rule == rule and step in (None, one.step)]


def told(
    config: EventsConfig,
    entries: Sequence[Result | End],
    state: EventsState | None = None,
    ends: bool = False,
    filters: Mapping[str, ObjectFilter] = NO_FILTERS,
) -> Told:
    """What rules tell of results. The state goes through its bytes after each, as in a run.

    ends     the source ends after the last
    filters  filters of the source
    """
    state = state or EventsState()
    judge = RuleJudge(config, "door")
    judge.mutes.use(filters)
    each, changes = [], list[Change]()
    for entry in [*entries, *([End(1, 0, True)] if ends else [])]:
        if isinstance(entry, Result):
            position = entry.position
            judged = judge.judge(entry, state)
        else:
            position = Position(0, 0)
            judged = judge.end(entry, state)
        state = msgspec.msgpack.decode(msgspec.msgpack.encode(judged.state), type=EventsState)
        if judged.changes is not None:
            each.append((position, judged.changes))
            changes += judged.changes.changes
    return Told(changes, state, each)


def check(changes: Iterable[Change], all_over: bool = True) -> None:
    """What holds of every stream of changes: one start, one end, in order, no id twice."""
    ids, open_now, over = set[str](), dict[str, Change](), set[str]()
    for one in changes:
        assert one.id not in ids, one.id
        ids.add(one.id)
        assert one.episode not in over, f"{one.id} after its end"
        if one.step == "start":
            assert one.episode not in open_now
        else:
            before = open_now[one.episode]
            assert before.began == one.began
            assert before.last.captured <= one.last.captured or one.step == "end"
            assert one.number == (before.number + 1 if one.step == "update" else 0)
        if one.step == "end":
            assert one.ended_by is not None
            del open_now[one.episode]
            over.add(one.episode)
        else:
            assert one.ended_by is None
            open_now[one.episode] = one
    assert not (all_over and open_now), open_now


def stored_changes(folder: Path, source: str) -> list[tuple[Position, Changes]]:
    """What the stage of an ended run told, those of ends included."""
    embedded = EmbeddedStore(folder / "store", "everysec")
    embedded.start()
    try:
        with redis.Redis.from_url(embedded.url) as store:
            entries: Any = store.xrange(keys.out(source, keys.EVENTS))
    finally:
        embedded.stop()
    found = []
    for at, fields in entries:
        if fields[b"k"] == b"end":
            said = records.decode_versioned(fields[b"d"], End).said.get(keys.EVENTS)
        else:
            said = records.decode_versioned(fields[b"d"], SideOutput).said
        if said is not None:
            found.append((Position.parse(at), records.decode(said, Changes)))
    return found
