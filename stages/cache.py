"""Cache: publishes what was found about a frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from framegate.pipeline.records import VERSION, Object, Result, failed_result
from framegate.pipeline.stage import Item, Stage
from framegate.stages.detections import last_detections

KNOWN: Final = 256  # numbers of tracks, up to the highest, of which is known whether they began


class Tracks(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which tracks of a source were published; their numbers grow, and none is given twice.

    highest  number that was published, 0 before the first
    begun    a bit for each of the KNOWN numbers up to it, that of `highest` lowest
    """

    highest: int = 0
    begun: bytes = b""

    def with_those(self, objects: Sequence[Object]) -> tuple[tuple[int, ...], Tracks]:
        """Return the tracks of a frame's objects that none before it had, and what holds then.

        One that is older than the KNOWN last ones has begun.
        """
        highest, begun, new = self.highest, int.from_bytes(self.begun), []
        for track in (one.track for one in objects if one.track):
            if track > highest:
                grown = track - highest
                begun = begun << grown & _ALL if grown < KNOWN else 0
                highest = track
            bit = 1 << (highest - track) if highest - track < KNOWN else 0
            if bit & ~begun:
                begun |= bit
                new.append(track)
        if not new:
            return (), self
        return tuple(new), Tracks(highest, begun.to_bytes((begun.bit_length() + 7) // 8))


_ALL: Final = (1 << KNOWN) - 1


class Cache(Stage[Tracks]):
    """One record in, one Result out; a record on which a stage failed becomes a failed result."""

    State = Tracks
    takes_failed = True
    publishes = True

    def process(
        self, batch: Sequence[Item], states: Mapping[str, Tracks]
    ) -> tuple[list[Result], Mapping[str, Tracks]]:
        """Make each frame's result."""
        now = self.context.now()
        after, results = dict(states), []
        for item in batch:
            result, after[item.source] = self._result(item, after[item.source], now)
            results.append(result)
        return results, after

    def _result(self, item: Item, tracks: Tracks, now: float) -> tuple[Result, Tracks]:
        record = item.record
        if record.failed is not None:
            return failed_result(item.source, item.position, record, now), tracks
        found = last_detections(record)
        began, tracks = tracks.with_those(found.objects)
        result = Result(
            v=VERSION,
            source=item.source,
            epoch=item.position.epoch,
            seq=item.position.seq,
            pts=record.pts,
            captured=record.captured,
            captured_from=record.captured_from,
            published=now,
            width=record.form.width,
            height=record.form.height,
            outcome=found.outcome,
            looked=found.looked,
            escalation=found.escalation,
            reason=found.reason,
            objects=found.objects,
            models=found.models,
            age_s=found.age_s,
            scene=found.scene,
            gate=found.gate,
            degraded=found.degraded,
            began=began,
        )
        return result, tracks
