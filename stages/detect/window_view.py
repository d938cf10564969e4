"""The window head in detect: what looks show of each box, and what the head makes of that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from framegate.models.boxes import Boxes, IntArray
from framegate.models.gate.seams import Merged
from framegate.models.window.features import LENGTH, RegionFeatures
from framegate.models.window.head import Sight, Step, WindowHead
from framegate.models.window.rows import WindowState

CANDIDATE = 0.1  # least score of a box that the head judges


@dataclass(frozen=True)
class WindowOptions:
    """The table `[window]`.

    head  whether a small network judges each box by the last frames that were looked at
    """

    head: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class WindowView:
    """A head, and the window of the source that it is to judge by."""

    head: WindowHead
    state: WindowState = field(default_factory=lambda: WindowState(()))

    def judge(
        self,
        merged: Merged,
        ids: IntArray,
        seen: Sequence[tuple[Boxes, RegionFeatures]],
        size: tuple[int, int],
        pts: float | None,
    ) -> Step:
        """What the head says of the boxes after the looks that were `seen`, one each."""
        features = np.zeros((len(ids), LENGTH), np.float16)
        shows = {
            row.tobytes(): feature
            for boxes, regions in seen
            for row, feature in zip(_named(boxes), regions.boxes, strict=True)
        }
        for row, name in enumerate(_named(merged.boxes)):
            if merged.is_new[row]:
                features[row] = shows[name.tobytes()]
        looks = tuple(regions for _, regions in seen)
        sight = Sight(merged.boxes, ids, merged.is_new, features, looks, size, pts)
        return self.head.step(self.state, sight)


def _named(boxes: Boxes) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """What tells a box from every other of its frame: float32 (N, 6)."""
    return np.hstack([boxes.xyxy, boxes.scores[:, None], boxes.class_ids[:, None]]).astype(
        np.float32
    )
