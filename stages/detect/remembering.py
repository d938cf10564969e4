"""What detect looks up before it computes: inputs that its network has seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from framegate.models.boxes import Boxes
from framegate.models.detector.detector import Detector
from framegate.models.detector.recall import Recall
from framegate.models.picture import Picture
from framegate.pipeline.counts import CacheCounts
from framegate.stages.detect.attention import Attention

_NOTHING: Final = CacheCounts()


def count(counts: CacheCounts, groups: Sequence[Recall], past: CacheCounts = _NOTHING) -> None:
    """Bring `counts` up to date with what all groups counted; past: those of models let go."""
    each = [group.counts for group in groups]
    counts.hits = past.hits + sum(one.hits for one in each)
    counts.misses = past.misses + sum(one.misses for one in each)
    counts.refused = past.refused + sum(one.refused for one in each)
    counts.skipped = past.skipped + sum(one.skipped for one in each)
    counts.groups, counts.off = len(groups), sum(not group.worth.on for group in groups)


def run_looks(
    detector: Detector, picture: Picture, attention: Attention, recall: Recall | None = None
) -> Sequence[Boxes]:
    """What the detector finds at each of the looks."""
    if attention.looked == "whole":
        return detector.detect([picture], [recall])
    return detector.look(picture, attention.looks, recall) if attention.looks else ()
