"""Cache: publishes what was found about a frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from framegate.pipeline.records import VERSION, Result, failed_result
from framegate.pipeline.stage import Item, NoState, Stage
from framegate.stages.detections import last_detections


class Cache(Stage[NoState]):
    """One record in, one Result out; a record on which a stage failed becomes a failed result."""

    takes_failed = True
    publishes = True

    def process(
        self, batch: Sequence[Item], states: Mapping[str, NoState]
    ) -> tuple[list[Result], Mapping[str, NoState]]:
        """Make each frame's result."""
        now = self.context.now()
        return [self._result(item, now) for item in batch], states

    def _result(self, item: Item, now: float) -> Result:
        record = item.record
        if record.failed is not None:
            return failed_result(item.source, item.position, record, now)
        found = last_detections(record)
        return Result(
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
        )
