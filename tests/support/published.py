"""Published streams made by hand: what a run writes there, entry by entry."""

from __future__ import annotations

from collections.abc import Iterable

import redis
from redis.typing import EncodableT, FieldT

from framegate.pipeline.contracts import keys, records
from framegate.pipeline.contracts.records import VERSION, End, Position
from framegate.pipeline.contracts.results import Result
from framegate.pipeline.store.embedded import EmbeddedStore
from tests.support.replicated import Door


def result(source: str, epoch: int, seq: int) -> Result:
    """Return a result of a frame without objects."""
    return Result(
        v=records.VERSION,
        source=source,
        epoch=epoch,
        seq=seq,
        pts=seq / 25,
        captured=1.5,
        captured_from="arrival",
        published=2.5,
        width=64,
        height=48,
        outcome="detected",
        looked="whole",
        escalation="none",
        reason="every_frame",
        objects=(),
        models=("made@00000000",),
        age_s=0.0,
        scene=0,
    )


class Publisher:
    """Writes to the store as a run would."""

    def __init__(self, store: EmbeddedStore | Door) -> None:
        self.client = redis.Redis.from_url(store.url, protocol=2)
        self.client.set(keys.IDENTITY, "the first")

    def results(self, source: str, epoch: int, seqs: Iterable[int]) -> None:
        """Register the source and publish a result for each seq."""
        self.client.hset(keys.SOURCES, source, "a run")
        with self.client.pipeline(transaction=False) as pipe:
            for seq in seqs:
                entry = _entry("frame", result(source, epoch, seq))
                pipe.xadd(keys.results(source), entry, id=str(Position(epoch, seq)))
            pipe.execute()

    def end(self, source: str, epoch: int, seq: int, last: bool = True) -> None:
        """Publish the end of an epoch that had `seq` frames."""
        entry = _entry("end", End(VERSION, frames=seq, last=last))
        self.client.xadd(keys.results(source), entry, id=str(Position(epoch, seq)))

    def trim(self, source: str, keep: int) -> None:
        """Remove all but the newest `keep` entries."""
        self.client.xtrim(keys.results(source), maxlen=keep, approximate=False)

    def trim_before(self, source: str, position: str) -> None:
        """Remove all entries before a position."""
        self.client.xtrim(keys.results(source), minid=position, approximate=False)

    def waiting_readers(self) -> int:
        """How many clients wait in a blocking read."""
        return int(self.client.info("clients")["blocked_clients"])


def _entry(kind: str, record: Result | End) -> dict[FieldT, EncodableT]:
    return {"k": kind, "d": records.encode(record)}
