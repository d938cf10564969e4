"""Boxes and pictures: checked at construction, read-only afterwards."""

import numpy as np
import pytest

from framegate.models.boxes import Boxes, empty, together
from framegate.models.coco import CATEGORY_IDS, LABELS, class_ids
from framegate.models.errors import ArrayMismatch, PictureUnreadable, UnknownClass
from framegate.models.picture import Picture, cut, from_bgr, read_photograph


def two_boxes() -> Boxes:
    return Boxes(
        np.array([[0, 0, 10, 10], [5, 5, 20, 30]], np.float32),
        np.array([0.9, 0.4], np.float32),
        np.array([2, 0], np.int32),
    )


def planes(height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    half = ((height + 1) // 2, (width + 1) // 2)
    return (
        np.zeros((height, width), np.uint8),
        np.full(half, 128, np.uint8),
        np.full(half, 128, np.uint8),
    )


def test_boxes_are_read_only_and_the_callers_array_is_not():
    xyxy = np.zeros((1, 4), np.float32)
    boxes = Boxes(xyxy, np.ones(1, np.float32), np.zeros(1, np.int32))
    with pytest.raises(ValueError, match="read-only"):
        boxes.xyxy[0, 0] = 1
    xyxy[0, 0] = 1


def test_take_follows_the_order_of_the_rows():
    taken = two_boxes().take(np.array([1, 0]))
    assert taken.class_ids.tolist() == [0, 2]
    assert taken.xyxy[0].tolist() == [5, 5, 20, 30]


def test_moved_shifts_every_corner():
    assert two_boxes().moved(3, -1).xyxy.tolist() == [[3, -1, 13, 9], [8, 4, 23, 29]]


def test_empty_has_no_box():
    assert len(empty()) == 0


@pytest.mark.parametrize(
    ("xyxy", "scores", "ids"),
    [
        (np.zeros((1, 4)), np.ones(1, np.float32), np.zeros(1, np.int32)),
        (np.zeros((2, 4), np.float32), np.ones(1, np.float32), np.zeros(1, np.int32)),
        (np.zeros((1, 4), np.float32), np.ones(1, np.float32), np.zeros(1, np.int64)),
        (np.full((1, 4), np.nan, np.float32), np.ones(1, np.float32), np.zeros(1, np.int32)),
        ([[0, 0, 1, 1]], np.ones(1, np.float32), np.zeros(1, np.int32)),
    ],
)
def test_wrong_arrays_are_refused(xyxy, scores, ids):
    with pytest.raises(ArrayMismatch):
        Boxes(xyxy, scores, ids)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (4, 4), (361, 641)])
def test_chroma_planes_are_half_rounded_up(height, width):
    picture = Picture(*planes(height, width))
    assert (picture.height, picture.width) == (height, width)


def test_pictures_of_other_shapes_are_refused():
    y, u, v = planes(5, 5)
    with pytest.raises(ArrayMismatch, match="u: expected"):
        Picture(y, u[:2], v)
    with pytest.raises(ArrayMismatch, match="at least one pixel"):
        Picture(y[:0], u, v)
    with pytest.raises(ArrayMismatch, match="bt601 or bt709"):
        Picture(y, u, v, matrix="bt2020")  # type: ignore[arg-type]


def test_a_cut_is_a_window_on_the_same_memory():
    y, u, v = planes(8, 8)
    part = cut(Picture(y, u, v, "bt601", True), (2, 4, 7, 8))
    assert (part.width, part.height, part.matrix, part.full_range) == (5, 4, "bt601", True)
    assert np.shares_memory(part.y, y)
    assert part.u.shape == (2, 3)


@pytest.mark.parametrize("rect", [(1, 0, 8, 8), (0, 0, 9, 8), (4, 0, 4, 8), (-2, 0, 4, 4)])
def test_a_cut_starts_at_even_pixels_inside(rect):
    with pytest.raises(ArrayMismatch):
        cut(Picture(*planes(8, 8)), rect)


def test_grey_photograph_has_no_colour():
    picture = from_bgr(np.full((3, 5, 3), 77, np.uint8))
    assert (picture.y == 77).all()
    assert (picture.u == 128).all()
    assert (picture.v == 128).all()


def test_unreadable_photograph(tmp_path):
    with pytest.raises(PictureUnreadable) as caught:
        read_photograph(tmp_path / "none.jpg")
    assert caught.value.path == tmp_path / "none.jpg"


def test_labels_and_coco_ids():
    assert (len(LABELS), len(set(LABELS)), len(CATEGORY_IDS)) == (80, 80, 80)
    by_coco_id = dict(zip(CATEGORY_IDS, LABELS, strict=True))
    # A few pairs from COCO's own list.
    assert [by_coco_id[i] for i in (1, 13, 27, 44, 62, 90)] == [
        "person",
        "stop sign",
        "backpack",
        "bottle",
        "chair",
        "toothbrush",
    ]


def test_class_ids_of_names():
    assert class_ids(["car", "person", "car"]) == (0, 2)
    assert class_ids(None) == tuple(range(80))
    with pytest.raises(UnknownClass) as caught:
        class_ids(["person", "dragon", "elf"])
    assert caught.value.names == ("dragon", "elf")


def test_features_follow_their_boxes() -> None:
    """Through a choice, a shift and a concatenation; a part without features has zeros."""
    xyxy = np.array([[0, 0, 10, 10], [20, 0, 30, 10]], np.float32)
    scores = np.array([0.9, 0.5], np.float32)
    class_ids = np.zeros(2, np.int32)
    features = np.array([[1, 2, 3], [4, 5, 6]], np.int8)
    known = Boxes(xyxy, scores, class_ids, features)
    plain = Boxes(xyxy, scores, class_ids)
    taken = known.take(np.array([1])).moved(5, 0).named(np.array([7], np.int32))
    assert taken.features is not None
    assert taken.features.tolist() == [[4, 5, 6]]
    joined = together([plain, taken])
    assert joined.features is not None
    assert joined.features.tolist() == [[0, 0, 0], [0, 0, 0], [4, 5, 6]]
    assert together([plain, plain]).features is None
    with pytest.raises(ArrayMismatch):
        Boxes(xyxy, scores, class_ids, features[:1])
