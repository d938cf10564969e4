"""A stage that is written for one frame at a time, called with batches as the engine calls it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from framegate.pipeline.contracts.records import Position, Record
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.contracts.stage import WAITS, Item, NoOptions, NoState, Stage
from framegate.pipeline.engine.context_alone import context_alone


class Sum(msgspec.Struct, frozen=True):
    """Numbers of the frames so far, added up."""

    total: int = 0


class Adds(Stage[Sum]):
    """Gives the sum so far; a frame of `waits` has to wait, one of `bad` fails."""

    State = Sum
    waits: frozenset[int] = frozenset()
    bad: frozenset[int] = frozenset()

    def each(self, item: Item, state: Sum) -> tuple[Any, Sum]:
        if item.record.number in self.bad:
            raise RuntimeError(item.record.number)
        total = state.total + item.record.number
        return WAITS if item.record.number in self.waits else total, Sum(total)


class Nothing(Stage[NoState]):
    """Has neither method."""


def stage(kind: type[Stage[Any]]) -> Any:
    context = context_alone(None, lambda: 0.0, Path(), "decode")  # type: ignore[arg-type]
    return kind(NoOptions(), context)


def batch(*frames: tuple[str, int]) -> list[Item]:
    return [
        Item(source, Position(1, n), Record(1, None, 0.0, 0.0, n, Form(2, 2)))
        for source, n in frames
    ]


def call(adds: Adds, items: Sequence[Item]) -> tuple[Sequence[Any], Mapping[str, Sum]]:
    return adds.process(items, {"a": Sum(), "b": Sum(100)})


def test_each_source_has_its_own_state_and_outputs_come_in_order_of_the_batch() -> None:
    outputs, states = call(stage(Adds), batch(("a", 1), ("b", 5), ("a", 2), ("b", 6), ("a", 3)))
    assert outputs == [1, 105, 3, 111, 6]
    assert states == {"a": Sum(6), "b": Sum(111)}


def test_the_states_that_were_given_are_left_as_they_are() -> None:
    given = {"a": Sum(1)}
    stage(Adds).process(batch(("a", 1)), given)
    assert given == {"a": Sum(1)}


def test_frames_behind_one_that_waits_wait_as_well_but_not_those_of_other_sources() -> None:
    adds = stage(Adds)
    adds.waits = frozenset({2})
    outputs, states = call(adds, batch(("a", 1), ("a", 2), ("b", 5), ("a", 3), ("b", 6)))
    assert outputs == [1, WAITS, 105, WAITS, 111]
    assert states == {"a": Sum(1), "b": Sum(111)}, "as after the last frame that does not wait"


def test_an_exception_reaches_the_engine_which_tries_the_frames_one_by_one() -> None:
    adds = stage(Adds)
    adds.bad = frozenset({2})
    with pytest.raises(RuntimeError):
        call(adds, batch(("a", 1), ("a", 2)))


def test_a_stage_without_a_method_is_told_which_it_needs() -> None:
    with pytest.raises(TypeError, match="Nothing has neither a method each nor process"):
        stage(Nothing).process(batch(("a", 1)), {"a": NoState()})
