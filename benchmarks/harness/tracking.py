"""HOTA, IDF1 and ID switches of tracks against reference tracks (the `bench` extra: trackeval).

Luiten et al., "HOTA: A Higher Order Metric for Evaluating Multi-Object Tracking" (IJCV 2021);
Ristani et al., "Performance Measures and a Data Set for Multi-Target, Multi-Camera Tracking"
(ECCV Workshops 2016); Bernardin and Stiefelhagen, "Evaluating Multiple Object Tracking Performance:
The CLEAR MOT Metrics" (EURASIP JIVP 2008). The numbers are those of the package trackeval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.harness.agreement import Tracked, pairs
from framegate.models.boxes import AnyArray, FloatArray, iou


@dataclass(frozen=True, slots=True)
class TrackScore:
    """HOTA and its two parts (means over IoU .05 to .95), and IDF1 at IoU .5: 0..1 each.

    switches  how often a reference track was matched by another of our tracks than before, at IoU
              .5
    """

    hota: float
    detection: float
    association: float
    idf1: float
    switches: int = 0


def score(ours: Sequence[Tracked], reference: Sequence[Tracked]) -> TrackScore:
    """Score the boxes that have a track, all classes at once; boxes of two classes never match.

    A box of ours that matches one without a track counts for nothing, as MOTChallenge does it: the
    reference sees the object, but does not say who it is. NaN where the reference has no track, 0
    where only ours has none.
    """
    from trackeval.metrics import CLEAR, HOTA, Identity

    ours = [_undisputed(a, b) for a, b in zip(ours, reference, strict=True)]
    reference = [frame.in_tracks() for frame in reference]
    our_ids, our_rows = _numbered(ours)
    their_ids, their_rows = _numbered(reference)
    if not len(their_ids):
        nan = float("nan")
        return TrackScore(nan, nan, nan, nan)
    data = {
        "gt_ids": their_rows,
        "tracker_ids": our_rows,
        "similarity_scores": [_overlap(b, a) for a, b in zip(ours, reference, strict=True)],
        "num_gt_ids": len(their_ids),
        "num_tracker_ids": len(our_ids),
        "num_timesteps": len(ours),
        "num_gt_dets": sum(map(len, their_rows)),
        "num_tracker_dets": sum(map(len, our_rows)),
    }
    higher = HOTA().eval_sequence(data)
    identity = Identity({"PRINT_CONFIG": False}).eval_sequence(data)
    clear = CLEAR({"PRINT_CONFIG": False}).eval_sequence(data)
    return TrackScore(
        hota=float(np.mean(higher["HOTA"])),
        detection=float(np.mean(higher["DetA"])),
        association=float(np.mean(higher["AssA"])),
        idf1=float(identity["IDF1"]),
        switches=int(clear["IDSW"]),
    )


def _undisputed(ours: Tracked, reference: Tracked) -> Tracked:
    ours = ours.in_tracks()
    rows, columns = pairs(ours.boxes, reference.boxes)
    counts = np.ones(len(ours.ids), np.bool_)
    counts[rows[reference.ids[columns] == 0]] = False
    return Tracked(ours.pts, ours.boxes.take(counts), ours.ids[counts])


def _numbered(frames: Sequence[Tracked]) -> tuple[AnyArray, list[AnyArray]]:
    """The tracks there are, and each frame's tracks as places among them."""
    ids, places = np.unique(
        np.concatenate([np.zeros(0, np.int32), *(frame.ids for frame in frames)]),
        return_inverse=True,
    )
    ends = np.cumsum([len(frame.ids) for frame in frames])[:-1]
    return ids, np.split(places, ends)


def _overlap(reference: Tracked, ours: Tracked) -> AnyArray:
    overlap = iou(reference.boxes.xyxy, ours.boxes.xyxy).astype(np.float64)
    overlap[reference.boxes.class_ids[:, None] != ours.boxes.class_ids[None, :]] = 0
    return overlap


_RECENT_S = 1.0  # the speed of a thing is that of its boxes in this time


def jumps(frames: Sequence[Tracked]) -> int:
    """Count how often a number is further away than its thing could have moved since its last box.

    A thing moves at most half of its longer side, and half as far again as at its speed in the last
    second before.
    """
    paths: dict[int, list[tuple[float, FloatArray]]] = {}
    count = 0
    for frame in frames:
        for track, box in zip(frame.ids.tolist(), frame.boxes.xyxy, strict=True):
            if not track:
                continue
            path = paths.setdefault(track, [])
            if path:
                count += _distance(path[-1][1], box) > _reach(path, frame.pts)
            path.append((frame.pts, box))
            while path[-1][0] - path[0][0] > _RECENT_S:
                del path[0]
    return count


def _reach(path: Sequence[tuple[float, FloatArray]], pts: float) -> float:
    """Return how far, in pixels, the thing of a path can be from its last box."""
    (first_s, first), (last_s, last) = path[0], path[-1]
    speed = 0.0
    if last_s > first_s:
        speed = _distance(first, last) / (last_s - first_s)
    longer = float(max(last[2] - last[0], last[3] - last[1]))
    return longer / 2 + 1.5 * speed * (pts - last_s)


def _distance(a: FloatArray, b: FloatArray) -> float:
    """Return the distance of the centres of two boxes, pixels."""
    x, y = (a[:2] + a[2:] - b[:2] - b[2:]) / 2
    return float(np.hypot(x, y))
