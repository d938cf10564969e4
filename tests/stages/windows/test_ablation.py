"""Without the stage windows, F1 by labels falls.

The input is what detect gave on labelled clips. `record` makes it; here no network runs. On PETS
2009 the windows change few objects: their gain is 0.000 to 0.025, by the precision of the network.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.truth import labels, scores
from benchmarks.truth.clips import LabelledClip, find_clips, read_labels
from framegate.models import matching
from framegate.pipeline.contracts.moments import StoredMoment
from framegate.pipeline.contracts.results import Object
from framegate.stages.windows.stage import ObjectWindows, step
from tests.stages.windows.record import CLIPS, FOLDER, recorded

DATA = os.environ.get("FRAMEGATE_DATA")
LEAST_GAIN = 0.02
PETS = "pets09-s2l1-view001-part1"  # its labels are in the data folder
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


def labelled_by_eye(name: str) -> LabelledClip:
    groups, frames = read_labels(labels.FOLDER / f"{name}.json")
    return LabelledClip(name, Path(), None, groups, frames)


def counts(clip: LabelledClip, decides: bool) -> matching.MatchCounts:
    """Return pairs, objects and labels of each labelled frame."""
    objects = published(clip.name, decides)
    judged = []
    for frame in clip.frames:
        if frame.number < len(objects):  # the clip is damaged at its end
            shown = objects[frame.number]
            rows = [(each.label, each.box, each.score, each.track or 0) for each in shown]
            judged.append(scores.judge(clip.objects(rows, 0.0), frame))
    return scores.counts_of(judged)


@pytest.mark.parametrize("name", [name for name in CLIPS if name != PETS])
def test_f1_by_labels_falls_without_the_windows(name: str) -> None:
    clip = labelled_by_eye(name)
    gain = scores.gain(counts(clip, decides=True), counts(clip, decides=False))
    assert gain.mean >= LEAST_GAIN
    assert gain.low > 0, "by chance in less than one of 40 draws"


@pytest.mark.skipif(DATA is None, reason="FRAMEGATE_DATA names no folder with labels of PETS 2009")
def test_the_windows_lose_nothing_on_pets_2009() -> None:
    assert DATA is not None
    (clip,) = find_clips(Path(DATA), [PETS])
    gain = scores.gain(counts(clip, decides=True), counts(clip, decides=False))
    assert gain.mean >= 0


def test_the_recordings_are_small() -> None:
    assert {file.name.partition(".")[0] for file in FOLDER.iterdir()} == set(CLIPS)
    assert all(file.stat().st_size < MOST_BYTES for file in FOLDER.iterdir())
