"""Without the stage windows, F1 by people's labels falls.

The input is what detect gave on two labelled clips. `record` makes it; here no network runs.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.truth import labels, scores
from benchmarks.truth.clips import LabelledClip, read_labels
from framegate.models import matching
from framegate.pipeline.contracts.moments import StoredMoment
from framegate.pipeline.contracts.results import Object
from framegate.stages.windows.stage import ObjectWindows, step
from tests.stages.windows.record import CLIPS, FOLDER, recorded

LEAST_GAIN = 0.02
MOST_BYTES = 20_000


def published(clip: str, decides: bool) -> list[tuple[Object, ...]]:
    """Return the published objects of each frame."""
    windows: ObjectWindows = {}
    before: StoredMoment | None = None
    found = []
    for number, (pts, detections) in enumerate(recorded(clip)):
        now = StoredMoment(1, number, pts or 0.0, 0.0)
        windows, objects = step(windows, detections, before, now, (), decides)
        before = now
        found.append(objects)
    return found


def counts(name: str, decides: bool) -> matching.MatchCounts:
    """Return pairs, objects and labels of each labelled frame."""
    groups, frames = read_labels(labels.FOLDER / f"{name}.json")
    clip = LabelledClip(name, Path(), None, groups, frames)
    objects = published(name, decides)
    judged = []
    for frame in frames:
        if frame.number < len(objects):  # the clip is damaged at its end
            shown = objects[frame.number]
            rows = [(each.label, each.box, each.score, each.track or 0) for each in shown]
            judged.append(scores.judge(clip.objects(rows, 0.0), frame))
    return scores.counts_of(judged)


@pytest.mark.parametrize("clip", CLIPS)
def test_f1_by_labels_falls_without_the_windows(clip: str) -> None:
    gain = scores.gain(counts(clip, decides=True), counts(clip, decides=False))
    assert gain.mean >= LEAST_GAIN
    assert gain.low > 0, "by chance in less than one of 40 draws"


def test_the_recordings_are_small() -> None:
    assert {file.name.partition(".")[0] for file in FOLDER.iterdir()} == set(CLIPS)
    assert all(file.stat().st_size < MOST_BYTES for file in FOLDER.iterdir())
