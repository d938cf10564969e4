"""Precision of many resamples at once, against the scorer's own, one after the other."""

import numpy as np
import pytest

pytest.importorskip("pycocotools", reason="pycocotools is not installed (bench extra)")

from benchmarks.harness.scoring import Matches, average_precision
from benchmarks.quantization.resampled_precision import ap50, mean_precision, of_difference
from framegate.models.matching import resamples

N_PICTURES = 12


def made(seed: int, n_boxes: int = 40) -> Matches:
    """A class with as many true boxes a picture as labels at most; ever fewer at higher IoU."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, N_PICTURES, n_boxes)
    quality = rng.random(n_boxes)
    is_true = quality[None] > np.linspace(0.3, 0.95, 10)[:, None]
    n_labels = np.bincount(image[is_true[0]], minlength=N_PICTURES)
    n_labels += rng.integers(0, 2, N_PICTURES)
    ignored = np.broadcast_to(rng.random(n_boxes) < 0.1, (10, n_boxes)) & ~is_true
    scores = np.sort(rng.random(n_boxes))[::-1]
    return Matches(scores, image, is_true, ignored, n_labels)


@pytest.mark.parametrize("seed", range(4))
def test_each_resample_is_what_the_scorer_says_of_it(seed):
    classes = [made(10 * seed + i, n_boxes=5 + 20 * i) for i in range(4)]
    [times] = resamples(N_PICTURES, 50, seed)
    table = np.array([[average_precision(one, row) for one in classes] for row in times])
    assert mean_precision(classes)(times) == pytest.approx(
        np.nanmean(table, axis=1).mean(axis=1), abs=1e-12
    )
    assert ap50(classes)(times) == pytest.approx(np.nanmean(table[..., 0], axis=1), abs=1e-12)


def test_a_class_without_boxes_counts_as_missed():
    none = np.zeros((10, 0), bool)
    missed = Matches(np.zeros(0), np.zeros(0, np.int64), none, none, np.ones(N_PICTURES, np.int64))
    times = np.ones((1, N_PICTURES), np.int64)
    assert mean_precision([made(1), missed])(times) == pytest.approx(
        mean_precision([made(1)])(times) / 2
    )


def test_a_class_that_a_resample_lacks_is_left_out():
    one_true = np.ones((10, 1), bool)
    n_labels = np.eye(1, N_PICTURES, dtype=np.int64)[0]
    rare = Matches(np.ones(1), np.zeros(1, np.int64), one_true, ~one_true, n_labels)
    times = np.ones((1, N_PICTURES), np.int64)
    times[0, 0] = 0
    assert mean_precision([made(1), rare])(times) == mean_precision([made(1)])(times)


def test_a_thousand_paired_resamples_of_real_size_are_seconds():
    classes = [made(i, n_boxes=100) for i in range(80)]
    better = of_difference(mean_precision(classes), mean_precision(classes), N_PICTURES, 1000)
    assert (better.low, better.high) == (0, 0)
