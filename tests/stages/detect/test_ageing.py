"""How old what is known gets before it is looked at again, and how long what changed may wait."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from framegate.models.gate import crops
from framegate.models.gate.crops import Merged
from framegate.stages.detect.estimate import patience_after
from framegate.stages.detect.memory import SourceMemory
from tests.support.told_source import FPS, THING, Source, areas, boxes, picture


def gaps(source: Source, frames: int) -> list[float]:
    """Seconds between looks at THING, which stands still; the whole frame is seen every ten."""
    source.settle(THING)
    last = whole = source.frame
    found = []
    for _ in range(frames):
        plan, told = source.see(picture(), THING)
        if plan.looks and (areas(plan)[:, 0] <= THING[0]).any():
            found.append((source.frame - last) / FPS)
            last = source.frame
        whole = source.frame if plan.looked == "whole" else whole
        assert source.frame - whole < 10.0 * FPS
        assert len(told.shown) == 1
    return found


@pytest.mark.parametrize("doubtful", [False, True])
def test_an_object_is_looked_at_again_within_a_second(doubtful: bool) -> None:
    """Law 8: one that may move, and one of which it is hardly sure."""
    source = Source() if doubtful else Source(still_age_s=1.0)
    if doubtful:
        shown = source.settings.calm.shown
        for n in range(24):  # a first look must be surer
            source.score = shown + (0.06 if n == 0 else 0.01)
            source.see(picture((320, 120, 380, 180 + n % 4)), THING)
    assert max(gaps(source, 12 * FPS)) <= 1.0


def test_what_surely_stands_still_is_trusted_for_as_long_again() -> None:
    source = Source()
    found = gaps(source, 40 * FPS)
    assert found[0] <= 1.0
    assert 5.0 < max(found) <= 10.0
    stood = 10 / FPS  # of settling
    for gap in found:
        assert gap <= max(1.0, stood) + 1 / FPS
        stood += gap


def test_what_moved_is_not_trusted_as_what_stood() -> None:
    """After half a minute at one place: an object that went elsewhere is seen within a second."""
    source = Source()
    gaps(source, 30 * FPS)
    there = (100.0, 100.0, 200.0, 200.0)
    moved = picture((100, 100, 200, 200), (300, 100, 400, 200))
    looked = [source.see(moved, there)[0] for _ in range(int(1.5 * FPS))]
    found = [n for n, each in enumerate(looked) if each.looks]
    seen = [n for n in found if areas(looked[n])[:, 0].min() <= there[0]]
    assert any(FPS // 2 < n <= FPS + seen[0] for n in seen)


def test_nothing_waits_while_an_object_is_too_old() -> None:
    source = Source(object_age_s=0.5, still_age_s=0.5, wait_s=1.0, wait_frames=12)
    there = (20.0, 250.0, 90.0, 340.0)
    for n in range(200):
        left = 200.0 + 0.5 * n
        here = (int(left), 100, int(left) + 100, 200)
        plan, _ = source.see(picture(here), (left, 100.0, left + 100, 200.0), there)
        known = source.memory.known
        ages = plan.now_s - known.seen_s[known.means > 0]
        assert ages.max(initial=0) < 0.5


def steady(source: Source, frames: int) -> float:
    """The patience with a thing that goes on and on."""
    for n in range(frames):
        left = 100.0 + 2 * n
        here = (int(left), 100, int(left) + 100, 200)
        source.see(picture(here), (left, 100.0, left + 100, 200.0))
    return source.memory.patience_s


def test_patience_grows_where_looks_find_what_was_moved_and_is_lost_where_they_do_not() -> None:
    """It is learned from what waiting cost: how much of what was shown a look finds again."""
    source = Source()
    assert steady(source, 120) > 5 / FPS
    memory = source.memory
    now_s = memory.clock_s + 1 / FPS
    told = merged_with(memory, lost=True)
    assert patience_after(replace(memory, waited=4), *told, now_s) == pytest.approx(2 / FPS)
    told = merged_with(memory, lost=False)
    assert patience_after(replace(memory, waited=4), *told, now_s) == memory.patience_s
    patient = replace(memory, waited=20)
    assert patience_after(patient, *told, now_s) == pytest.approx(21 / FPS)
    told = merged_with(memory, lost=True)
    assert patience_after(replace(memory, waited=0), *told, now_s) == memory.patience_s


@pytest.mark.parametrize(("step", "waits"), [(3, True), (4, False)])
def test_a_change_waits_only_if_frames_are_close_together(step: int, waits: bool) -> None:
    """Frames are 0.12 or 0.16 s apart; the object moves by the same number of pixels each time."""
    source = Source()
    reasons = set()
    for n in range(30):
        left = 100.0 + 2 * n
        here = (int(left), 100, int(left) + 100, 200)
        plan, _ = source.see(picture(here), (left, 100.0, left + 100, 200.0), step=step)
        reasons.add(plan.reason)
    assert ("waiting" in reasons) == waits


def merged_with(memory: SourceMemory, lost: bool) -> tuple[Merged, npt.NDArray[np.float32]]:
    """A look at everything that finds all that is known where it is, or nothing of it."""
    known = memory.known.boxes
    found = boxes((500.0, 10.0, 520.0, 30.0)) if lost else known
    return crops.replaced(known, found), np.full(len(found), 0.8, np.float32)
