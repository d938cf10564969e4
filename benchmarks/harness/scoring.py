"""Accuracy of boxes against labelled photographs (needs the `bench` extra: pycocotools).

Matching is pycocotools' own; precision and recall are accumulated here, because a bootstrap needs
them a thousand times over with images counted more or less often.
"""

import contextlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from framegate.models.boxes import AnyArray, Boxes
from framegate.models.coco import CATEGORY_IDS, LABELS

RECALLS = np.linspace(0, 1, 101)
IOU_50 = 0


@dataclass(frozen=True, slots=True)
class Score:
    """Mean average precision over IoU .50:.05:.95 with its 95 % interval, and at IoU .50."""

    map: float
    map_low: float
    map_high: float
    ap50: float


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """How one class's boxes meet its labels.

    scores    float64 (D,)   score of each box, highest first
    image     int64 (D,)     index of its image
    is_true   bool (10, D)   whether the box meets a label, at each IoU threshold
    ignored   bool (10, D)   whether it counts for nothing (on a crowd label)
    n_labels  int64 (I,)     labels to find in each image
    """

    scores: AnyArray
    image: AnyArray
    is_true: AnyArray
    ignored: AnyArray
    n_labels: AnyArray


@dataclass(frozen=True, slots=True, eq=False)
class LabelledPhotographs:
    """A set of photographs with labels: files in the order of the image ids."""

    coco: Any
    image_ids: tuple[int, ...]
    files: tuple[Path, ...]


# How the surveillance networks name what COCO names otherwise.
THREE_CLASSES: Mapping[str, str] = {"bus": "car", "truck": "car", "motorcycle": "bicycle"}


def read_labelled(
    data: Path,
    name: str,
    most: int | None = None,
    only: Sequence[str] = LABELS,
    merged: Mapping[str, str] | None = None,
) -> LabelledPhotographs:
    """`images/<name>/` and `gt/<name>.json` below the data folder, or so many of it.

    only    labels that count: all pictures, and of their boxes those
    merged  label -> label as which its boxes count
    """
    from pycocotools.coco import COCO

    told = json.loads((data / "gt" / f"{name}.json").read_text(encoding="utf-8"))
    for label, into in (merged or {}).items():
        for row in told["annotations"]:
            if row["category_id"] == CATEGORY_IDS[LABELS.index(label)]:
                row["category_id"] = CATEGORY_IDS[LABELS.index(into)]
    wanted = {CATEGORY_IDS[LABELS.index(label)] for label in only}
    told["annotations"] = [row for row in told["annotations"] if row["category_id"] in wanted]
    coco = COCO()
    coco.dataset = told
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    image_ids = tuple(sorted(coco.getImgIds())[:most])
    files = tuple(data / "images" / name / coco.imgs[i]["file_name"] for i in image_ids)
    return LabelledPhotographs(coco, image_ids, files)


def match(
    labelled: LabelledPhotographs, answers: Sequence[Boxes], by_class: bool = True
) -> list[Matches]:
    """Matches of each of the 80 classes; `answers` in the order of `labelled.files`.

    by_class  False: of all classes as one, where a box may meet a label of another class
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rows = [
        {
            "image_id": image_id,
            "category_id": CATEGORY_IDS[class_id],
            "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
            "score": float(score),
        }
        for image_id, boxes in zip(labelled.image_ids, answers, strict=True)
        for box, score, class_id in zip(
            boxes.xyxy.tolist(), boxes.scores, boxes.class_ids, strict=True
        )
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(
            labelled.coco, labelled.coco.loadRes(rows) if rows else COCO(), "bbox"
        )
        evaluation.params.imgIds = list(labelled.image_ids)
        evaluation.params.catIds = list(CATEGORY_IDS)
        evaluation.params.areaRng = [[0, 1e10]]
        evaluation.params.areaRngLbl = ["all"]
        evaluation.params.maxDets = [100]
        evaluation.params.useCats = int(by_class)
        evaluation.evaluate()
    n = len(labelled.image_ids)
    kinds = len(CATEGORY_IDS) if by_class else 1
    return [_matches(evaluation.evalImgs[i * n : (i + 1) * n]) for i in range(kinds)]


def _matches(per_image: Sequence[dict[str, Any] | None]) -> Matches:
    n_labels = np.zeros(len(per_image), np.int64)
    image, scores, true, ignored = [], [], [], []
    for i, entry in enumerate(per_image):
        if entry is None:
            continue
        n_labels[i] = np.count_nonzero(np.asarray(entry["gtIgnore"]) == 0)
        image.append(np.full(len(entry["dtScores"]), i))
        scores.append(np.asarray(entry["dtScores"]))
        true.append(np.asarray(entry["dtMatches"]) > 0)
        ignored.append(np.asarray(entry["dtIgnore"]) > 0)
    if not image:
        none = np.zeros((10, 0), bool)
        return Matches(np.zeros(0), np.zeros(0, np.int64), none, none, n_labels)
    order = np.argsort(-np.concatenate(scores), kind="mergesort")
    return Matches(
        np.concatenate(scores)[order],
        np.concatenate(image)[order],
        np.concatenate(true, axis=1)[:, order],
        np.concatenate(ignored, axis=1)[:, order],
        n_labels,
    )


def average_precision(matches: Matches, times: AnyArray) -> AnyArray:
    """Average precision (10,) of one class at each IoU, image i counted `times[i]` times.

    NaN when no label is there to find. As in COCO: precision made monotone, read at 101 recalls.
    """
    n_labels = float(matches.n_labels @ times)
    if n_labels == 0:
        return np.full(10, np.nan)
    counts = times[matches.image] * ~matches.ignored
    true = np.cumsum(counts * matches.is_true, axis=1)
    false = np.cumsum(counts * ~matches.is_true, axis=1)
    precision = true / np.maximum(true + false, np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    out = np.zeros(10)
    for i, recall in enumerate(true / n_labels):
        at = np.searchsorted(recall, RECALLS, side="left")
        out[i] = precision[i, at[at < len(recall)]].sum() / len(RECALLS)
    return out


def score(matches: Sequence[Matches], n_resamples: int = 200, seed: int = 0) -> Score:
    """Mean over the classes that are there, with a 95 % bootstrap interval over images.

    A resample lacks some rare classes and counts images twice, which lifts its mean: the interval
    is that of the resamples, moved by the distance between their mean and that of the whole set.
    """
    n_images = len(matches[0].n_labels)
    rng = np.random.default_rng(seed)

    def mean_over_classes(times: AnyArray) -> AnyArray:
        table = np.array([average_precision(one, times) for one in matches if one.n_labels.any()])
        out: AnyArray = np.nanmean(table, axis=0)
        return out

    whole = mean_over_classes(np.ones(n_images, np.int64))
    draws = (rng.multinomial(n_images, np.full(n_images, 1 / n_images)) for _ in range(n_resamples))
    resampled = [float(mean_over_classes(times).mean()) for times in draws]
    middle = float(whole.mean())
    low, high = np.percentile(resampled, [2.5, 97.5]) - np.mean(resampled) + middle
    return Score(middle, float(low), float(high), float(whole[IOU_50]))


def at_threshold(matches: Sequence[Matches], least: float) -> dict[str, float]:
    """Precision, recall and F1 at IoU .50 of the boxes of all classes above a score."""
    n_labels = sum(int(one.n_labels.sum()) for one in matches)
    kept = [(one.scores > np.float32(least)) & ~one.ignored[IOU_50] for one in matches]
    shown = sum(int(rows.sum()) for rows in kept)
    true = sum(
        int(one.is_true[IOU_50, rows].sum()) for one, rows in zip(matches, kept, strict=True)
    )
    both = shown + n_labels
    return {
        "precision": true / shown if shown else 0.0,
        "recall": true / n_labels if n_labels else 0.0,
        "f1": 2 * true / both if both else 1.0,
    }


def least_with_precision(matches: Sequence[Matches], wanted: float) -> float:
    """The least score, in hundredths, from which on so many of the boxes of all classes are right.

    At IoU .50; 1 where there is none.
    """
    tried = (i / 100 for i in range(5, 100))
    return next((s for s in tried if at_threshold(matches, s)["precision"] >= wanted), 1.0)
