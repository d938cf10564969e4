"""Escalate: hands on what detect said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from pipeline.stage import Item, NoState, Stage


class Escalate(Stage[NoState]):
    """One record in, the same detections out: nothing is in doubt yet."""

    def process(
        self, batch: Sequence[Item], states: Mapping[str, NoState]
    ) -> tuple[list[msgspec.Raw], Mapping[str, NoState]]:
        """Hand on what the stage before said."""
        return [item.record.said[self.context.before] for item in batch], states
