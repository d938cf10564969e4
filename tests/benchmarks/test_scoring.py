"""The scorer: against pycocotools' own accumulation, and by hand."""

import contextlib
import io

import numpy as np
import pytest

pytest.importorskip("pycocotools", reason="pycocotools is not installed (bench extra)")

from pathlib import Path

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks.harness.scoring import (
    LabelledPhotographs,
    Matches,
    at_threshold,
    average_precision,
    least_with_precision,
    match,
    score,
)
from framegate.models.boxes import Boxes, empty
from framegate.models.coco import CATEGORY_IDS


def labelled(labels: list[list[tuple[float, ...]]]) -> LabelledPhotographs:
    """Labels of each image as x1, y1, x2, y2, class, crowd (0 or 1)."""
    coco = COCO()
    annotations = [
        {
            "id": 1000 * image + i + 1,
            "image_id": image,
            "category_id": CATEGORY_IDS[int(c)],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": (x2 - x1) * (y2 - y1),
            "iscrowd": int(crowd),
        }
        for image, rows in enumerate(labels)
        for i, (x1, y1, x2, y2, c, crowd) in enumerate(rows)
    ]
    coco.dataset = {
        "info": {},
        "images": [{"id": i, "file_name": f"{i}.jpg"} for i in range(len(labels))],
        "categories": [{"id": i, "name": str(i)} for i in CATEGORY_IDS],
        "annotations": annotations,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    n = range(len(labels))
    return LabelledPhotographs(coco, tuple(n), tuple(Path(f"{i}.jpg") for i in n))


def boxes(rows: list[tuple[float, ...]]) -> Boxes:
    """Rows of x1, y1, x2, y2, class, score."""
    table = np.array(sorted(rows, key=lambda row: -row[5]), np.float32).reshape(-1, 6)
    return Boxes(
        np.ascontiguousarray(table[:, :4]),
        np.ascontiguousarray(table[:, 5]),
        table[:, 4].astype(np.int32),
    )


def made_up(seed: int) -> tuple[LabelledPhotographs, list[Boxes]]:
    rng = np.random.default_rng(seed)
    labels, answers = [], []
    for _ in range(12):
        corners = rng.integers(0, 200, (6, 2))
        sides = rng.integers(10, 120, (6, 2))
        rows = [
            (*corner, *(corner + side), c, crowd)
            for corner, side, c, crowd in zip(
                corners, sides, rng.integers(0, 4, 6), rng.random(6) < 0.1, strict=True
            )
        ]
        labels.append(rows)
        found = [
            (*(np.array(row[:4]) + rng.normal(0, 6, 4)), row[4], rng.uniform(0.05, 1))
            for row in rows
            if rng.random() < 0.8
        ]
        corners = rng.integers(0, 200, (4, 2))
        found += [(*c, *(c + 40), rng.integers(0, 4), rng.uniform(0.05, 0.7)) for c in corners]
        answers.append(boxes(found))
    return labelled(labels), answers


@pytest.mark.parametrize("seed", range(4))
def test_map_is_that_of_pycocotools(seed):
    truth, answers = made_up(seed)
    ours = score(match(truth, answers), n_resamples=1)
    rows = [
        {
            "image_id": i,
            "category_id": CATEGORY_IDS[c],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": float(s),
        }
        for i, one in enumerate(answers)
        for (x1, y1, x2, y2), s, c in zip(one.xyxy.tolist(), one.scores, one.class_ids, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = COCOeval(truth.coco, truth.coco.loadRes(rows), "bbox")
        theirs.evaluate()
        theirs.accumulate()
        theirs.summarize()
    assert ours.map == pytest.approx(theirs.stats[0], abs=1e-9)
    assert ours.ap50 == pytest.approx(theirs.stats[1], abs=1e-9)
    assert 0.1 < ours.map < 0.9


def test_weights_are_repetitions():
    """An image counted twice is the image put in twice."""
    truth, answers = made_up(0)
    times = np.array([2, 0, 1, 3, 1, 1, 0, 0, 2, 1, 1, 0])
    order = np.repeat(np.arange(12), times)
    for one in match(truth, answers)[:4]:
        where = [np.flatnonzero(one.image == i) for i in order]
        image = np.repeat(np.arange(len(order)), [len(w) for w in where])
        rows = np.concatenate(where)
        by_score = np.argsort(-one.scores[rows], kind="mergesort")
        rows, image = rows[by_score], image[by_score]
        repeated = Matches(
            one.scores[rows],
            image,
            one.is_true[:, rows],
            one.ignored[:, rows],
            one.n_labels[order],
        )
        np.testing.assert_allclose(
            average_precision(one, times), average_precision(repeated, np.ones(len(order), int))
        )


def test_perfect_and_blind():
    truth = labelled([[(0, 0, 50, 50, 3, 0)], [(10, 10, 60, 90, 5, 0)]])
    perfect = [boxes([(0, 0, 50, 50, 3, 0.9)]), boxes([(10, 10, 60, 90, 5, 0.8)])]
    assert score(match(truth, perfect), n_resamples=20).map == pytest.approx(1.0)
    assert score(match(truth, [empty(), empty()]), n_resamples=20).map == 0.0


def test_the_interval_holds_the_figure():
    truth, answers = made_up(1)
    found = score(match(truth, answers), n_resamples=100)
    assert found.map_low < found.map < found.map_high
    assert found == score(match(truth, answers), n_resamples=100)


def test_a_least_score_by_hand():
    """True .9, false .6, true .5, false .3, of three labels: 1/1, 1/2, 2/3 and 2/4 are right."""
    truth = labelled([[(0, 0, 50, 50, 0, 0), (100, 0, 150, 50, 0, 0), (0, 100, 50, 150, 1, 0)]])
    answer = boxes(
        [
            (0, 0, 50, 50, 0, 0.9),
            (200, 200, 250, 250, 0, 0.6),
            (100, 0, 150, 50, 0, 0.5),
            (300, 300, 350, 350, 1, 0.3),
        ]
    )
    matches = match(truth, [answer])
    wanted = [0.5, 0.6, 0.67, 1.0]
    assert [least_with_precision(matches, each) for each in wanted] == [0.05, 0.3, 0.6, 0.6]
    assert at_threshold(matches, 0.4) == pytest.approx(
        {"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3}
    )
    assert at_threshold(match(truth, [answer], by_class=False), 0.4)["precision"] == 2 / 3
