"""Decoding of NanoDet and CenterNet: by hand, and against slow methods that look at every cell."""

import math

import numpy as np
import pytest
from scipy.ndimage import maximum_filter
from scipy.special import expit

from framegate.models.formats import centernet, nanodet


def quiet_cells() -> np.ndarray:
    """Of an input of 96 x 64: 12 * 8, 6 * 4, 3 * 2 and, rounded up, 2 * 1 cells."""
    return np.full((96 + 24 + 6 + 2, 112), -9, np.float32)


def test_one_nanodet_cell_by_hand():
    cells = quiet_cells()
    cell = cells[96 + 2 * 6 + 3]  # stride 16, row 2, column 3: the point (48, 32)
    cell[7] = 0.0  # score one half
    for side, strides in enumerate((1, 2, 3, 7)):
        cell[80 + 8 * side + strides] = 60.0
    found = nanodet.decode_cells(cells, (96, 64), 0.3)
    np.testing.assert_allclose(found.xyxy, [[48 - 16, 32 - 32, 48 + 48, 32 + 112]], rtol=1e-5)
    np.testing.assert_allclose(found.scores, [0.5])
    assert found.class_ids.tolist() == [7]


def test_the_expectation_lies_between_two_bins():
    cells = quiet_cells()
    cells[96 + 24, 0] = 3.0
    cells[96 + 24, 80 + 4] = cells[96 + 24, 80 + 5] = 50.0
    left = nanodet.decode_cells(cells, (96, 64), 0.3).xyxy[0, 0]
    np.testing.assert_allclose(left, -4.5 * 32, rtol=1e-5)


@pytest.mark.parametrize(("seed", "size"), [(0, (96, 64)), (1, (32, 32)), (2, (160, 224))])
def test_nanodet_plus_against_every_cell(seed, size):
    """Four grids, of which the coarsest covers a side in part; boxes start at a cell's corner."""
    rng = np.random.default_rng(seed)
    width, height = size
    places = [
        (stride, x, y)
        for stride in (8, 16, 32, 64)
        for y, x in np.ndindex(math.ceil(height / stride), math.ceil(width / stride))
    ]
    cells = rng.normal(-3, 2, (len(places), 112)).astype(np.float32)
    wanted = []
    for (stride, x, y), row in zip(places, cells.astype(np.float64), strict=True):
        scores = 1 / (1 + np.exp(-row[:80]))
        left, top, right, bottom = (
            stride * sum(n * share for n, share in enumerate(np.exp(side) / np.exp(side).sum()))
            for side in row[80:].reshape(4, 8)
        )
        for c in np.flatnonzero(scores > 0.4):
            box = x * stride - left, y * stride - top, x * stride + right, y * stride + bottom
            wanted.append([scores[c], float(c), *box])
    found = nanodet.decode_plus([cells], size, 0.4, 100)
    got = np.column_stack([found.scores, found.class_ids, found.xyxy])
    expected = np.array(sorted(wanted, reverse=True)[:500])
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-3)
    assert len(wanted) > 20


def test_equal_scores_go_by_stride_class_and_cell():
    cells = quiet_cells()
    for cell, class_id in ((0, 9), (5 * 12 + 5, 3), (5 * 12 + 4, 3), (96, 1)):
        cells[cell, class_id] = 1.0
    found = nanodet.decode_cells(cells, (96, 64), 0.3)
    assert found.class_ids.tolist() == [3, 3, 9, 1]
    assert found.xyxy[0, 0] == found.xyxy[1, 0] - 8


def test_one_centernet_peak_by_hand():
    heat = np.full((80, 16, 24), -9, np.float32)
    sides, offset = np.zeros((2, 2, 16, 24), np.float32)
    heat[5, 3, 4], heat[5, 3, 5], heat[6, 3, 5] = 1.0, 0.5, 0.4
    sides[:, 3, 4], offset[:, 3, 4] = (2, 3), (0.5, 0.25)
    sides[:, 3, 5] = (0.5, 0.5)
    found = centernet.decode(heat, sides, offset, 0.3)
    # The neighbour of class 5 is no peak; that of class 6 is one of its own class.
    assert found.class_ids.tolist() == [5, 6]
    # Centres (4.5, 3.25) * 4 = (18, 13) and (20, 12).
    assert found.xyxy.tolist() == [[14, 7, 22, 19], [19, 11, 21, 13]]
    np.testing.assert_allclose(found.scores, expit([1.0, 0.4]), rtol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_centernet_against_a_filter_over_all_maps(seed):
    rng = np.random.default_rng(seed)
    # Steps of a quarter, so that many neighbours are equal.
    heat = (rng.normal(-2, 1.5, (80, 16, 24)) * 4).round().astype(np.float32) / 4
    sides = (rng.integers(1, 120, (2, 16, 24)) / 4).astype(np.float32)
    offset = np.zeros((2, 16, 24), np.float32)
    peaks = (heat == maximum_filter(heat, (1, 3, 3), mode="nearest")) & (expit(heat) > 0.3)
    found = centernet.decode(heat, sides, offset, 0.3, max_boxes=100_000)
    assert len(found) == np.count_nonzero(peaks) > 100
    classes, rows, columns = np.nonzero(peaks)
    wanted = {
        (int(c), *(4 * x - 2 * sides[0, y, x], 4 * y - 2 * sides[1, y, x]))
        for c, y, x in zip(classes, rows, columns, strict=True)
    }
    got = {(int(c), box[0], box[1]) for c, box in zip(found.class_ids, found.xyxy, strict=True)}
    assert got == wanted
    best = centernet.decode(heat, sides, offset, 0.3, max_boxes=9)
    assert (best.xyxy == found.xyxy[:9]).all()


def test_nothing_above_the_threshold():
    assert len(nanodet.decode_cells(quiet_cells(), (96, 64), 0.3)) == 0
    heat = np.full((80, 8, 8), -9, np.float32)
    maps = np.zeros((2, 2, 8, 8), np.float32)
    assert len(centernet.decode(heat, *maps, 0.3)) == 0
