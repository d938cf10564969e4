"""Faces: what the network's numbers mean, and that it finds people's faces in photographs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from framegate.models.detector.faces import FaceNetwork, boxes_of, side_for
from framegate.models.picture import Picture, read_photograph

DATA = os.environ.get("FRAMEGATE_DATA")
LABELS = Path(__file__).resolve().parents[3] / "benchmarks" / "faces" / "labels.json"


def test_cells_are_boxes_and_two_of_one_face_are_one() -> None:
    heat = np.zeros((1, 8, 10), np.float32)
    size = np.zeros((2, 8, 10), np.float32)
    shift = np.zeros((2, 8, 10), np.float32)
    heat[0, 3, 5], heat[0, 3, 6], heat[0, 6, 1] = 0.9, 0.6, 0.09
    size[:, 3, 5:7] = np.log([[5.0], [4.0]])  # cells: 20 pixels high, 16 wide
    shift[:, 3, 5] = 0.25, -0.5  # its middle is in row 3.75, column 5.0, from its cell's corner
    (box,) = boxes_of((heat, size, shift), 0.1).xyxy.tolist()
    assert box == pytest.approx([20 - 8, 15 - 10, 20 + 8, 15 + 10], abs=1e-4)
    assert len(boxes_of((heat, size, shift), 0.95)) == 0


@pytest.mark.parametrize(
    ("width", "height", "side"), [(320, 240, 640), (960, 540, 640), (1080, 1920, 1280)]
)
def test_a_larger_picture_is_seen_larger_within_bounds(width: int, height: int, side: int) -> None:
    y = np.zeros((height, width), np.uint8)
    half = np.zeros((height // 2, width // 2), np.uint8)
    assert side_for(Picture(y, half, half)) == side


@pytest.mark.skipif(DATA is None, reason="FRAMEGATE_DATA names no folder with images/")
def test_faces_that_people_see_are_found_where_they_are() -> None:
    network = FaceNetwork()
    labels = json.loads(LABELS.read_text(encoding="utf-8"))
    for number in (36, 113, 328, 536):
        name = f"images/coco128/{number:012}.jpg"
        found = network.faces(read_photograph(Path(DATA or "") / name)).xyxy
        for left, top, right, bottom in labels[name]:
            x, y = (left + right) / 2, (top + bottom) / 2
            assert any(a < x < c and b < y < d for a, b, c, d in found.tolist()), name
