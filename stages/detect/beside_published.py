"""The output of detect for the stage windows: colours and features of looks, and candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from framegate.models import colours
from framegate.models.boxes import FloatArray, IndexArray
from framegate.models.picture import Picture
from framegate.models.tracking.calm import (
    CalmSettings,
    candidate_score,
    least_of_candidates,
)
from framegate.pipeline.contracts.results import Object, Origin
from framegate.stages.detect.estimate import Estimate
from framegate.stages.detect.memory import KnownBoxes
from framegate.stages.detections import SeenObject
from framegate.stages.object_filters import SourceFilters


class BesidePublished(NamedTuple):
    """The fields of Detections that only the stage windows reads."""

    seen: tuple[SeenObject, ...]
    candidates: tuple[Object, ...]


def seen_objects(picture: Picture, estimate: Estimate) -> tuple[SeenObject, ...]:
    """Return the colours and features of the tracked objects that a frame's looks detected."""
    detected = [origin == "detected" for origin in estimate.origins]
    rows = np.flatnonzero(np.array(detected, np.bool_) & (estimate.ids > 0))
    if not len(rows):
        return ()
    counts = colours.counts(picture, estimate.shown.xyxy[rows]).tolist()
    features = [b""] * len(rows)
    if estimate.features is not None:
        features = [feature.tobytes() for feature in estimate.features[rows]]
    tracks = estimate.ids[rows].tolist()
    seen = zip(tracks, map(tuple, counts), features, strict=True)
    return tuple(SeenObject(*each) for each in seen)


def candidates(
    estimate: Estimate,
    settings: CalmSettings,
    labels: Sequence[str],
    filters: SourceFilters | None = None,
) -> tuple[Object, ...]:
    """Return the tracked objects whose scores are too low to be published, highest score first.

    Their scores are means of their looks. The lowest scores that a user has set hold for them.
    """
    known, calm = estimate.memory.known, estimate.memory.calm
    rows = np.flatnonzero((known.ids > 0) & (known.means == 0))
    if not len(rows):
        return ()
    mean_of = dict(zip(calm.ids.tolist(), calm.means.tolist(), strict=True))
    usual = known.boxes.scores[rows].tolist()
    ids = known.ids[rows].tolist()
    means = np.array(
        [mean_of.get(track, score) for track, score in zip(ids, usual, strict=True)], np.float32
    )
    boxes = known.boxes.take(rows)
    least = least_of_candidates(boxes.class_ids, settings)
    own_least = None
    if filters:
        own_least = filters.least_scores(boxes)
    if own_least is not None:
        least = np.maximum(least, own_least)
    chosen = np.flatnonzero(means > least)
    order = chosen[np.argsort(-means[chosen], kind="stable")]
    return _objects(known, rows[order], means[order].tolist(), labels, estimate.memory.clock_s)


def least_scores(found: Sequence[Object], settings: CalmSettings) -> Mapping[str, float]:
    """Return the score above which a candidate may appear, for each label of the candidates."""
    return {each.label: candidate_score(each.class_id, settings) for each in found}


class CarriedCandidates:
    """The candidates of frames that carry all boxes as they were: the same until a look or a move.

    One thread.
    """

    def __init__(self) -> None:
        self._last: dict[str, _MadeFrom] = {}

    def of(
        self,
        source: str,
        estimate: Estimate,
        settings: CalmSettings,
        labels: Sequence[str],
        filters: SourceFilters | None = None,
    ) -> tuple[Object, ...]:
        """Return `candidates` for a frame whose known boxes are those of the frame before.

        They are reused for the next such frame. Another model or other filters begin with a memory
        of their own, so they never meet the same boxes.
        """
        known, means = estimate.memory.known, estimate.memory.calm.means
        last = self._last.get(source)
        if last is None or last.known is not known or last.means is not means:
            found = candidates(estimate, settings, labels, filters)
            self._last[source] = last = _MadeFrom(known, means, found)
        return last.found

    def forget(self, source: str) -> None:
        """Forget a source that this worker no longer serves."""
        self._last.pop(source, None)


class _MadeFrom(NamedTuple):
    """Candidates, and the parts of the estimate that they are made from."""

    known: KnownBoxes
    means: FloatArray
    found: tuple[Object, ...]


def _objects(
    known: KnownBoxes, rows: IndexArray, means: Sequence[float], labels: Sequence[str], now_s: float
) -> tuple[Object, ...]:
    found = []
    corners = np.round(known.boxes.xyxy[rows].astype(np.float64), 1).tolist()
    for row, mean, box in zip(rows.tolist(), means, corners, strict=True):
        origin: Origin = "carried"
        if known.seen_s[row] == now_s:
            origin = "detected"
        elif known.since_s[row] == now_s:
            origin = "moved"
        class_id = int(known.boxes.class_ids[row])
        left, top, right, bottom = box
        found.append(
            Object(
                track=int(known.ids[row]),
                label=labels[class_id],
                class_id=class_id,
                score=round(mean, 4),
                box=(left, top, right, bottom),
                origin=origin,
            )
        )
    return tuple(found)
