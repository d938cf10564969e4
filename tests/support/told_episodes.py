"""Streams of episodes made by hand: what the stage `events` writes there, entry by entry."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import redis

from framegate.pipeline.config.sinks import SinkConfig
from framegate.pipeline.contracts import keys, records
from framegate.pipeline.contracts.episodes import VERSION, Change, Changes, Severity, Step
from framegate.pipeline.contracts.moments import Moment
from framegate.pipeline.contracts.records import End, Position, Record, side_output
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.sinks.delivery import Delivery
from framegate.pipeline.store.embedded import EmbeddedStore
from framegate.pipeline.system.clocks import FirstSeen, HostClock, read_host_clock
from tests.support.runs import DEADLINE_S


def change(
    source: str,
    seq: int,
    step: Step = "start",
    *,
    began: int | None = None,
    rule: str = "visitor",
    severity: Severity = "alert",
    epoch: int = 1,
    captured: float | None = None,
    **more: Any,
) -> Change:
    """Return a step of the episode that began at frame `began`, told at `seq`."""
    first = seq if began is None else began
    now = time.time() if captured is None else captured
    start, told = (Moment(epoch, n, n / 25, now + n / 25) for n in (first, seq))
    return Change(
        v=VERSION,
        episode=f"{source}/{rule}/{epoch}-{first}/0",
        step=step,
        source=source,
        rule=rule,
        version="0a1b2c3d",
        when=more.pop("when", "inside"),
        severity=severity,
        told=told,
        began=start,
        last=told,
        seconds=(seq - first) / 25,
        label="person",
        **more,
    )


class Teller:
    """Writes to the store as the stage would."""

    def __init__(self, url: str) -> None:
        self.client: Any = redis.Redis.from_url(url, protocol=2)
        self._before: dict[str, Position] = {}

    def tell(self, *changes: Change) -> None:
        """Add one entry with these changes of a frame."""
        first = changes[0]
        at = Position(first.told.epoch, first.told.seq)
        before = self._before.get(first.source, records.START)
        record = Record(
            records.VERSION, first.told.media_s, first.told.captured, 0.0, at.seq, Form(64, 48)
        )  # fmt: skip
        said = records.encode(Changes(changes))
        output = side_output(record, before, records.msgspec.Raw(said))
        self._add(first.source, at, "frame", output)
        self._before[first.source] = at

    def starts(self, source: str, *seqs: int, **more: Any) -> list[str]:
        """Tell of an episode that begins at each of these frames; return the changes' ids."""
        told = [change(source, seq, **more) for seq in seqs]
        for each in told:
            self.tell(each)
        return [each.id for each in told]

    def end(self, source: str, seq: int, *changes: Change, epoch: int = 1) -> None:
        """Add the end of an epoch, with what the stage had left to say."""
        said = {keys.EVENTS: records.msgspec.Raw(records.encode(Changes(changes)))}
        self._add(source, Position(epoch, seq), "end", End(1, seq, True, said=said))

    def _add(self, source: str, at: Position, kind: str, entry: Any) -> None:
        fields = {"k": kind, "d": records.encode(entry)}
        self.client.xadd(keys.out(source, keys.EVENTS), fields, id=str(at))

    def trim(self, source: str, keep: int) -> None:
        """Remove all but the newest entries."""
        self.client.xtrim(keys.out(source, keys.EVENTS), maxlen=keep, approximate=False)

    def standing(self, source: str, sink: str) -> dict[str, str]:
        """Return what the store has of where a sink stands."""
        found = self.client.hgetall(keys.sink(source, sink))
        return {name.decode(): value.decode(errors="replace") for name, value in found.items()}

    def noted(self, source: str, sink: str) -> str | None:
        """Return the newest entry that a sink has noted to wait; None: it noted none."""
        found = self.client.hget(keys.sink(source, sink), "f")
        notes = () if found is None else records.decode(found, FirstSeen).notes
        return str(notes[-1][0]) if notes else None

    def close(self) -> None:
        """Close the connection."""
        self.client.close()


@contextmanager
def following(
    store: EmbeddedStore,
    name: str,
    config: SinkConfig,
    receiver: Any,
    *sources: str,
    clock: Callable[[], HostClock] = read_host_clock,
) -> Iterator[None]:
    """A sink that follows these sources while the block lasts."""
    delivery = Delivery(name, config, receiver, store.url, clock)
    delivery.take_sources(dict.fromkeys(sources, 0))
    delivery.start()
    try:
        yield
    finally:
        delivery.finish()
        delivery.join(DEADLINE_S)
        assert not delivery.is_alive()
