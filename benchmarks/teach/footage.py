"""Footage of one camera with its truth, and the episodes of a rule over the results of a run.

The truth is a list of visits: real things with their boxes, frame by frame. A track that shows a
visit is true, and one that shows none is false, as `benchmarks.alike.visit_labels` matches them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from benchmarks.alike.visit_labels import Match, VisitLabels, match
from benchmarks.truth.labels import Edges, corners
from framegate.models.boxes import FloatArray, iou
from framegate.models.matching import by_score
from framegate.pipeline.config.events import EventsConfig, RuleConfig
from framegate.pipeline.contracts.episodes import Change
from framegate.pipeline.contracts.object_filters import ObjectFilter
from framegate.pipeline.contracts.records import End
from framegate.pipeline.contracts.results import Object, Result
from framegate.pipeline.contracts.traits import Traits
from framegate.stages.events.replay import replay

RULE: Final = "thing"
LABELS: Final = ("person", "bicycle", "car", "motorcycle", "bus", "truck")
IOU: Final = 0.3  # as visits are matched
FOR_S: Final = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Watched:
    """The results of a run over some footage, and its truth.

    results  in order
    truth    visits of the footage
    cpu_ms   CPU milliseconds per frame of all processes of the run
    """

    results: Sequence[Result]
    truth: VisitLabels
    cpu_ms: float


class JudgedEpisode(NamedTuple):
    """An episode of the rule, and whether it is true.

    began   `seq` of its first frame
    tracks  numbers of its tracks, to its end
    """

    began: int
    traits: Traits
    label: str
    tracks: frozenset[int]
    is_true: bool


class FrameCounts(NamedTuple):
    """A frame: numbers of right objects, of objects and of things."""

    right: int
    shown: int
    there: int

    @property
    def is_miscounted(self) -> bool:
        """Return whether another number of objects is shown than of things that are there."""
        return self.shown != self.there


def changes_of(watched: Watched, filters: Mapping[str, ObjectFilter]) -> list[Change]:
    """Return the changes of the rule: an object of LABELS is somewhere in the picture."""
    config = EventsConfig(rules={RULE: RuleConfig("inside", labels=LABELS, for_s=FOR_S)})
    last = watched.results[-1]
    end = (last.source, End(1, last.seq + 1, True, epoch=last.epoch))
    outputs = replay(config, [*watched.results, end], filters)
    return [change for _, _, each in outputs for change in each.changes]


def matches_of(watched: Watched) -> dict[int, Match]:
    """Return what each track shows."""
    tracks: dict[int, dict[int, Edges]] = {}
    for result in watched.results:
        for each in objects_of(result):
            if each.track is not None:
                tracks.setdefault(each.track, {})[result.seq] = each.box
    return match(watched.truth, tracks)


def objects_of(result: Result) -> list[Object]:
    """Return the objects of LABELS, the highest score first."""
    kept = [each for each in result.objects if each.label in LABELS]
    return sorted(kept, key=lambda each: -each.score)


def judged_episodes(watched: Watched) -> list[JudgedEpisode]:
    """Return the episodes with their truth, in order; those that show an unsure object are left
    out.
    """
    matches = matches_of(watched)
    starts: dict[str, Change] = {}
    tracks: dict[str, set[int]] = {}
    for change in changes_of(watched, {}):
        starts.setdefault(change.episode, change)
        tracks.setdefault(change.episode, set()).update(change.tracks)
    judged = []
    for name, start in starts.items():
        found = [matches[track] for track in sorted(tracks[name]) if track in matches]
        if start.traits is None or any(each.unsure for each in found):
            continue
        is_true = any(each.visit is not None for each in found)
        shown = frozenset(tracks[name])
        judged.append(
            JudgedEpisode(start.began.seq, start.traits, start.label or "", shown, is_true)
        )
    return judged


@dataclass(frozen=True, slots=True, eq=False)
class ScoredFrame:
    """The objects of a frame, the highest score first, and the things that are there.

    tracks    number of each object's track; None: it has none
    scores    float32 (N,)
    overlaps  float32 (N, M), IoU of objects and things, 0 below IOU
    """

    tracks: tuple[int | None, ...]
    scores: FloatArray
    overlaps: FloatArray

    def without(self, muted: frozenset[int]) -> FrameCounts:
        """Return the numbers without the objects of muted tracks."""
        rows = [row for row, track in enumerate(self.tracks) if track not in muted]
        pairs = by_score(self.overlaps[rows], self.scores[rows])[0]
        return FrameCounts(len(pairs), len(rows), self.overlaps.shape[1])


def scored_frames(watched: Watched, since: int) -> list[ScoredFrame]:
    """Return the frames from `since` on, without objects that are not judged."""
    unsure = {track for track, each in matches_of(watched).items() if each.unsure}
    frames = []
    for result in watched.results:
        if result.seq < since:
            continue
        shown = [each for each in objects_of(result) if each.track not in unsure]
        there = [
            visit.box(result.seq)
            for visit in watched.truth.visits
            if visit.first <= result.seq <= visit.last
        ]
        overlaps = iou(corners([each.box for each in shown]), corners(there))
        overlaps[overlaps < IOU] = 0
        scores = np.array([each.score for each in shown], np.float32)
        frames.append(ScoredFrame(tuple(each.track for each in shown), scores, overlaps))
    return frames
