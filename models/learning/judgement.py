"""The judgement whether a model may serve a camera, on later footage than it learned from.

Three kinds of evidence may judge a picture. The first that has enough pictures decides:

labels    people labelled every object of some classes. The model must not be worse, and show some
verdicts  people called single boxes right or wrong in a review. The gain must be above zero
teacher   a heavier model labelled the picture. The gain in agreement must be above zero

A model that is worse by people's labels, however few, may not serve.

Pictures that are close in time show the same things. So the bootstrap resamples blocks of
neighbours, not pictures. Two models are compared on the same resamples, so that the difficulty of
a block cancels out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from framegate.models import matching
from framegate.models.boxes import Boxes, IndexArray
from framegate.models.learning.box_verdicts import counted_by_verdicts
from framegate.models.learning.teacher import TeacherLabels
from framegate.models.learning.thresholds import is_covered
from framegate.models.matching import Figures, Interval, MatchCounts, interval

JudgedBy = Literal["labels", "verdicts", "teacher"]
EVIDENCE: Final[tuple[JudgedBy, ...]] = get_args(JudgedBy)  # the first that has enough decides

LEAST_BOXES: Final = 100  # of the teacher, in the judging pictures
LEAST_FRAMES: Final = 50
# A person labels few pictures, further apart in time, and each of them is right.
LEAST_LABELLED_BOXES: Final = 40
LEAST_LABELLED_FRAMES: Final = 20
LEAST_VERDICTS: Final = 10  # right ones, and wrong ones: a model without any box repeats no mistake
LOWEST: Final = -0.05  # allowed lower end of the interval of the difference in F1
BLOCK: Final = 10  # neighbouring pictures
LEAST_BLOCKS: Final = 8  # of a source; with fewer pictures, blocks are shorter
DRAWS: Final = 2000

ClassCounts = npt.NDArray[np.int64]


def counted(
    ours: Sequence[Boxes], sure: Sequence[Boxes], unsure: Sequence[Boxes], n_classes: int
) -> ClassCounts:
    """Count boxes, as int64 (pictures, classes, 3): pairs at IoU 0.5, our boxes, labelled boxes.

    One of our boxes without a pair is not counted if half of it or more lies in an unsure box.
    """
    counts = np.zeros((len(ours), n_classes, 3), np.int64)
    for row, (own, there, doubtful) in enumerate(zip(ours, sure, unsure, strict=True)):
        rows, _ = matching.optimal(matching.overlaps(own, there))
        kept = ~is_covered(own, doubtful)
        kept[rows] = True
        for column, ids in enumerate((own.class_ids[rows], own.class_ids[kept], there.class_ids)):
            counts[row, :, column] = np.bincount(ids, minlength=n_classes)
    return counts


def counted_by(
    evidence: JudgedBy, ours: Sequence[Boxes], said: Sequence[TeacherLabels], n_classes: int
) -> ClassCounts:
    """Count boxes by one kind of evidence, as `counted` or `counted_by_verdicts`.

    said  of the same pictures, which `rows_of` chose
    """
    if evidence == "verdicts":
        counts = np.zeros((len(ours), n_classes, 3), np.int64)
        for row, (own, labels) in enumerate(zip(ours, said, strict=True)):
            assert labels.verdicts is not None
            counts[row] = counted_by_verdicts(own, labels.verdicts, n_classes)
        return counts
    own_boxes = [labels.judgeable(own) for own, labels in zip(ours, said, strict=True)]
    sure = [labels.judgeable(labels.sure) for labels in said]
    return counted(own_boxes, sure, [labels.unsure for labels in said], n_classes)


def rows_of(evidence: JudgedBy, said: Sequence[TeacherLabels]) -> list[int]:
    """Return the pictures that a kind of evidence judges. A picture may have a model's labels and
    verdicts.
    """
    if evidence == "labels":
        return [row for row, labels in enumerate(said) if labels.people is not None]
    if evidence == "verdicts":
        return [row for row, labels in enumerate(said) if labels.verdicts is not None]
    return [row for row, labels in enumerate(said) if labels.people is None]


def blocks_of(sources: Sequence[str]) -> IndexArray:
    """Return the block of each picture, counted from 0: at most ten neighbours of a source, in
    order, so few that the source has eight blocks if it has eight pictures.
    """
    n_seen = dict.fromkeys(sources, 0)
    lengths = {
        source: min(BLOCK, max(1, n // LEAST_BLOCKS)) for source, n in Counter(sources).items()
    }
    blocks = []
    numbers: dict[tuple[str, int], int] = {}
    for source in sources:
        part = source, n_seen[source] // lengths[source]
        blocks.append(numbers.setdefault(part, len(numbers)))
        n_seen[source] += 1
    return np.array(blocks, np.intp)


def _by_block(counts: ClassCounts, blocks: IndexArray) -> MatchCounts:
    """Sum the counts of all classes by block, int64 (blocks, 3)."""
    sums = np.zeros((int(blocks.max()) + 1, 3), np.int64)
    np.add.at(sums, blocks, counts.sum(axis=1))
    return sums


def f1_of(counts: ClassCounts, sources: Sequence[str]) -> Interval:
    """Return F1 of all classes together with its 95 % interval. ValueError without pictures."""
    if not len(counts):
        raise ValueError("no pictures to judge by")
    sums = _by_block(counts, blocks_of(sources))
    return interval(lambda times: matching.f1(sums, times), len(sums), DRAWS)


def difference_of(ours: ClassCounts, theirs: ClassCounts, sources: Sequence[str]) -> Interval:
    """Return our F1 minus their F1 on the same pictures; as `f1_of`."""
    if not len(ours):
        raise ValueError("no pictures to judge by")
    blocks = blocks_of(sources)
    own = _by_block(ours, blocks)
    other = _by_block(theirs, blocks)

    def statistic(times: npt.NDArray[np.int64]) -> Figures:
        difference: Figures = matching.f1(own, times) - matching.f1(other, times)
        return difference

    return interval(statistic, len(own), DRAWS)


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """A class in the judging pictures: labelled objects, and F1 of both models, 0..1."""

    label: str
    there: int
    f1: float
    general: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models on the pictures that one kind of evidence judges.

    evidence    the kind
    frames      pictures; boxes: labelled objects in them, or verdicts about boxes
    f1, general  F1 of both models with 95 % intervals
    difference  F1 of the model minus that of the general one, paired
    classes     of the evidence and of both models, most objects first
    lacks       what is missing for this evidence to decide; "" if it may decide
    """

    evidence: JudgedBy
    frames: int
    boxes: int
    f1: Interval
    general: Interval
    difference: Interval
    classes: tuple[ClassFigures, ...]
    lacks: str


def compare(
    evidence: JudgedBy,
    ours: Sequence[Boxes],
    general: Sequence[Boxes],
    said: Sequence[TeacherLabels],
    sources: Sequence[str],
    labels: Sequence[str],
) -> Comparison | None:
    """Compare two models by one kind of evidence; None if it judges no picture. See `judge`."""
    rows = rows_of(evidence, said)
    if not rows:
        return None
    chosen = [said[row] for row in rows]
    n = len(labels)
    own = counted_by(evidence, [ours[row] for row in rows], chosen, n)
    other = counted_by(evidence, [general[row] for row in rows], chosen, n)
    places = [sources[row] for row in rows]
    boxes = int(own[..., 2].sum())
    lacks = _lacks(evidence, len(rows), boxes)
    if evidence == "verdicts":
        verdicts = [each.verdicts for each in chosen if each.verdicts is not None]
        right = sum(len(each.right) for each in verdicts)
        boxes = sum(map(len, verdicts))
        lacks = _lacking_verdicts(right, boxes - right)
    return Comparison(
        evidence,
        len(rows),
        boxes,
        f1_of(own, places),
        f1_of(other, places),
        difference_of(own, other, places),
        _by_class(own, other, labels),
        lacks,
    )


def _lacks(evidence: JudgedBy, frames: int, boxes: int) -> str:
    """Return what is missing for labels or a teacher to decide; "" for nothing."""
    if evidence == "labels":
        if boxes < LEAST_LABELLED_BOXES:
            return (
                f"people labelled {boxes} objects in the judging pictures; "
                f"{LEAST_LABELLED_BOXES} are needed"
            )
        if frames < LEAST_LABELLED_FRAMES:
            return (
                f"people labelled {frames} of the judging pictures; "
                f"{LEAST_LABELLED_FRAMES} are needed"
            )
        return ""
    if boxes < LEAST_BOXES:
        return f"the teacher has {boxes} objects in the judging pictures; {LEAST_BOXES} are needed"
    if frames < LEAST_FRAMES:
        return f"{frames} pictures judge; {LEAST_FRAMES} are needed"
    return ""


def _lacking_verdicts(right: int, wrong: int) -> str:
    if min(right, wrong) >= LEAST_VERDICTS:
        return ""
    return (
        f"reviews called {right} boxes right and {wrong} wrong in the judging pictures; "
        f"{LEAST_VERDICTS} of each are needed"
    )


@dataclass(frozen=True, slots=True)
class ModelVerdict:
    """The comparison of a model with the shipped one on later footage.

    decides  by the evidence that decides
    others   by the other kinds of evidence
    refused  why the model may not serve; "" if it may
    """

    decides: Comparison
    others: tuple[Comparison, ...]
    refused: str

    @property
    def allowed(self) -> bool:
        """True if the model may serve."""
        return not self.refused

    @property
    def metrics(self) -> dict[str, Any]:
        """The figures for the metrics of a manifest."""
        metrics: dict[str, Any] = {
            "decided_by": self.decides.evidence,
            "refused": self.refused,
            "judged_frames": self.decides.frames,
            "judged_boxes": self.decides.boxes,
        }
        for name in ("f1", "general", "difference"):
            metrics |= _figures(name, getattr(self.decides, name))
        for other in self.others:
            metrics[f"{other.evidence}_frames"] = other.frames
            metrics |= _figures(f"{other.evidence}_difference", other.difference)
        return metrics


def _figures(name: str, figure: Interval) -> dict[str, float]:
    return {
        name: round(figure.middle, 4),
        f"{name}_low": round(figure.low, 4),
        f"{name}_high": round(figure.high, 4),
    }


def judge(
    ours: Sequence[Boxes],
    general: Sequence[Boxes],
    said: Sequence[TeacherLabels],
    sources: Sequence[str],
    labels: Sequence[str],
    tuned: Sequence[Boxes] | None = None,
) -> ModelVerdict:
    """Judge a model in comparison with the shipped one.

    ours     boxes that the model shows in each picture; the pictures are in order of time
    general  boxes that the shipped model shows
    said     labels of the pictures, with the classes that a person confirmed
    sources  source of each picture
    labels   by class id
    tuned    boxes of the shipped model tuned to the camera; a cheaper model must not be much worse

    ValueError without pictures.
    """
    if not said:
        raise ValueError("no pictures to judge by")
    comparisons: dict[JudgedBy, Comparison] = {}
    for evidence in EVIDENCE:
        comparison = compare(evidence, ours, general, said, sources, labels)
        if comparison is not None:
            comparisons[evidence] = comparison
    able = [each for each in comparisons.values() if not each.lacks]
    decides = (able or [*comparisons.values()][::-1])[0]
    beside = None
    if tuned is not None:
        beside = compare(decides.evidence, ours, tuned, said, sources, labels)
    others = tuple(each for each in comparisons.values() if each is not decides)
    return ModelVerdict(decides, others, _refused(decides, comparisons, beside))


def _refused(
    decides: Comparison, comparisons: Mapping[JudgedBy, Comparison], beside: Comparison | None
) -> str:
    """Return why a model may not serve; "" if it may.

    beside  the model compared with the tuned one
    """
    by_labels = comparisons.get("labels")
    if by_labels is not None and by_labels.difference.middle < 0:
        return f"by people's labels, it is worse than the shipped detector: {_gain(by_labels)}"
    verdicts = comparisons.get("verdicts")
    if verdicts is not None and verdicts.difference.high < 0:
        return f"by people's verdicts, it is worse than the shipped detector: {_gain(verdicts)}"
    if decides.lacks:
        return decides.lacks
    if decides.f1.middle <= 0:
        return f"it shows none of the {decides.boxes} objects in the judging pictures"
    low = decides.difference.low
    if decides.evidence == "labels":
        if low < LOWEST:
            return f"F1 may be {-low:.3f} below the shipped detector's; allowed is {-LOWEST:.2f}"
    elif low <= 0:
        return f"the gain may be chance: its interval includes zero ({_gain(decides)})"
    if beside is not None and beside.difference.low < LOWEST:
        below = -beside.difference.low
        return f"F1 may be {below:.3f} below the tuned detector's; allowed is {-LOWEST:.2f}"
    return ""


def _gain(comparison: Comparison) -> str:
    gain = comparison.difference
    return f"F1 {gain.middle:+.3f}, {gain.low:+.3f} to {gain.high:+.3f}"


NOT_JUDGED: Final = "it was not judged on later footage than it learned from"


def refusal_of(metrics: Mapping[str, Any]) -> str:
    """Return why a model with these `ModelVerdict.metrics` may not serve; "" if it may."""
    refused = metrics.get("refused")
    if metrics.get("decided_by") not in EVIDENCE or not isinstance(refused, str):
        return NOT_JUDGED
    return refused


def _by_class(
    ours: ClassCounts, general: ClassCounts, labels: Sequence[str]
) -> tuple[ClassFigures, ...]:
    rows = []
    for label, own, other in zip(labels, ours.sum(axis=0), general.sum(axis=0), strict=True):
        if own.any() or other.any():
            f1 = float(matching.f1(own[None]))
            rows.append(ClassFigures(label, int(own[2]), f1, float(matching.f1(other[None]))))
    return tuple(sorted(rows, key=lambda row: (-row.there, row.label)))
