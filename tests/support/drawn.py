"""A grey picture, and a thing in it: what is drawn on, and what is drawn."""

from __future__ import annotations

import numpy as np

from framegate.models.picture import Picture
from framegate.pipeline.contracts.results import Object


def plain(width: int, height: int, y: int = 100, matrix="bt601", full_range=False) -> Picture:
    half = (height + 1) // 2, (width + 1) // 2
    return Picture(
        np.full((height, width), y, np.uint8),
        np.full(half, 128, np.uint8),
        np.full(half, 128, np.uint8),
        matrix,
        full_range,
    )


def thing(box, track: int | None = 1, label: str = "person", score: float = 0.87) -> Object:
    return Object(track, label, 0, score, box, "detected")
