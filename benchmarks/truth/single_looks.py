"""Single looks at the labelled frames of clips: boxes of a detector without gate and tracks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.truth import scores
from benchmarks.truth.clips import LabelledClip, LabelledFrame
from benchmarks.truth.scores import JudgedFrame
from framegate.models.detector.detector import Detector
from framegate.models.picture import Picture, as_picture
from framegate.pipeline.contracts.source import Request
from framegate.stages.decode.file import FileSource


def looks(detector: Detector, clip: LabelledClip) -> list[JudgedFrame]:
    """Return the judged boxes of one look at each labelled frame."""
    judged = []
    for frame, picture in _labelled_pictures(clip):
        (boxes,) = detector.detect([picture])
        corners = zip(*boxes.xyxy.T.tolist(), strict=True)
        columns = zip(boxes.class_ids.tolist(), corners, boxes.scores.tolist(), strict=True)
        rows = [(detector.labels[number], edges, score, 0) for number, edges, score in columns]
        judged.append(scores.judge(clip.objects(rows, 0.0), frame))
    return judged


def least_score(frames: Sequence[JudgedFrame], precision: float) -> dict[str, float]:
    """Return the lowest score, in hundredths, from which this share of all boxes is right.

    With it: the number of labels, and precision, recall and F1 of the boxes above that score. The
    score is 1 if there is none.
    """
    all_scores = np.concatenate([frame.objects.boxes.scores for frame in frames])
    is_true = np.concatenate([frame.is_true for frame in frames])
    labels = sum(len(frame.truth.boxes) for frame in frames)
    found: dict[str, float] = {"min_score": 1.0, "labels": labels}
    for hundredth in range(5, 100):
        is_above = all_scores > np.float32(hundredth / 100)
        right = int(is_true[is_above].sum())
        shown = int(is_above.sum())
        if shown and right >= precision * shown:
            rates = {"precision": right / shown, "recall": right / max(labels, 1)}
            f1 = 2 * right / (shown + labels)
            return {**found, "min_score": hundredth / 100, **rates, "f1": f1}
    return {**found, "precision": 0.0, "recall": 0.0, "f1": 0.0}


def _labelled_pictures(clip: LabelledClip) -> Iterator[tuple[LabelledFrame, Picture]]:
    """Yield each labelled frame with its picture, which is valid until the next one is taken."""
    labelled = {frame.number: frame for frame in clip.frames}
    last = clip.frames[-1].number
    source = FileSource(Request(str(clip.path)))
    buffer = memoryview(b"")
    try:
        for number, frame in enumerate(source.frames()):
            if number > last:
                return
            if number in labelled:
                if len(buffer) != frame.nbytes:
                    buffer = memoryview(bytearray(frame.nbytes))
                frame.write(buffer)
                yield labelled[number], as_picture(buffer, frame.form)
    finally:
        source.close()
