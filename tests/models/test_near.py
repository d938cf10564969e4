"""Answers to nearly the same picture: none where a cell differs, none that checks speak against."""

from __future__ import annotations

import numpy as np
import pytest

from models import crops
from models.boxes import Boxes, empty
from models.cells import Cells, planes
from models.crops import Look
from models.gate import GateSettings
from models.near import Kind, Near, NearSettings, agree
from models.near_view import view_of
from models.trust import Trust
from models.worth import Worth
from tests.models.gate_scenes import GRID, changed, scene
from tests.models.test_recall import Dictionary

SETTINGS = NearSettings(long_side=416, shown=0.3, error=0.05)
USING = GateSettings()
SIZE = (320, 192)
DOOR = ("door", *SIZE)
WHOLE = crops.whole(*SIZE, 416)
PART = Look((64, 32, 224, 192))


def found(*rows: tuple[float, float, float, float], score: float = 0.8) -> Boxes:
    n = len(rows)
    xyxy = np.array(rows, np.float32).reshape(n, 4)
    return Boxes(xyxy, np.full(n, score, np.float32), np.zeros(n, np.int32))


THING = found((40, 40, 90, 120))
OTHER = found((140, 40, 190, 120))


def seen(
    near: Near,
    cells: Cells,
    answer: Boxes,
    look: Look = WHOLE,
    now: float = 0.0,
    source: str = "door",
) -> str:
    """Look at it: `known`, `checked` or `missed`; the network would answer `answer`."""
    sight = near.see(cells, [look], now, source)
    if sight is None:
        return "skipped"
    if sight.serves:
        return "served"
    near.learn(sight, [answer])
    return "missed" if sight.known is None else "checked"


def noisy(seed: int, cells: Cells | None = None) -> Cells:
    cells = cells or scene()
    noise = np.random.default_rng(seed).integers(-2, 3, cells.levels.size)
    return Cells(cells.grid, (cells.levels + noise).astype(np.uint8))


def trained(memory: Dictionary | None = None) -> Near:
    """It has been right for as long as it takes."""
    near = Near(memory or Dictionary(), b"", SETTINGS, USING)
    seen(near, scene(), THING)
    near.kinds[DOOR] = Kind(Trust("earned"))
    return near


def test_it_is_served_once_it_was_right_often_enough() -> None:
    near = Near(Dictionary(), b"", SETTINGS, USING)
    said = [seen(near, noisy(n), THING) for n in range(200)]
    first = said.index("served")
    assert said[:first] == ["missed"] + ["checked"] * 89
    assert set(said[first:]) == {"served", "checked"}
    assert said[first:].count("checked") in (6, 7)  # one in 16
    assert near.counts.served == said.count("served")


def test_what_is_served_was_found_then() -> None:
    near = trained()
    sight = near.see(noisy(1), [WHOLE], 77.0, "door")
    assert sight is not None
    assert sight.serves
    assert sight.boxes[0].xyxy.tolist() == THING.xyxy.tolist()
    assert sight.age_s == 77.0


def test_a_new_thing_is_never_answered_by_what_is_known() -> None:
    near = trained()
    for n in range(300):
        rng = np.random.default_rng(n)
        row, column = rng.integers(0, GRID.luma[0]), rng.integers(0, GRID.luma[1])
        there = changed(noisy(n), 0, int(row), int(column), int(rng.choice([-13, 13])))
        assert seen(near, there, OTHER) == "missed"
        near.worth = Worth()


def test_what_is_too_old_is_computed_anew() -> None:
    near = trained()
    assert seen(near, noisy(1), THING, now=599.0) == "served"
    assert seen(near, noisy(2), THING, now=600.0) == "missed"
    assert seen(near, noisy(3), THING, now=1199.0) == "served"


def test_what_was_made_after_now_is_computed_anew() -> None:
    """A clock was set back since: how old it is nobody knows, and 0 it is not."""
    near = trained()
    assert seen(near, noisy(1), THING, now=-0.001) == "missed"
    near = trained()
    assert seen(near, noisy(1), THING, now=0.0) == "served"


def test_a_check_makes_it_young_again() -> None:
    near = Near(Dictionary(), b"", SETTINGS, USING)
    seen(near, scene(), THING, now=0.0)
    assert seen(near, noisy(1), THING, now=500.0) == "checked"
    assert seen(near, noisy(2), THING, now=1000.0) == "checked"


def test_errors_end_trust_and_then_the_asking() -> None:
    near = trained()
    said = []
    while "skipped" not in said:
        said.append(seen(near, noisy(len(said) % 50), OTHER if len(said) % 3 == 0 else THING))
    assert near.counts.served < 1000  # some 50 checks, of which most were of what was served
    assert near.kinds[DOOR].trust.standing == "lost"
    assert near.is_off
    assert near.trusted == 0
    after = [seen(near, noisy(n), OTHER) for n in range(320)]
    assert after.count("skipped") == 300
    assert after.count("checked") == 20


def test_sources_that_share_answers_earn_trust_each() -> None:
    """One that is wrong loses its own only, and is looked up less often, not the others."""
    near = trained()
    turns = (OTHER, THING)  # each other than the one before
    said = [seen(near, noisy(n), turns[n % 2], source="gate") for n in range(15)]
    said += [seen(near, noisy(n), turns[n // 16 % 2], source="gate") for n in range(15, 400)]
    assert "served" not in said
    assert said.count("skipped") > 300
    assert not near.is_off
    assert (len(near.kinds), near.trusted) == (2, 1)
    near = trained()
    both = [
        (seen(near, noisy(n), THING), seen(near, noisy(n), THING, source="gate"))
        for n in range(160)
    ]
    assert [one for one, _ in both].count("checked") == 10  # one in 16 of each, whoever else asks
    assert [other for _, other in both].index("served") == 89


def test_trust_that_was_lost_is_won_back() -> None:
    near = trained()
    near.kinds[DOOR] = Kind(Trust("lost", trial=2))
    said = [seen(near, noisy(n), THING) for n in range(3000)]
    assert said.count("skipped") > 500
    assert "served" in said[-100:]


def test_rare_hits_switch_it_off() -> None:
    near = Near(Dictionary(), b"", SETTINGS, USING)
    moving = [scene(seed) for seed in range(40)]
    said = [seen(near, moving[0], THING)]
    for n in range(2100):
        near._memory = Dictionary()  # whatever was seen has gone: nothing is ever known
        said.append(seen(near, moving[n % 40], THING))
    assert said.count("skipped") > 40
    assert said[2060:].count("missed") < 10


def test_all_looks_at_a_frame_must_be_known() -> None:
    near = Near(Dictionary(), b"", SETTINGS, USING)
    near.kinds[DOOR] = Kind(Trust("earned"))
    seen(near, scene(), THING, PART)
    sight = near.see(noisy(1), [PART, WHOLE], 0.0, "door")
    assert sight is not None
    assert sight.known is None
    near.learn(sight, [THING, THING])
    sight = near.see(noisy(2), [PART, WHOLE], 0.0, "door")
    assert sight is not None
    assert sight.serves
    assert len(sight.boxes) == 2


def test_parts_are_alike_whatever_happens_elsewhere() -> None:
    near = trained()
    seen(near, scene(), THING, PART)
    elsewhere = changed(scene(), 0, 1, 1, 60)
    assert view_of(elsewhere, PART, 416, b"").key == view_of(scene(), PART, 416, b"").key
    assert seen(near, elsewhere, THING, PART) == "served"
    row, column = 20, 30
    assert planes(scene().levels, GRID)[0].shape > (row, column)
    assert seen(near, changed(scene(), 0, row, column, 60), OTHER, PART) == "missed"


def test_an_answer_of_a_class_that_there_is_none_of_is_unknown() -> None:
    strange = Boxes(THING.xyxy, THING.scores, np.full(1, 80, np.int32))
    near = Near(Dictionary(), b"", SETTINGS, USING)
    assert seen(near, scene(), strange) == "missed"
    assert seen(near, scene(), THING) == "missed"
    assert seen(near, scene(), THING) == "checked"


def test_kinds_of_frames_are_bounded_and_those_in_use_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.near.MOST_KINDS", 3)
    near = trained()
    for n in range(9):
        seen(near, scene(), THING, source=f"other-{n}")
        assert seen(near, noisy(n), THING) in ("served", "checked")
    assert len(near.kinds) == 3
    assert near.trusted == 1


def test_agreement_is_of_all_that_is_shown() -> None:
    low = found((40, 40, 90, 120), score=0.2)
    assert agree(THING, THING, 0.3)
    assert agree(THING, low, 0.3)  # it is there, only less sure
    assert agree(low, empty(), 0.3)  # nobody is shown it
    assert not agree(THING, empty(), 0.3)
    assert not agree(empty(), THING, 0.3)
    assert not agree(THING, OTHER, 0.3)
    assert not agree(THING, Boxes(THING.xyxy, THING.scores, np.ones(1, np.int32)), 0.3)
    two = found((40, 40, 90, 120), (42, 40, 92, 120))
    assert not agree(two, THING, 0.3)
