"""The stream of the stage `events` made by hand: what rules say, entry by entry."""

from __future__ import annotations

from typing import Any

import msgspec
import redis

from framegate.pipeline.contracts import keys, records
from framegate.pipeline.contracts.episodes import (
    Change,
    Changes,
    EventEntry,
    Step,
    read_events,
)
from framegate.pipeline.contracts.moments import Moment
from framegate.pipeline.contracts.records import START, VERSION, End, Position, Record
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.contracts.visits import PathPoint, Visit
from framegate.pipeline.store.embedded import EmbeddedStore
from tests.support.published import result

FPS = 10.0
BEGAN = 1_790_000_000.0  # UNIX seconds of the first frame of each epoch


def moment(seq: int, epoch: int = 1) -> Moment:
    """Return frame `seq`, ten a second; an epoch begins an hour after the one before."""
    return Moment(epoch, seq, seq / FPS, BEGAN + 3600 * (epoch - 1) + seq / FPS)


def change(
    step: Step,
    began: int,
    last: int,
    source: str = "door",
    rule: str = "visitor",
    rank: int = 0,
    epoch: int = 1,
    **told: Any,
) -> Change:
    """Return a step of an episode that began at frame `began`, said at frame `last`."""
    usual: dict[str, Any] = {
        "version": "0a1b2c3d",
        "when": "inside",
        "severity": "alert",
        "label": "person",
        "tracks": (began % 1000,),
        "sightings": last - began + 1,
        "models": ("light-int8@00000000",),
        "box": (0.1, 0.2, 0.3, 0.6),
        "seconds": (last - began) / FPS,
    }
    if step == "end":
        usual["ended_by"] = "over"
    return Change(
        v=1,
        episode=f"{source}/{rule}/{epoch}-{began}/{rank}",
        step=step,
        source=source,
        rule=rule,
        told=moment(last, epoch),
        began=moment(began, epoch),
        last=moment(last, epoch),
        **{**usual, **told},
    )


def visit(began: int, last: int, track: int, source: str = "door", epoch: int = 1) -> Visit:
    """Return the visit of a person that was there from one frame to another."""
    return Visit(
        v=1,
        id=f"{source}/{epoch}-{began}/{track}",
        source=source,
        track=track,
        label="person",
        began=moment(began, epoch),
        last=moment(last, epoch),
        path=(PathPoint(0.0, 0.1, 0.9), PathPoint((last - began) / FPS, 0.8, 0.9)),
        size=(0.05, 0.2),
        scores=(0.75, 0.9),
        looks=3,
        colours={"red": 0.6, "black": 0.3},
        feature=bytes(range(96)),
        feature_model="light-int8@00000000",
    )


class Sayer:
    """Writes to the store as the stage would."""

    def __init__(self, store: EmbeddedStore) -> None:
        self.client = redis.Redis.from_url(store.url, protocol=2)
        self.client.set(keys.IDENTITY, "the first")
        self._before: dict[str, Position] = {}

    def say(self, source: str, seq: int, *changes: Change, epoch: int = 1, **more: Any) -> None:
        """Say something of a frame: changes, and rules that are unknown or known again."""
        self.client.hset(keys.SOURCES, source, "a run")
        position, at = Position(epoch, seq), moment(seq, epoch)
        record = Record(VERSION, at.media_s, at.captured, 1.0, seq, Form(320, 180))
        said = msgspec.Raw(records.encode(Changes(changes, **more)))
        side = records.side_output(record, self._before.get(source, START), said)
        self._before[source] = position
        self._add(source, position, "frame", side)

    def end(self, source: str, seq: int, *changes: Change, epoch: int = 1) -> None:
        """End an epoch of `seq` frames, with what was left to say."""
        said = {keys.EVENTS: msgspec.Raw(records.encode(Changes(changes)))} if changes else {}
        end = End(VERSION, frames=seq, last=True, said=said)
        self._add(source, Position(epoch, seq), "end", end)

    def publish(self, source: str, seq: int, epoch: int = 1, **told: Any) -> None:
        """Publish a result of a frame; `told` are fields of it."""
        at = moment(seq, epoch).captured
        seen = msgspec.structs.replace(result(source, epoch, seq), captured=at, **told)
        entry = {"k": "frame", "d": records.encode(seen)}
        self.client.xadd(keys.results(source), entry, id=f"{epoch}-{seq}")

    def said(self) -> list[EventEntry]:
        """Return what frames say, of all sources, as the store has it."""
        return [
            read_events(source, Position.parse(at), fields[b"d"])
            for source in self._before
            for at, fields in self._entries(source)
        ]

    def _entries(self, source: str) -> Any:
        found: Any = self.client.xrange(keys.out(source, keys.EVENTS))
        return [(at, fields) for at, fields in found if fields[b"k"] == b"frame"]

    def forget(self, source: str, before: str) -> None:
        """Remove what was said before a position."""
        stream = keys.out(source, keys.EVENTS)
        self.client.xtrim(stream, minid=before, approximate=False)

    def _add(self, source: str, position: Position, kind: str, record: object) -> None:
        entry = {"k": kind, "d": records.encode(record)}
        self.client.xadd(keys.out(source, keys.EVENTS), entry, id=str(position))
