"""Verdicts of a review about episodes, as verdicts about the boxes of kept frames.

Verdicts are partial labels. What an episode states about boxes:

true   every box of its tracks, under its class, is right during the episode
false  the same boxes are wrong, if its rule states only that the object is in an area. Other rules
       may be wrong about a movement or a relation, though the object is there

An object that one episode calls right and another wrong is left out. So are boxes that no network
saw in the frame: the object may be right and the box at the wrong place.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from framegate.models import coco
from framegate.models.boxes import Boxes
from framegate.models.learning.box_verdicts import BoxVerdicts
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.review.event_database import FILE, DatabaseRefused
from framegate.pipeline.review.verdicts import JudgedEpisode, judged_episodes
from framegate.stages.footage.kept_pictures import KeptFrame, KeptObject


def episodes_of(data: Path) -> list[JudgedEpisode]:
    """Return the judged episodes of a run's data folder. Raises ConfigFaults."""
    try:
        return judged_episodes(data / FILE)
    except (DatabaseRefused, sqlite3.Error) as error:
        raise ConfigFaults([f"{data / FILE}: {error}"]) from error


def judged_boxes(frame: KeptFrame, episodes: Sequence[JudgedEpisode]) -> BoxVerdicts | None:
    """Return the verdicts about the boxes of a frame, with COCO's class ids; None: there are none.

    Boxes of classes that COCO does not have are left out.
    """
    at = Position(frame.epoch, frame.seq)
    current = [each for each in episodes if each.source == frame.source]
    current = [each for each in current if each.first <= at <= each.last]
    known = [served for served in frame.served if served.label in coco.LABELS]
    verdicts = [(served, _verdict(served, current)) for served in known]
    right = [served for served, is_right in verdicts if is_right is True]
    wrong = [served for served, is_right in verdicts if is_right is False]
    if not right and not wrong:
        return None
    return BoxVerdicts(_as_boxes(right), _as_boxes(wrong))


def _verdict(served: KeptObject, episodes: Sequence[JudgedEpisode]) -> bool | None:
    """Return whether an object is right; None: no verdict, or verdicts that contradict."""
    verdicts = set()
    for each in episodes:
        is_its_object = served.track in each.tracks and served.label == each.label
        if is_its_object and (each.is_true or each.is_presence):
            verdicts.add(each.is_true)
    if len(verdicts) != 1:
        return None
    return verdicts.pop()


def _as_boxes(objects: Sequence[KeptObject]) -> Boxes:
    return Boxes(
        np.array([each.box for each in objects], np.float32).reshape(-1, 4),
        np.ones(len(objects), np.float32),
        np.array([coco.LABELS.index(each.label) for each in objects], np.int32),
    )
