"""The way of a window through detect: its frames, what is kept of them, the head that reads it.

The stage window says with each frame which frames its window has. Of those that were looked at a
row is kept, with the features of their boxes and tiles, until the frames that it shows have left.
The head judges the newest boxes by the rows. So each frame goes through the network once, and once
through the head, however many windows it is in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from framegate.models.boxes import Boxes, FloatArray, IntArray
from framegate.models.gate.merge import Merged
from framegate.models.window.features import LENGTH, RegionFeatures
from framegate.models.window.head import NewFrame, WindowHead, WindowStep
from framegate.models.window.rows import WindowRows
from framegate.pipeline.contracts.stage import Item
from framegate.stages.window import window_of

CANDIDATE: Final = 0.1  # least score of a box that the head judges


@dataclass(frozen=True, slots=True, eq=False)
class FrameWindow:
    """The window that a frame is judged by.

    rows  of the frames in it that are older
    seq   of the frame
    """

    head: WindowHead
    rows: WindowRows
    seq: int

    @staticmethod
    def of(item: Item, head: WindowHead, kept: WindowRows) -> FrameWindow:
        """Return the window at a frame: what was kept, less what left with this frame."""
        first, seq = window_of(item.record).first, item.position.seq
        return FrameWindow(head, kept.since(first) if first < seq else WindowRows(), seq)

    def judge(
        self,
        merged: Merged,
        ids: IntArray,
        seen: Sequence[tuple[Boxes, RegionFeatures]],
        size: tuple[int, int],
    ) -> WindowStep:
        """Return what the head says of the boxes after looks, and the rows with this frame's.

        merged, ids  all boxes of the frame, and their tracks
        seen         what each look found and shows
        """
        features = np.zeros((len(ids), LENGTH), np.float16)
        shows = {
            key.tobytes(): feature
            for boxes, regions in seen
            for key, feature in zip(_keys(boxes), regions.boxes, strict=True)
        }
        for row, key in enumerate(_keys(merged.boxes)):
            if merged.is_new[row]:
                features[row] = shows[key.tobytes()]
        looks = tuple(regions for _, regions in seen)
        frame = NewFrame(merged.boxes, ids, merged.is_new, features, looks, size, self.seq)
        return self.head.step(self.rows, frame)


def _keys(boxes: Boxes) -> FloatArray:
    """Return what tells each box from all others of its frame: float32 (N, 6)."""
    columns = boxes.xyxy, boxes.scores[:, None], boxes.class_ids[:, None]
    return np.hstack(columns).astype(np.float32)
