"""What detect looks up before it computes: equal inputs, and where it may, much alike pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from models.boxes import Boxes
from models.cells import cells_of, grid_of
from models.detector import Detector
from models.near import Near, NearSettings
from models.picture import Picture
from models.recall import Memory, Recall
from pipeline.cache_counts import CacheCounts
from stages.attention import Attention
from stages.belief import BeliefSettings
from stages.cache_options import CacheOptions


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What was found at each look at a frame.

    lent_s  how old that is, where it is taken over from a picture that was nearly the same; else
            None
    """

    boxes: Sequence[Boxes]
    lent_s: float | None = None


@dataclass(frozen=True, slots=True)
class Remembering:
    """What is remembered of a group's sources, for one of them; None: nothing of that kind.

    One thread.
    """

    recall: Recall | None = None
    near: Near | None = None
    now: Callable[[], float] = lambda: 0.0
    source: str = ""

    def look(self, detector: Detector, picture: Picture, attention: Attention) -> Found:
        """What is there at each of the looks: known, or found by the detector."""
        if self.near is None or not attention.looks:
            return Found(run_looks(detector, picture, attention, self.recall))
        cells = attention.cells
        if cells is None:
            cells = cells_of(picture, grid_of(picture.width, picture.height))
        sight = self.near.see(cells, attention.looks, self.now(), self.source)
        if sight is not None and sight.serves:
            return Found(sight.boxes, sight.age_s)
        found = run_looks(detector, picture, attention, self.recall)
        if sight is not None:
            self.near.learn(sight, found)
        return Found(found)

    def is_off(self) -> bool:
        """Whether all of it looks up a sample only."""
        recall = [] if self.recall is None else [not self.recall.worth.on]
        off = recall + ([] if self.near is None else [self.near.is_off])
        return bool(off) and all(off)


NOTHING_REMEMBERED = Remembering()
_NOTHING: Final = CacheCounts()


def remembering(
    options: CacheOptions,
    memory: Memory,
    detector: Detector,
    settings: BeliefSettings,
    now: Callable[[], float],
) -> Remembering:
    """What `[cache]` asks to be remembered of a group, in its memory; now: UNIX seconds."""
    recall = Recall(memory) if options.exact else None
    if not options.near:
        return Remembering(recall)
    using = settings.attention
    when = NearSettings(
        using.long_side,
        using.shown,
        options.near_error,
        most_age_s=options.near_age_s,
        classes=frozenset(detector.class_ids),
    )
    facts = b"".join(member.facts for member in detector.members)
    return Remembering(recall, Near(memory, facts, when, using.gate), now)


def count(counts: CacheCounts, groups: Sequence[Remembering], past: CacheCounts = _NOTHING) -> None:
    """Bring `counts` up to date with what all groups counted; past: those of models let go."""
    exact = [group.recall.counts for group in groups if group.recall is not None]
    views = [group.near for group in groups if group.near is not None]
    near = [each.counts for each in views]
    counts.hits = past.hits + sum(each.hits for each in exact)
    counts.misses = past.misses + sum(each.misses for each in exact)
    counts.refused = past.refused + sum(each.refused for each in exact)
    counts.skipped = past.skipped + sum(each.skipped for each in exact)
    counts.near = past.near + sum(each.served for each in near)
    counts.checked = past.checked + sum(each.checked for each in near)
    counts.wrong = past.wrong + sum(each.wrong for each in near)
    counts.kinds = sum(len(each.kinds) for each in views)
    counts.trusted = sum(each.trusted for each in views)
    counts.groups, counts.off = len(groups), sum(group.is_off() for group in groups)


def run_looks(
    detector: Detector, picture: Picture, attention: Attention, recall: Recall | None = None
) -> Sequence[Boxes]:
    """What the detector finds at each of the looks."""
    if attention.looked == "whole":
        return detector.detect([picture], [recall])
    return detector.look(picture, attention.looks, recall) if attention.looks else ()
