"""when = "like": a visit that has ended gives one episode, in a run and in a replay."""

from __future__ import annotations

import msgspec

from framegate.pipeline.contracts import records
from framegate.pipeline.contracts.episodes import Change
from framegate.pipeline.contracts.likeness import NAMES, Likeness
from framegate.pipeline.contracts.records import End
from framegate.pipeline.contracts.results import Result
from framegate.pipeline.contracts.visits import LastVisits, PathPoint, Visit
from framegate.stages.events.evaluate import RuleJudge
from framegate.stages.events.replay import replay
from framegate.stages.events.state import EventsState
from tests.support.episodes import result, rules
from tests.support.said import visit

# A likeness by hand: visits that move to the right.
WEIGHTS = tuple(10.0 if name == "heading_x" else 0.0 for name in NAMES)
RIGHTWARDS = Likeness(WEIGHTS, 0.0, (5, 0)).text()


def like(**more: str) -> str:
    keys = "".join(f"{key} = {value}\n" for key, value in more.items())
    return f'[events.rules.van]\nwhen = "like"\nlike = "{RIGHTWARDS}"\n{keys}'


def leftwards(each: Visit) -> Visit:
    return msgspec.structs.replace(each, path=tuple(
        PathPoint(point.seconds, 1 - point.x, point.y) for point in each.path
    ))  # fmt: skip


def frames(*visits: Visit) -> list[Result]:
    """Results of 40 frames; frame 30 has the visits that ended."""
    return [
        msgspec.structs.replace(result([], seq), visits=visits if seq == 30 else ())
        for seq in range(40)
    ]


def changes(text: str, entries: list[Result | tuple[str, End]]) -> list[Change]:
    return [each for _, _, said in replay(rules(text), entries) for each in said.changes]


def test_a_visit_that_is_like_the_marked_ones_is_one_episode() -> None:
    there = visit(3, 20, 7)
    start, end = changes(like(), [*frames(there, leftwards(visit(4, 21, 8)))])
    assert (start.step, end.step, end.ended_by) == ("start", "end", "over")
    assert start.episode == end.episode == "door/van/1-3/7"
    assert (start.began.seq, start.last.seq, start.told.seq) == (3, 20, 30)
    assert start.tracks == (7,)
    assert start.label == "person"
    assert start.value == 1.0
    assert start.sightings == there.looks
    assert start.box is not None
    assert [round(edge, 3) for edge in start.box] == [0.075, 0.7, 0.125, 0.9]


def test_labels_score_and_schedule_select() -> None:
    entries = [*frames(visit(3, 20, 7))]
    assert changes(like(labels='["car"]'), entries) == []
    assert len(changes(like(labels='["person"]', min_score="0.9"), entries)) == 2
    half = Likeness(tuple(0.0 for _ in NAMES), -0.1, (5, 0)).text()
    weak = like().replace(RIGHTWARDS, half)
    assert changes(weak, entries) == []
    assert len(changes(f"{weak}min_score = 0.4\n", entries)) == 2


def test_visits_that_end_with_the_epoch_count_too() -> None:
    said = {"cache": msgspec.Raw(msgspec.msgpack.encode(LastVisits((visit(3, 20, 7),))))}
    end = End(1, frames=40, last=True, said=said)
    assert len(changes(like(), [*frames(), ("door", end)])) == 2


def test_a_killed_stage_gives_the_same_changes() -> None:
    """The state goes through the store after every frame."""
    whole = changes(like(), [*frames(visit(3, 20, 7))])
    state = EventsState()
    given: list[Change] = []
    for entry in frames(visit(3, 20, 7)):
        judge = RuleJudge(rules(like()), "door")
        state = records.decode(records.encode(state), EventsState)
        said, state = judge.judge(entry, state)
        if said is not None:
            given += said.changes
    assert given == whole
