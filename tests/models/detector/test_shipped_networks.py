"""The shipped networks: names, classes, sizes; and their boxes against a plain second method."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from framegate.models import coco
from framegate.models.detector import policy
from framegate.models.detector.detector import Detector, load
from framegate.models.detector.network import precisions_of, supported
from framegate.models.detector.precision_trial import of_shipped
from framegate.models.detector.shipped_networks import NETWORKS
from framegate.models.errors import UnknownClass, UnknownDetector
from framegate.models.picture import Picture, from_bgr

LOWEST = 0.15  # fewer boxes than the 500 that a decoder returns at most
DEMO = Path(__file__).parents[3] / "framegate" / "cli" / "demo.mp4"
SURVEILLANCE = ("surveillance", "surveillance-large")

Row = tuple[float, int, list[float]]  # score, class id, box in pixels of the source


@pytest.fixture(scope="module")
def street() -> Picture:
    """A frame of the demo clip, a street with cars."""
    with av.open(str(DEMO)) as clip:
        frames = [frame.to_ndarray(format="bgr24") for frame in clip.decode(video=0)]
    return from_bgr(frames[len(frames) // 2])


def outputs_of(detector: Detector, bgr: np.ndarray) -> list[np.ndarray]:
    network = detector.members[0].network
    token = network.submit(bgr, detector.members[0].fixes)
    copied: list[np.ndarray] = network.read(token, lambda arrays: [a.copy() for a in arrays])
    return copied


def rows_of_cells(cells: np.ndarray, width: int, height: int) -> list[Row]:
    """Return the boxes of NanoDet-Plus in pixels of the input, cell by cell."""
    rows = []
    places = [
        (stride, x, y)
        for stride in (8, 16, 32, 64)
        for y, x in np.ndindex(math.ceil(height / stride), math.ceil(width / stride))
    ]
    for (stride, x, y), cell in zip(places, cells.astype(np.float64), strict=True):
        reach = []
        for side in np.exp(cell[80:].reshape(4, 8)):
            reach.append(stride * float(side @ np.arange(8) / side.sum()))
        left, top, right, bottom = reach
        box = [x * stride - left, y * stride - top, x * stride + right, y * stride + bottom]
        for class_id in np.flatnonzero(cell[:80] > math.log(LOWEST / (1 - LOWEST))):
            rows.append((1 / (1 + math.exp(-cell[class_id])), int(class_id), box))
    return rows


def overlap(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def survivors(rows: list[Row]) -> list[Row]:
    """Return the rows that no better row of any class overlaps by more than half, best first."""
    kept: list[Row] = []
    for row in sorted(rows, key=lambda row: -row[0]):
        if all(overlap(row[2], better[2]) <= 0.5 for better in kept):
            kept.append(row)
    return kept


def in_source(rows: list[Row], scale: tuple[float, float], picture: Picture) -> list[Any]:
    limits = [picture.width, picture.height] * 2
    out = []
    for score, class_id, box in rows:
        edges = [edge / by for edge, by in zip(box, scale * 2, strict=True)]
        clipped = [min(max(edge, 0), most) for edge, most in zip(edges, limits, strict=True)]
        left, top, right, bottom = clipped
        if left < right and top < bottom:  # otherwise it is in the black border
            out.append([score, class_id, *clipped])
    return out


def assert_same(detector: Detector, picture: Picture, rows: list[Row]) -> None:
    scale = detector.members[0].prepare(picture).scale
    found = detector.detect([picture])[0]
    got = np.column_stack([found.scores, found.class_ids, found.xyxy])
    expected = np.array(in_source(survivors(rows), scale, picture)[:100])
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-2)
    assert len(got) >= 2


@pytest.mark.parametrize("side", [416, 640])
def test_nanodet_plus_decodes_as_a_plain_loop_does(street: Picture, side: int) -> None:
    detector = load(f"nanodet-plus-{side}", "f32", 1, min_score=LOWEST)
    bgr = detector.members[0].prepare(street).bgr
    height, width = bgr.shape[:2]
    [cells] = outputs_of(detector, bgr)
    assert_same(detector, street, rows_of_cells(cells, width, height))


@pytest.mark.parametrize("name", SURVEILLANCE)
def test_a_surveillance_network_decodes_as_a_plain_loop_does(street: Picture, name: str) -> None:
    detector = load(name, "int8", 1, min_score=LOWEST)
    prepared = detector.members[0].prepare(street)
    assert prepared.bgr.shape[1::-1] == NETWORKS[name].size
    boxes, scores, labels = outputs_of(detector, prepared.bgr)
    published = {0: "car", 1: "person", 2: "bicycle"}  # Intel: vehicle, person, bike
    rows = []
    for box, score, label in zip(boxes.tolist(), scores.tolist(), labels.tolist(), strict=True):
        if score > LOWEST:
            rows.append((score, coco.LABELS.index(published[int(label)]), box))
    assert_same(detector, street, rows)


@pytest.mark.parametrize("name", ["light", *SURVEILLANCE])
def test_each_finds_a_car_on_a_street(street: Picture, name: str) -> None:
    found = load(name, threads=2).detect([street])[0]
    assert "car" in [coco.LABELS[class_id] for class_id in found.class_ids]


def test_names_of_detectors() -> None:
    assert policy.names() == ("light", "heavy", *SURVEILLANCE)
    assert policy.load("light").parts == (("nanodet-plus", 416),)
    wide = policy.load("nanodet-plus-640")
    assert wide.parts == (("nanodet-plus", 640),)
    assert wide.min_score == policy.load("light").min_score
    assert policy.light_at(640).parts == wide.parts
    for name in ("nanodet-plus-100", "nanodet-plus-64", "surveillance-640", "nanodet-plus"):
        with pytest.raises(UnknownDetector):
            policy.load(name)


def test_a_size_in_a_name_is_that_of_the_input() -> None:
    for name, network in NETWORKS.items():
        if network.size is not None:
            assert policy.load(name).parts == ((name, max(network.size)),)


def test_classes_of_a_detector() -> None:
    assert policy.load("light").labels == coco.LABELS
    assert policy.load("heavy").labels == coco.LABELS
    assert policy.load("surveillance").labels == ("person", "bicycle", "car")
    with pytest.raises(UnknownClass, match="dog; it has person, bicycle, car"):
        load("surveillance", classes=["person", "dog"])
    with pytest.raises(UnknownClass, match="80 COCO classes: dragon"):
        load("surveillance", classes=["dragon"])


def test_an_ensemble_has_the_precisions_that_all_its_networks_have() -> None:
    names = dict(policy.load("heavy").parts)
    assert precisions_of(*names) == precisions_of("surveillance-large") != supported()


def test_a_trial_measures_the_precisions_of_the_files() -> None:
    assert precisions_of("nanodet-plus") == supported()
    in_8_bits = tuple(name for name in supported() if name.startswith("int8"))
    for name in SURVEILLANCE:
        assert of_shipped(name).precisions == precisions_of(name) == in_8_bits
        assert of_shipped(name).size == NETWORKS[name].size
