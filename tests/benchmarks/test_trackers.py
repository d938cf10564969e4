"""Each tracker gets the same boxes, its numbers are judged, and settings are chosen by labels."""

from __future__ import annotations

import dataclasses
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.all import kept
from benchmarks.trackers import (
    _HIGH,
    _THEN,
    OURS,
    PETS,
    RecordedLooks,
    bars,
    choose,
    figures,
    ours,
    rival,
)
from benchmarks.truth.clips import LabelledClip, LabelledFrame
from framegate.models.boxes import Boxes

# Not importorskip: its import takes 2 s of CPU time, in each process that collects the tests.
pytestmark = [
    pytest.mark.skipif(find_spec("trackers") is None, reason="needs the extra `test`"),
    pytest.mark.skipif(find_spec("trackeval") is None, reason="needs the extra `bench`"),
]

FRAMES = 20
PERSON = 0
SETTINGS = {OURS: "shipped", "bytetrack": "defaults", "ocsort": "chosen"}


def box_of(number: int, lane: int) -> list[float]:
    """A person 20 pixels wide that walks two pixels per frame in its lane."""
    left = 10.0 + 2 * number
    return [left, 100.0 * lane, left + 20, 100.0 * lane + 60]


def two_walkers(score: float, name: str = PETS) -> RecordedLooks:
    """Looks at two persons that walk side by side, found with these scores, and their labels."""
    frames, looks = [], []
    for number in range(FRAMES):
        xyxy = np.array([box_of(number, 0), box_of(number, 1)], np.float32)
        classes = np.full(2, PERSON, np.int32)
        labels = Boxes(xyxy, np.ones(2, np.float32), classes)
        frames.append(LabelledFrame(number, labels, np.array([5, 9], np.int32), ()))
        looks.append(Boxes(xyxy, np.full(2, score, np.float32), classes))
    clip = LabelledClip(name, Path("none.mp4"), 10.0, ("person",), tuple(frames))
    return RecordedLooks(clip, 10.0, tuple(looks))


@pytest.mark.parametrize("name", ["bytetrack", "ocsort"])
def test_each_tracker_follows_both_walkers_from_the_same_boxes(name: str) -> None:
    looks = two_walkers(0.9)
    for shown in (ours(looks), rival(name, {}, looks)):
        boxes, ids = shown[-1]
        np.testing.assert_allclose(np.sort(boxes.xyxy, axis=0), looks.boxes[-1].xyxy, atol=1e-4)
        assert len(set(ids.tolist())) == 2
        row = figures(looks, shown)
        assert row["precision"] == 1
        assert (row["id_switches"], row["jumps"]) == (0, 0)
        late = FRAMES - round(row["recall"] * FRAMES)
        assert late <= 2, "a number comes with the third box at the latest"
        assert row["hota"] > 0.9


def test_ours_has_the_windows_of_a_run_unless_they_are_left_out() -> None:
    """The first look begins tracks, the others have scores between candidate and object."""
    looks = two_walkers(0.32)
    first = dataclasses.replace(looks.boxes[0], scores=np.full(2, 0.4, np.float32))
    looks = dataclasses.replace(looks, boxes=(first, *looks.boxes[1:]))
    # With a number from the second look on, the centre has moved by half a height in 15 frames.
    assert [len(ids) for _, ids in ours(looks)] == [0] * 17 + [2] * 3
    assert not any(len(ids) for _, ids in ours(looks, with_windows=False))


def test_boxes_without_a_number_do_not_count() -> None:
    looks = two_walkers(0.5)  # below the score from which ByteTrack starts a track by default
    row = figures(looks, rival("bytetrack", {}, looks))
    assert (row["precision"], row["recall"], row["f1"]) == (None, 0, 0)


def test_the_settings_that_find_the_labels_are_chosen() -> None:
    for name in ("bytetrack", "ocsort"):
        chosen = choose(name, [two_walkers(0.45, "pets2001-campus")])
        assert chosen["high_conf_det_threshold"] <= 0.4
        assert chosen["minimum_consecutive_frames"] == 1


def test_no_chosen_setting_is_the_end_of_what_was_tried() -> None:
    """Except where nothing lies beyond: all boxes, the first hit, no frame without a box."""
    result = kept("trackers")
    assert result is not None
    tried = {**_THEN, "high_conf_det_threshold": _HIGH}
    for settings in result["chosen"].values():
        for name, values in tried.items():
            value = settings.get(name)
            is_bound = name != "minimum_iou_threshold"
            if value is None or (is_bound and value == min(values)):
                continue
            assert min(values) < value < max(values), f"{name}: try values beyond {value}"


def test_targets_compare_with_the_best_of_the_others() -> None:
    def row(tracker: str, f1: float, hota: float) -> dict[str, Any]:
        return {
            "clip": PETS,
            "role": "reports",
            "tracker": tracker,
            "settings": SETTINGS[tracker],
            "f1": f1,
            "hota": hota,
        }

    other = {**row("ocsort", 0.95, 0.4), "clip": "car-detection"}
    rows = [other, {**other, "tracker": OURS, "settings": "shipped", "f1": 0.9}]
    rows += [row(OURS, 0.8, 0.5), row("bytetrack", 0.7, 0.6), row("ocsort", 0.75, 0.4)]
    measured = {bar.what.split(": ")[1]: bar.measured for bar in bars({"rows": rows})}
    assert measured == {
        "mean f1 less the best other": pytest.approx(0.0),
        "f1 less the best other": pytest.approx(0.05),
        "hota less the best other": pytest.approx(-0.1),
    }
