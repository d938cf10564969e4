"""Verdicts about episodes, as right and wrong boxes: by hand, and from a review's database."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from framegate.models import coco
from framegate.pipeline.contracts.episodes import Changes, EventEntry
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.review.event_database import FILE
from framegate.pipeline.review.projection import Projection
from framegate.pipeline.review.verdicts import JudgedEpisode, judge, judged_episodes
from framegate.stages.footage.footage import read_footage
from framegate.stages.footage.judged_boxes import judged_boxes
from framegate.stages.footage.kept_pictures import Keeper, KeptObject
from tests.stages.footage.test_kept import ROOM, frame, keep
from tests.support.said import change

PERSON = coco.LABELS.index("person")
BOX, OTHER = (0.0, 0.0, 10.0, 20.0), (50.0, 0.0, 60.0, 20.0)
SERVED = (KeptObject("person", 0.9, BOX, 7), KeptObject("person", 0.8, OTHER, 8))


def episode(is_true: bool, *, is_presence: bool = True, tracks: tuple[int, ...] = (7,)):
    """An episode of a person at the gate, from frame 10 to frame 20."""
    first, last = Position(1, 10), Position(1, 20)
    return JudgedEpisode("gate", "person", tracks, first, last, is_presence, is_true)


def edges(*episodes: JudgedEpisode, seq: int = 15, served=SERVED):
    """Left edges of right and wrong boxes of a frame; None: no verdict."""
    found = judged_boxes(frame(seq, served=served), episodes)
    if found is None:
        return None
    assert {*found.right.class_ids.tolist(), *found.wrong.class_ids.tolist()} == {PERSON}
    return found.right.xyxy[:, 0].tolist(), found.wrong.xyxy[:, 0].tolist()


def test_a_verdict_is_about_the_boxes_of_its_tracks_and_about_no_other() -> None:
    assert edges(episode(True)) == ([0], [])
    assert edges(episode(False)) == ([], [0])
    assert edges(episode(True), episode(False, tracks=(8,))) == ([0], [50])
    assert edges(episode(True, tracks=(7, 8))) == ([0, 50], [])


def test_a_verdict_is_about_the_time_of_its_episode() -> None:
    found = [edges(episode(True), seq=seq) for seq in (9, 10, 20, 21)]
    assert found == [None, ([0], []), ([0], []), None]


def test_a_rule_about_a_movement_may_be_wrong_though_the_object_is_there() -> None:
    assert edges(episode(False, is_presence=False)) is None
    assert edges(episode(True, is_presence=False)) == ([0], [])


def test_contradictions_and_boxes_that_no_network_saw_are_left_out() -> None:
    assert edges(episode(True), episode(False)) is None
    carried = tuple(msgspec.structs.replace(each, track=None) for each in SERVED)
    assert edges(episode(True), served=carried) is None
    assert edges(episode(True), served=(KeptObject("dog", 0.9, BOX, 7),)) is None


def test_verdicts_of_a_run_come_with_its_footage(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, ROOM)
    keep(keeper, frame(15, served=SERVED))
    keep(keeper, frame(30, served=SERVED))
    said = change("start", 10, 10, "gate")
    said = msgspec.structs.replace(said, label="person", tracks=(7,), rule="visitor")
    projection = Projection(tmp_path / FILE)
    last = msgspec.structs.replace(said.last, seq=20)
    end = msgspec.structs.replace(said, step="end", last=last, ended_by="over")
    for position, each in ((10, said), (20, end)):
        at = Position(said.began.epoch, position)
        projection.take([EventEntry("gate", at, None, None, Changes((each,)))])
    projection.close()
    assert judged_episodes(tmp_path / FILE) == []
    assert judge(tmp_path / FILE, said.episode, "false", 0.0)
    [judged] = judged_episodes(tmp_path / FILE)
    assert (judged.label, judged.tracks, judged.is_true) == ("person", (7,), False)
    assert judged.is_presence is (said.when == "inside")
    assert (judged.first.seq, judged.last.seq) == (10, 20)
    first, second = read_footage([str(tmp_path)])
    assert first.verdicts is not None
    assert len(first.verdicts.wrong) == 1
    assert second.verdicts is None
    assert judge(tmp_path / FILE, said.episode, "unsure", 0.0)
    assert judged_episodes(tmp_path / FILE) == []
    (tmp_path / FILE).write_text("no database", encoding="utf-8")
    with pytest.raises(ConfigFaults, match=FILE):
        read_footage([str(tmp_path)])
