"""What a heavy pass found, as it travels and as boxes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from framegate.models.boxes import Boxes
from framegate.pipeline.heavy.questions import Seen


def as_seen(boxes: Boxes, models: Sequence[str]) -> Seen:
    """Boxes for the way back to who asked, exact: a float32 has one float64 and back."""
    rows = [(x1, y1, x2, y2) for x1, y1, x2, y2 in boxes.xyxy.tolist()]
    scores, class_ids = tuple(boxes.scores.tolist()), tuple(boxes.class_ids.tolist())
    return Seen(tuple(rows), scores, class_ids, tuple(models))


def as_boxes(seen: Seen) -> Boxes:
    """The boxes that were seen. Raises ArrayMismatch if they are none."""
    xyxy = np.array(seen.boxes, np.float32).reshape(-1, 4)
    return Boxes(xyxy, np.array(seen.scores, np.float32), np.array(seen.class_ids, np.int32))
