"""Each output format by hand: what a network says, and the boxes that it means."""

import numpy as np
import pytest
from scipy.special import expit, softmax

from framegate.models.boxes import Boxes
from framegate.models.errors import ArrayMismatch
from framegate.models.formats.shared_decoding import MAX_CANDIDATES
from framegate.models.formats.table import FORMATS

SIZE = (96, 64)  # width, height


def decode(name, *outputs, n_classes=3, min_score=0.3, size=SIZE, **options):
    arrays = [np.array(out, np.float32) for out in outputs]
    return FORMATS[name].decode(arrays, size, n_classes, min_score, options)


def rows(boxes: Boxes):
    table = np.column_stack([boxes.class_ids, boxes.scores, boxes.xyxy])
    return [[round(float(number), 4) for number in row] for row in table]


CENTRED = [[10, 20, 4, 8, 0.1, 0.6, 0.2], [50, 30, 20, 10, 0.9, 0, 0], [1, 1, 1, 1, 0.3, 0, 0]]
CENTRED_BOXES = [[0, 0.9, 40, 25, 60, 35], [1, 0.6, 8, 16, 12, 24]]


def test_yolo_either_way():
    assert rows(decode("yolo", CENTRED)) == CENTRED_BOXES
    assert rows(decode("yolo", np.transpose(CENTRED))) == CENTRED_BOXES
    square = np.zeros((7, 7), np.float32)
    square[:3] = CENTRED
    assert rows(decode("yolo", square, layout="rows")) == CENTRED_BOXES
    assert rows(decode("yolo", square.T, layout="columns")) == CENTRED_BOXES


def test_yolo_with_objectness():
    found = [
        [10, 20, 4, 8, 0.5, 0.1, 0.8, 0.2],
        [50, 30, 20, 10, 1, 0.9, 0, 0],
        [1, 1, 1, 1, 0.2, 1, 1, 1],
    ]
    assert rows(decode("yolo_objectness", found)) == [CENTRED_BOXES[0], [1, 0.4, 8, 16, 12, 24]]


def test_yolox_cells():
    # 96x64: 12 * 8 cells of 8, then 6 * 4 of 16, then 3 * 2 of 32.
    output = np.zeros((96 + 24 + 6, 8), np.float32)
    output[12 + 2, :6] = (0.5, 0.25, np.log(2), 0, 0.8, 1)  # column 2, row 1 of stride 8
    output[96 + 24 + 5, :8] = (0, 0, 0, 0, 0.9, 0, 0, 0.5)  # column 2, row 1 of stride 32
    assert rows(decode("yolox", output)) == [
        [0, 0.8, 20 - 8, 10 - 4, 20 + 8, 10 + 4],
        [2, 0.45, 64 - 16, 32 - 16, 64 + 16, 32 + 16],
    ]


def test_yolo_end_to_end():
    found = [
        [1, 2, 30, 40, 0.5, 2],
        [3, 4, 5, 6, 0.9, 0],
        [1, 1, 2, 2, 0.2, 1],
        [0, 0, 9, 9, 0.8, 7],
    ]
    wanted = [[0, 0.9, 3, 4, 5, 6], [2, 0.5, 1, 2, 30, 40]]
    assert rows(decode("yolo_end_to_end", found)) == wanted
    v7 = [[0, *row[:4], row[5], row[4]] for row in found]
    assert rows(decode("yolo_end_to_end", v7)) == wanted
    assert rows(decode("yolo_end_to_end", np.zeros((0, 6)))) == []


def test_detr():
    boxes = [[0.5, 0.5, 0.5, 0.5], [0.25, 0.25, 0.5, 0.5]]
    logits = [[0, 3, 0, 0], [0, 0, 0, 9]]
    share = float(softmax(logits[0])[1])
    wanted = [[1, round(share, 4), 24, 16, 72, 48]]
    assert rows(decode("detr_softmax", logits, boxes)) == wanted
    # Class 0 is the network's 1, and so on.
    assert rows(decode("detr_softmax", logits, boxes, n_classes=2, class_numbers=[1, 2])) == [
        [0, *wanted[0][1:]]
    ]
    logits = [[-5, 1, 0.5], [-5, -5, -5]]
    assert rows(decode("detr_sigmoid", logits, boxes)) == [
        [1, round(float(expit(1)), 4), 24, 16, 72, 48],
        [2, round(float(expit(0.5)), 4), 24, 16, 72, 48],
    ]
    joined = [[0.5, 0.5, 0.5, 0.5, 0.1, 0.7, 0.6]]
    assert rows(decode("detr_joined", joined)) == [[1, 0.7, 24, 16, 72, 48]]


def test_ssd_rows_end_at_minus_one():
    table = [[0, 2, 0.9, 0.25, 0.5, 0.5, 1], [0, 1, 0.2, 0, 0, 1, 1], [0, 0, 0.9, 0, 0, 1, 1],
             [-1, 0, 0, 0, 0, 0, 0], [0, 1, 0.9, 0, 0, 1, 1]]  # fmt: skip
    wanted = [[1, 0.9, 24, 32, 48, 64]]
    assert rows(decode("ssd_rows", [table])) == wanted
    assert rows(decode("ssd_rows", table)) == wanted
    assert rows(decode("ssd_rows", table, class_numbers=[2, 5, 6])) == [[0, *wanted[0][1:]]]


def test_ssd_deltas_from_one_default_box():
    options = {"aspect_ratios": [[]], "scales": [0.5, 0.5], "grids": [[1, 1]]}
    # Two boxes of half the input in its middle; the first moved by half a side and twice as wide.
    deltas = [[5, 0, 5 * np.log(2), 0], [0, 0, 0, 0]]
    logits = [[0, 2, 0, 0], [9, 0, 0, 0]]
    score = round(float(softmax(logits[0])[1]), 4)
    found = decode("ssd_deltas", deltas, logits, **options)
    # Centre 48 + 24, width 96: to 120, cut at 96.
    assert rows(found) == [[0, score, 24, 16, 96, 48]]
    last = [[2, 0, 0, 0], [0, 0, 0, 9]]
    assert rows(decode("ssd_deltas", deltas, last, **options, background=-1))[0][:2] == [0, score]


def test_ssd_threshold_is_that_of_every_softmax():
    rng = np.random.default_rng(0)
    options = {"aspect_ratios": [[2, 3]] * 2, "grids": [[4, 6], [2, 3]], "min_ratio": 0.2}
    n = (24 + 6) * 6
    deltas, logits = rng.normal(size=(n, 4)), rng.normal(scale=3, size=(n, 4)).astype(np.float32)
    found = decode("ssd_deltas", deltas, logits, min_score=0.4, **options)
    shares = softmax(logits.astype(np.float64), axis=1)[:, 1:]
    np.testing.assert_allclose(found.scores, np.sort(shares[shares > 0.4])[::-1], rtol=1e-5)
    assert len(found) > 50


def test_centernet():
    heat = np.full((3, 16, 24), -9, np.float32)
    heat[2, 5, 7], heat[2, 5, 8] = 1, 0.5
    sides, offset = np.zeros((2, 2, 16, 24), np.float32)
    sides[:, 5, 7], offset[:, 5, 7] = (4, 2), (0.5, 0.25)
    box = [30 - 8, 21 - 4, 30 + 8, 21 + 4]
    assert rows(decode("centernet_usual", heat, sides, offset)) == [
        [2, round(float(expit(1)), 4), *box]
    ]
    assert rows(decode("centernet_usual", expit(heat), sides, offset, heat="scores")) == [
        [2, round(float(expit(1)), 4), *box]
    ]


def test_nanodet_joined():
    # 12 * 8, 6 * 4, 3 * 2 and, rounded up, 2 * 1 cells.
    output = np.full((96 + 24 + 6 + 2, 3 + 4 * 8), 0, np.float32)
    output[96 + 6 + 2, 1] = 0.75  # column 2, row 1 of stride 16
    output[96 + 6 + 2, 3 + np.array([1, 8 + 0, 16 + 2, 24 + 3])] = 60
    assert rows(decode("nanodet_joined", output)) == [[1, 0.75, 16, 16, 64, 64]]
    assert rows(decode("nanodet_joined", output, centre=0.5)) == [[1, 0.75, 24, 24, 72, 64]]


def test_nanodet_joined_with_logits():
    output = np.full((96 + 24 + 6 + 2, 3 + 4 * 8), -9, np.float32)
    output[96 + 6 + 2, 1] = np.log(3)  # column 2, row 1 of stride 16; sigmoid: 3 / (1 + 3)
    output[96 + 6 + 2, 3 + np.array([1, 8 + 0, 16 + 2, 24 + 5])] = 60
    # Nothing is cut at the lower border of the input, 64.
    assert rows(decode("nanodet_joined", output, scores="logits")) == [[1, 0.75, 16, 16, 64, 96]]


def test_boxes_with_labels_and_with_scores():
    boxes = [[1, 2, 3, 4], [10, 20, 30, 40]]
    assert rows(decode("boxes_labels", boxes, [0.4, 0.9], [0, 2])) == [
        [2, 0.9, 10, 20, 30, 40],
        [0, 0.4, 1, 2, 3, 4],
    ]
    found = decode("boxes_labels", boxes, [0.4, 0.9], [0, 7], class_numbers=[5, 6, 7])
    assert rows(found) == [[2, 0.9, 10, 20, 30, 40]]
    share = [[0.25, 0.5, 0.5, 1]]
    for form, wanted in (
        ("xyxy", [24, 32, 48, 64]), ("yxyx", [48, 16, 96, 32]), ("xywh", [24, 32, 72, 96]),
        ("cxcywh", [0, 0, 48, 64]),
    ):  # fmt: skip
        found = decode("boxes_labels", share, [0.5], [1], form=form, unit="share")
        assert rows(found) == [[1, 0.5, *wanted]]
    scores = [[0.1, 0.5, 0.6, 0.9], [0, 0, 0.2, 0]]
    assert rows(decode("boxes_scores", boxes, scores)) == [
        [2, 0.6, 1, 2, 3, 4],
        [1, 0.5, 1, 2, 3, 4],
    ]
    assert rows(decode("boxes_scores", boxes, scores, class_numbers=[1, 2, 3]))[0][:2] == [2, 0.9]


def test_at_most_so_many_candidates_and_the_best():
    rng = np.random.default_rng(1)
    scores = rng.random((4000, 3)).astype(np.float32)
    boxes = np.ones((4000, 4), np.float32)
    found = decode("boxes_scores", boxes, scores)
    assert len(found) == MAX_CANDIDATES
    assert found.scores.tolist() == sorted(scores.ravel().tolist(), reverse=True)[:MAX_CANDIDATES]
    found = decode("yolo", np.concatenate([boxes, scores], axis=1))
    assert (
        found.scores.tolist() == sorted(scores.max(axis=1).tolist(), reverse=True)[:MAX_CANDIDATES]
    )


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("yolo", [(9, 8)]), ("yolo", [(2, 7, 9)]),
        ("yolo_objectness", [(9, 9)]), ("yolox", [(8, 100)]),
        ("yolo_end_to_end", [(9, 5)]), ("detr_softmax", [(9, 2), (9, 4)]),
        ("detr_sigmoid", [(9, 3), (8, 4)]), ("detr_joined", [(9, 8)]), ("ssd_rows", [(1, 9, 6)]),
        ("nanodet_joined", [(9, 35)]),
        ("centernet_usual", [(3, 8, 8), (4, 8, 8), (2, 8, 8)]),
        ("boxes_labels", [(9, 4), (8,), (8,)]), ("boxes_scores", [(9, 4), (9, 2)]),
    ],
)  # fmt: skip
def test_wrong_shapes_are_told(name, shapes):
    with pytest.raises(ArrayMismatch, match="expected"):
        decode(name, *(np.ones(shape) for shape in shapes))


def test_a_layout_that_does_not_fit_is_told():
    with pytest.raises(ArrayMismatch, match=r"output: expected \(7, any\), found \(9, 7\)"):
        decode("yolo", np.zeros((9, 7)), layout="columns")


def test_formats_say_what_they_are():
    for name, one in FORMATS.items():
        assert one.about
        assert all(1 <= rank <= 3 for rank in one.ranks), name
